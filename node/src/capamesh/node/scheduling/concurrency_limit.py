"""Limits the rows in flight at one model before more are refused: what it runs within two seconds. Pure.

Gradient limiters (Netflix's Gradient2 and Vegas, Envoy's gradient controller) search for a limit, because they know
neither what a request takes nor how long it may wait. Here both are known: a row's time on a quiet device is measured
at load, every run tells how fast the device is now, and a queue may take `MAX_QUEUE_S`. So by Little's law the limit is
that time multiplied by the rows that the device has run a second of late. A long-term average, as Gradient2 has it for
what is normal, would take a device that stays slow for normal.
"""

from __future__ import annotations

import math
from math import expm1
from typing import Final

from typing_extensions import override

MAX_QUEUE_S: Final = 2.0
"""No more than a device can run in this time may be in flight (guess: an online caller waits no longer)."""
STOCK_BATCHES: Final = 8
"""The batches for each instance that are let in at least, where runs are slow on a device that has all its speed (guess: what
deadlines do not cut short)."""
FALL_S: Final = 0.25
"""The time constant by which the speed follows runs that are slower than it: a queue of two seconds must have shrunk
to a tenth well within the third (measured: test_slow_device.py; with 0.5 the slowest answer takes 3.4 s)."""
RISE_S: Final = 0.5
"""The time constant by which it follows faster ones: longer, so that a queue is not let grow by a few short runs."""
MOST_RISE: Final = 0.5
"""One run closes at most this part of the gap to a higher speed, however long ago the one before it was (guess)."""
MOST_SPEED: Final = 4.0
"""A run counts for at most so many times as fast as expected (guess: a profile taken on a crowded machine); what a
clock that stands still tells is no speed."""


class ConcurrencyLimit:
    """Rows that may be in flight, 1 at least."""

    __slots__ = ("_best_s", "_last_s", "_most_speed", "_row_s", "_stock", "_usual", "rows", "speed")

    def __init__(self, *, full_rows: int, row_s: float) -> None:
        """Start from the profile, with what the device can run within `MAX_QUEUE_S`.

        A limit that starts low and learns would refuse the first burst of every model. `full_rows` run at
        the same time; `row_s` is what one row of them takes on this device, 0 when unknown.
        """
        self._stock = full_rows * STOCK_BATCHES
        self._row_s = row_s
        self._best_s = row_s
        """The time of a row when the device is at its fastest, as far as is known."""
        self._most_speed = 1.0
        """The speed from which on a row takes less than that."""
        self._last_s: float | None = None
        self.speed = 1.0
        """The speed of late, where 1 is what was expected."""
        self._usual = 0.0
        """The limit at speed 1."""
        self.rows = 0
        """The limit now."""
        self._reckon()

    @override
    def __repr__(self) -> str:
        return f"ConcurrencyLimit({self.rows} rows at {self.speed:.2f} of the expected speed)"

    @property
    def row_s(self) -> float:
        """Seconds for a row now where many wait; 0: unknown."""
        return self._row_s / self.speed

    def learnt(self, row_s: float) -> None:
        """Take over what a row of a model without a profile takes, as its latest runs tell."""
        self._row_s = row_s
        self._reckon()

    def ran(self, slowdown: float, run_s: float, now_s: float) -> None:
        """Take a run into account that took `run_s`, `slowdown` times as long as expected.

        Each run counts by the time since the run before, so that what is averaged is rows a second and not runs. A
        pause before a slow run is no part of it: one hiccup on an idle device says little.
        """
        speed = 1.0 / slowdown if slowdown * MOST_SPEED > 1.0 else MOST_SPEED
        last_s, self._last_s = self._last_s, now_s
        passed_s = run_s if last_s is None else now_s - last_s
        passed_s = max(passed_s, 0.0)
        before = self.speed
        if speed < before:
            weight = -expm1(-(min(run_s, passed_s)) / FALL_S)
        else:
            weight = -expm1(-passed_s / RISE_S)
            weight = min(weight, MOST_RISE)
        self.speed = speed = before + weight * (speed - before)
        if speed > self._most_speed:
            self._reckon()
        else:
            self.rows = int(speed * self._usual + 0.5) or 1

    def _reckon(self) -> None:
        if self._row_s <= 0:
            self._usual = float(self._stock)
            self._most_speed = math.inf
            self.rows = int(self.speed * self._usual + 0.5) or 1
            return
        row_s = self._row_s / self.speed
        if row_s < self._best_s or self._best_s <= 0:
            self._best_s = row_s
        self._most_speed = self._row_s / self._best_s
        # a slow model's stock of batches is a stock for the device at its best, and as much work when it is slower
        self._usual = max(MAX_QUEUE_S, self._stock * self._best_s) / self._row_s
        self.rows = int(self.speed * self._usual + 0.5) or 1
