"""The budget of cross-checks of one model: second opinions on what a node calls the caller's fault. Pure.

They have a budget of their own: callers who are wrong must not spend the retries of those who are not. One costs
no run where the first node is right, for the second refuses the request as well; so time refills it, slowly. One
that proves a node wrong was well spent and is given back.
"""

from __future__ import annotations

import math

from typing_extensions import override

MOST = 50.0
"""Opinions that are there from the first, and at most (guess: as many as there are retries)."""
REGAINED_EACH_S = 1.0
"""One cross-check is regained each this many seconds (guess: a refusal a second more is nothing to a node, and a gray one
is found out within a second)."""
GRAY_S = 60.0
"""A node that was proved wrong is not believed for this long, whatever the budget (guess: twice its first ejection)."""


class Opinions:
    """A balance of second opinions, 0 to `MOST`. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = ("_left", "_seen_s")

    def __init__(self) -> None:
        self._left = MOST
        self._seen_s = -math.inf

    @override
    def __repr__(self) -> str:
        return f"Opinions({self._left:.1f} left)"

    def try_take(self, now_s: float) -> bool:
        """Take one; return False, and take none, when there is none."""
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        self._left = min(MOST, self._left + max(0.0, passed_s) / REGAINED_EACH_S)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """The one that was taken last has proved a node wrong."""
        self._left = min(MOST, self._left + 1.0)
