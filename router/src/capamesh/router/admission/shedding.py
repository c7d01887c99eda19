"""Decides which classes of requests give way first as the nodes fill up, and how many of each. Pure.

A class is a priority, 0 (first) to 255. Calls of batch jobs have none, and are let in by `bulk`:

    urgent    below 128    when all is full, and a little more for what may just have become free
    online    128          when all is full; while urgent ones come, when all but their reserve is
    low       above 128    some at random, more the fuller and the lower: p = min(k * level ** 5, 1); of those of 255, as
                           copies for a shadow version have, all from a level of 0.32

llm-d's admission has that formula and k = 300 for its sheddable class. For higher priorities k falls to 1 towards
128. A node's slots are at least eight full batches, or two seconds of work, so a third of them keeps it busy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from typing_extensions import override

from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY

POWER = 5
MOST_K = 300.0
"""Both as in llm-d."""
FULL = 1.0
OVERSHOOT = 0.05
"""The part beyond what is free, as far as is known, that may be tried for urgent requests (guess: reports lag)."""
RESERVE = 0.05
"""The part of the slots that is kept free for urgent requests while such come (guess)."""
RESERVED_S = 10.0
"""Seconds after the last urgent request for which the reserve is kept (guess)."""


class Rank(IntEnum):
    """The classes, the first to be shed last."""

    URGENT = 0
    ONLINE = 1
    LOW = 2


# Names of their own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured).
URGENT: Final = Rank.URGENT
ONLINE: Final = Rank.ONLINE


def rank_of(priority: int) -> Rank:
    """Return the class of a request."""
    if priority == DEFAULT_PRIORITY:
        return Rank.ONLINE
    return Rank.URGENT if priority < DEFAULT_PRIORITY else Rank.LOW


def shed_probability(level: float, priority: int) -> float:
    """Return which part of the low requests is shed at `level`, 0 to 1; `priority` is not below 128.

    Never less at a higher level or a lower class.
    """
    return min(1.0, steepness(priority) * max(0.0, level) ** POWER)


def steepness(priority: int) -> float:
    """Return k, 1 to `MOST_K`; `priority` is not below 128."""
    return math.pow(MOST_K, (priority - DEFAULT_PRIORITY) / (MAX_PRIORITY - DEFAULT_PRIORITY))


class Shedding:
    """Decides by class. `now_s` is the caller's clock."""

    __slots__ = ("_urgent_s",)

    def __init__(self) -> None:
        self._urgent_s = -math.inf

    @override
    def __repr__(self) -> str:
        return f"Shedding(last urgent request at {self._urgent_s:.1f} s)"

    def limit(self, rank: Rank, priority: int, now_s: float) -> float:
        """Return the level from which a class is shed, or for the low ones from which half of it is."""
        match rank:
            case Rank.URGENT:
                return FULL + OVERSHOOT
            case Rank.ONLINE:
                return FULL - RESERVE if 0 <= now_s - self._urgent_s < RESERVED_S else FULL
            case Rank.LOW:
                k = steepness(priority)
                return math.pow(0.5 / k, 1 / POWER)  # below the online ones' limit, as k is above 1

    def is_shed(
        self, rank: Rank, priority: int, level: float, now_s: float, draw: Callable[[], float]
    ) -> bool:
        """Return whether a request that comes at `level` is shed.

        `draw` returns a random number from 0 to 1, and is called only where chance decides.
        """
        if rank is Rank.URGENT:
            return level >= FULL + OVERSHOOT
        if level >= self.limit(Rank.ONLINE, priority, now_s):
            return True
        if rank is Rank.ONLINE:
            return False
        p = shed_probability(level, priority)
        return p > 0 and draw() < p

    def urgent_came(self, now_s: float) -> None:
        """Keep the reserve for urgent requests for a while: one has come."""
        self._urgent_s = now_s
