"""Draws a few different eligible replicas uniformly, without looking at all of them. Pure, seeded.

Drawn by rejection: a replica that is not eligible is put back, and another drawn. After a bounded number of tries
the rest is looked through once, so that an eligible replica is found whenever there is one. Each way is uniform
over the eligible replicas, and therefore so is the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.policies.policy import IsEligible

Draw = Callable[[], float]
"""`random.Random.random`: several times cheaper than `sample()` or `choice()`; a bias of 2**-53 is none."""

TRIES = 8
"""Replicas are drawn this often before all are looked at (guess: with half of them eligible, one of 256 picks needs more)."""
REPLICAS_A_TRY = 4
"""One more try for so many replicas (guess): a draw costs at most a quarter more than looking through all."""


def draw_one(replicas: Sequence[Replica], is_eligible: IsEligible, draw: Draw) -> Replica | None:
    """Return an eligible replica, None when there is none."""
    count = len(replicas)
    for _ in range(_tries(count)):
        replica = replicas[int(draw() * count)]
        if is_eligible(replica):
            return replica
    eligible = [replica for replica in replicas if is_eligible(replica)]
    return eligible[int(draw() * len(eligible))] if eligible else None


def draw_two(
    replicas: Sequence[Replica], is_eligible: IsEligible, draw: Draw
) -> tuple[Replica, Replica] | None:
    """Return two different eligible replicas, the only one twice, None when there is none."""
    count = len(replicas)
    tries = _tries(count)
    while tries:
        tries -= 1
        at = int(draw() * count)
        first = replicas[at]
        if is_eligible(first):
            break
    else:
        eligible = [replica for replica in replicas if is_eligible(replica)]
        if not eligible:
            return None
        first = eligible.pop(int(draw() * len(eligible)))
        return first, eligible[int(draw() * len(eligible))] if eligible else first
    while tries:
        tries -= 1
        other = int(draw() * (count - 1))
        second = replicas[other + 1 if other >= at else other]
        if is_eligible(second):
            return first, second
    others = [replica for replica in replicas if replica is not first and is_eligible(replica)]
    return first, others[int(draw() * len(others))] if others else first


def draw_some(
    replicas: Sequence[Replica], is_eligible: IsEligible, draw: Draw, wanted: int
) -> list[Replica]:
    """Return `wanted` different eligible replicas in random order, or all when there are not so many."""
    count = len(replicas)
    found: list[Replica] = []
    seen: set[int] = set()
    if count > 2 * wanted:  # with fewer, most tries would meet a replica for the second time
        for _ in range(wanted + _tries(count)):
            at = int(draw() * count)
            if at in seen:
                continue
            seen.add(at)
            if is_eligible(replicas[at]):
                found.append(replicas[at])
                if len(found) == wanted:
                    return found
    rest = [
        replica for at, replica in enumerate(replicas) if at not in seen and is_eligible(replica)
    ]
    while rest and len(found) < wanted:
        at = int(draw() * len(rest))
        found.append(rest[at])
        rest[at] = rest[-1]
        rest.pop()
    return found


def _tries(count: int) -> int:
    return min(count, TRIES) + count // REPLICAS_A_TRY
