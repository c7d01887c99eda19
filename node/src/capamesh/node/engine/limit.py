"""How many rows may be in flight at one model before more are refused: what it runs within two seconds. Pure.

Gradient limiters (Netflix's Gradient2 and Vegas, Envoy's gradient controller) search for a limit, because they know
neither what a request takes nor how long it may wait. Here both are known: a row's time on a quiet device is measured
at load, every run tells how fast the device is now, and a queue may take `MAX_QUEUE_S`. So by Little's law the limit is
that time multiplied by the rows that the device has run a second of late. A long-term average, as Gradient2 has it for
what is normal, would take a device that stays slow for normal.
"""

from __future__ import annotations

import math

MAX_QUEUE_S = 2.0
"""No more than a device can run in this time may be in flight (guess: an online caller waits no longer)."""
STOCK_BATCHES = 8
"""But so many batches for each instance, where runs are slow on a device that has all its speed (guess: what deadlines
do not cut short)."""
FALL_S = 0.25
"""The time constant by which the speed follows runs that are slower than it: a queue of two seconds must have shrunk
to a tenth well within the third (measured: test_slow_device.py; with 0.5 the slowest answer takes 3.4 s)."""
RISE_S = 0.5
"""The time constant by which it follows faster ones: longer, so that a queue is not let grow by a few short runs."""
MOST_RISE = 0.5
"""One run closes at most this part of the gap to a higher speed, however long ago the one before it was (guess)."""
MOST_SPEED = 4.0
"""A run counts for at most so many times as fast as expected (guess: a profile taken on a crowded machine); what a
clock that stands still tells is no speed."""


class ConcurrencyLimit:
    """Rows that may be in flight, 1 at least."""

    __slots__ = ("_best_s", "_last_s", "_row_s", "_stock", "rows", "speed")

    def __init__(self, *, full_rows: int, row_s: float) -> None:
        """Start from the profile, with what the device can run within `MAX_QUEUE_S`.

        A limit that starts low and learns would refuse the first burst of every model. `full_rows` run at
        the same time; `row_s` is what one row of them takes on this device, 0 when unknown.
        """
        self._stock = full_rows * STOCK_BATCHES
        self._row_s = row_s
        self._best_s = row_s
        """What a row takes when the device is at its fastest, as far as is known."""
        self._last_s: float | None = None
        self.speed = 1.0
        """Of late, where 1 is what was expected."""
        self.rows = 0
        """The limit now."""
        self._reckon()

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
        passed_s = max(0.0, now_s - last_s) if last_s is not None else run_s
        if speed < self.speed:
            weight = -math.expm1(-min(passed_s, run_s) / FALL_S)
        else:
            weight = min(MOST_RISE, -math.expm1(-passed_s / RISE_S))
        self.speed += weight * (speed - self.speed)
        self._reckon()

    def _reckon(self) -> None:
        row_s = self._row_s / self.speed
        if row_s <= 0:
            self.rows = max(1, self._stock)
            return
        best_s = self._best_s
        if row_s < best_s or best_s <= 0:
            self._best_s = best_s = row_s
        # a slow model's stock of batches is a stock for the device at its best, and as much work when it is slower
        self.rows = max(1, int(MAX_QUEUE_S / row_s + 0.5), int(self._stock * best_s / row_s))
