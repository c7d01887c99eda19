"""Tells whether a store that has been slow of late may be asked: a circuit breaker. Pure."""

from __future__ import annotations

import math
from typing import Final

LATE_IN_A_ROW: Final = 5
"""The times in a row that the store was late which open the breaker (guess)."""
PAUSE_S: Final = 1.0
"""The breaker stays open for so long at first, then twice as long each time that the trial is late, up to `MOST_PAUSE_S` (guess)."""
MOST_PAUSE_S: Final = 30.0


class Breaker:
    """The breaker of one store. Every `now_s` is in seconds of the caller's clock, which never goes back."""

    __slots__ = ("_late", "_pause_s", "_until_s")

    def __init__(self) -> None:
        self._late = 0
        self._pause_s = PAUSE_S
        self._until_s = -math.inf

    def is_open(self, now_s: float) -> bool:
        """Return whether the store is to be left alone."""
        return now_s < self._until_s

    def may_ask(self, now_s: float) -> bool:
        """Return whether the store may be asked once: after a pause one request tries, and others wait for what becomes of it."""
        if now_s < self._until_s:
            return False
        if self._late >= LATE_IN_A_ROW:
            self._until_s = now_s + self._pause_s
        return True

    def was_in_time(self) -> None:
        """Take in that the store has replied in time."""
        self._late = 0
        self._pause_s = PAUSE_S
        self._until_s = -math.inf

    def was_late(self, now_s: float) -> None:
        """Take in that the store has not."""
        self._late += 1
        if self._late >= LATE_IN_A_ROW:
            self._until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
