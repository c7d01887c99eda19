"""Draws a few different eligible hosts uniformly, without looking at all of them. Pure, seeded.

Drawn by rejection: a host that is not eligible is put back, and another drawn. After a bounded number of tries
the rest is looked through once, so that an eligible host is found whenever there is one. Each way is uniform
over the eligible hosts, and therefore so is the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Host
    from capamesh.router.policies.policy import IsEligible

Draw = Callable[[], float]
"""`random.Random.random`: several times cheaper than `sample()` or `choice()`; a bias of 2**-53 is none."""

TRIES = 8
"""Guess: with half of the hosts eligible, one draw in 256 is in vain so often."""
HOSTS_A_TRY = 4
"""One more try for so many hosts (guess): a draw costs at most a quarter more than looking through all."""


def draw_one(hosts: Sequence[Host], is_eligible: IsEligible, draw: Draw) -> Host | None:
    """Return an eligible host, None when there is none."""
    count = len(hosts)
    for _ in range(_tries(count)):
        host = hosts[int(draw() * count)]
        if is_eligible(host):
            return host
    eligible = [host for host in hosts if is_eligible(host)]
    return eligible[int(draw() * len(eligible))] if eligible else None


def draw_two(
    hosts: Sequence[Host], is_eligible: IsEligible, draw: Draw
) -> tuple[Host, Host] | None:
    """Return two different eligible hosts, the only one twice, None when there is none."""
    count = len(hosts)
    tries = _tries(count)
    while tries:
        tries -= 1
        at = int(draw() * count)
        first = hosts[at]
        if is_eligible(first):
            break
    else:
        eligible = [host for host in hosts if is_eligible(host)]
        if not eligible:
            return None
        first = eligible.pop(int(draw() * len(eligible)))
        return first, eligible[int(draw() * len(eligible))] if eligible else first
    while tries:
        tries -= 1
        other = int(draw() * (count - 1))
        second = hosts[other + 1 if other >= at else other]
        if is_eligible(second):
            return first, second
    others = [host for host in hosts if host is not first and is_eligible(host)]
    return first, others[int(draw() * len(others))] if others else first


def draw_some(
    hosts: Sequence[Host], is_eligible: IsEligible, draw: Draw, wanted: int
) -> list[Host]:
    """Return `wanted` different eligible hosts in random order, or all when there are not so many."""
    count = len(hosts)
    found: list[Host] = []
    seen: set[int] = set()
    if count > 2 * wanted:  # with fewer, most tries would meet a host for the second time
        for _ in range(wanted + _tries(count)):
            at = int(draw() * count)
            if at in seen:
                continue
            seen.add(at)
            if is_eligible(hosts[at]):
                found.append(hosts[at])
                if len(found) == wanted:
                    return found
    rest = [host for at, host in enumerate(hosts) if at not in seen and is_eligible(host)]
    while rest and len(found) < wanted:
        at = int(draw() * len(rest))
        found.append(rest[at])
        rest[at] = rest[-1]
        rest.pop()
    return found


def _tries(count: int) -> int:
    return min(count, TRIES) + count // HOSTS_A_TRY
