"""The checks of the clock, of a join token, and of who can be reached. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from capamesh.cli.checkup.findings import Finding, fail, ok, skip, warn

WRONG_S: Final = 60.0
"""The difference from which members call a clock wrong, too."""
OFF_S: Final = 5.0
"""A guess: a Date header is exact to a second, and its answer takes less than some more."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The facts of this machine's clock."""

    ahead_s: float | None = None
    """The seconds by which it is ahead of the router's; None: no router told its time."""
    is_synchronised: bool | None = None
    """True where the system says that it follows a time server; None: it does not say."""


@dataclass(frozen=True, slots=True)
class Reach:
    """One address that was dialled."""

    address: str
    problem: str
    """The reason why no connection came about; empty where one did."""


def check_clock(clock: Clock) -> Finding:
    """Return whether this machine's clock can be trusted."""
    name, line = "clock", "sudo timedatectl set-ntp true"
    if clock.ahead_s is not None:
        off = abs(clock.ahead_s)
        side = "ahead of" if clock.ahead_s > 0 else "behind"
        seen = f"{off:.0f} s {side} the router's"
        if off > WRONG_S:
            return fail(name, f"{seen}; memberships and adverts are judged by it", line)
        if off > OFF_S:
            return warn(name, seen, line)
        return ok(name, "as the router's")
    match clock.is_synchronised:
        case True:
            return ok(name, "follows a time server")
        case False:
            return warn(name, "follows no time server", line)
        case None:
            return skip(
                name, "the system does not say; give --router URL to compare with a router's"
            )


def check_token(problem: str, described: str) -> Finding:
    """Return whether a join token can be used; `described` says whom it admits."""
    if problem:
        return fail("token", problem, "capamesh network token --dir OWNER --role node")
    return ok("token", described)


def check_reach(reached: tuple[Reach, ...]) -> tuple[Finding, ...]:
    """Return a finding for each address that was dialled."""
    if not reached:
        return (skip("network", "no address is known; give --router URL or --token-file FILE"),)
    return tuple(_reach(each) for each in reached)


def _reach(reach: Reach) -> Finding:
    name = f"reach {reach.address}"
    if reach.problem:
        host, _, port = reach.address.rpartition(":")
        return fail(
            name, reach.problem, f"nc -vz {shlex.quote(host.strip('[]'))} {shlex.quote(port)}"
        )
    return ok(name, "connects")
