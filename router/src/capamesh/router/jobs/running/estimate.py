"""Tells when a job ends: promised at its submission, and kept true while it runs. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_S: Final = 300.0
"""Seconds whose results are counted: long enough for a few shards (guess)."""
LEAST_S: Final = 0.2
"""Seconds between two commits from which on they tell the rate: less than two looks (`runner.MEASURE_S`)."""
MOST_SAMPLES: Final = 300


def promised_s(rows: int, rows_ahead: int, idle_rows_per_s: float) -> float:
    """Return the seconds that a job takes at the idle capacity measured lately, after the rows of jobs before it; inf: nothing is idle."""
    total = rows + rows_ahead
    if total == 0:
        return 0.0
    return total / idle_rows_per_s if idle_rows_per_s > 0 else math.inf


class Estimate:
    """The rate of one job, from one commit to another. Every `now_s` is on a clock that never goes back.

    It is measured from the first commit that was seen on: what came before has the start of the job in it, and rows that were at work
    then. Only until there is another, it is measured from the beginning, if that was seen.
    """

    def __init__(self) -> None:
        self._grown: deque[tuple[float, int]] = deque(maxlen=MOST_SAMPLES)
        """The times at which more rows were done than before, and how many."""
        self._longest_s = 0.0
        """The longest time from one of them to the next."""
        self._done_rows = -1
        self._began_s: float | None = None
        """The time of the first look, if nothing was done then."""
        self._seen_s = 0.0

    def observe(self, done_rows: int, now_s: float) -> None:
        """Take in how many rows are done."""
        self._seen_s = now_s
        if self._done_rows < 0:
            self._done_rows = done_rows
            self._began_s = None if done_rows else now_s
        if done_rows <= self._done_rows:  # a part of the count may be late
            return
        self._done_rows = done_rows
        grown = self._grown
        if grown:
            self._longest_s = max(self._longest_s, now_s - grown[-1][0])
        if len(grown) > 1 and now_s - grown[-2][0] < WINDOW_S / MOST_SAMPLES:
            grown.pop()
        grown.append((now_s, done_rows))
        while grown[0][0] < now_s - WINDOW_S:
            grown.popleft()

    def rows_per_s(self) -> float | None:
        """Return the rate; None: too little is known. It falls while nothing is done for longer than ever."""
        if not self._grown:
            return None
        (from_s, before), (to_s, after) = self._grown[0], self._grown[-1]
        if to_s - from_s < LEAST_S:
            if self._began_s is None:
                return None
            from_s, before = self._began_s, 0
        still_s = max(0.0, self._seen_s - to_s - self._longest_s)
        return (after - before) / (to_s - from_s + still_s)

    def left_s(self, rows_left: int) -> float | None:
        """Return the seconds until the end; None: nobody can tell, for too little is known."""
        if rows_left <= 0:
            return 0.0
        rate = self.rows_per_s()
        return rows_left / rate if rate else None
