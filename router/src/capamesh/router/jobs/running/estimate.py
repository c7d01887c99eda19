"""Tells when a job ends: promised at its submission, and kept true while it runs. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_S: Final = 300.0
"""Seconds whose results are counted: long enough for a few shards (guess)."""
LEAST_S: Final = 10.0
"""Seconds of results before which nothing is said (guess: two shards)."""
MOST_SAMPLES: Final = 300


def promised_s(rows: int, rows_ahead: int, idle_rows_per_s: float) -> float:
    """Return the seconds that a job takes at the idle capacity measured lately, after the rows of jobs before it; inf: nothing is idle."""
    total = rows + rows_ahead
    if total == 0:
        return 0.0
    return total / idle_rows_per_s if idle_rows_per_s > 0 else math.inf


class Estimate:
    """The rate of one job, from its results of late. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=MOST_SAMPLES)

    def observe(self, done_rows: int, now_s: float) -> None:
        """Take in how many rows are done; asked more often than once a second it is no more exact."""
        samples = self._samples
        if samples and done_rows < samples[-1][1]:  # a part of the count was late
            return
        if len(samples) > 1 and now_s - samples[-2][0] < WINDOW_S / MOST_SAMPLES:
            samples.pop()
        samples.append((now_s, done_rows))
        while samples[0][0] < now_s - WINDOW_S:
            samples.popleft()

    def rows_per_s(self) -> float | None:
        """Return the rate; None: too little is known."""
        if not self._samples:
            return None
        (from_s, before), (to_s, after) = self._samples[0], self._samples[-1]
        return (after - before) / (to_s - from_s) if to_s - from_s >= LEAST_S else None

    def left_s(self, rows_left: int) -> float | None:
        """Return the seconds until the end; None: nobody can tell, for too little is known or nothing moves."""
        if rows_left <= 0:
            return 0.0
        rate = self.rows_per_s()
        return rows_left / rate if rate else None
