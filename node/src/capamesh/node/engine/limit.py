"""How many rows may be in flight at one model before more are refused. Pure.

Netflix's Gradient2 (concurrency-limits, `Gradient2Limit`), fed with the queue-free run time over what was
expected for that many rows: else every full batch would look like congestion. Its floor of 20 and its fixed
queue of 4 do not suit one device: the floor is 1 and the queue is the square root, as Envoy's gradient
controller has it, but scaled by the gradient, or congestion without end would leave 4 rows.
"""

from __future__ import annotations

import math

TOLERANCE = 1.5
"""A slowdown up to this is no congestion (Gradient2)."""
LONG_SAMPLES = 600
"""The long average's window (Gradient2)."""
SMOOTHING = 0.2
"""Weight of a new limit (Gradient2)."""
WINDOW_S = 1.0
"""Gradient2's sample window."""
WINDOW_RUNS = 10
"""Gradient2's least samples of a window."""
RECOVERY = 0.95
"""The long average falls by this when it is over twice the short one (Gradient2)."""
MAX_QUEUE_S = 2.0
"""No more than a device can run in this time may be in flight (guess: an online caller waits no longer)."""
STOCK_BATCHES = 8
"""But so many batches for each instance, where runs are slow (guess: what deadlines do not cut short)."""


class ConcurrencyLimit:
    """Rows that may be in flight, 1 at least."""

    def __init__(self, *, full_rows: int, row_s: float) -> None:
        """Start from the profile, with what the device can run within `MAX_QUEUE_S`.

        A limit that starts low and learns would refuse the first burst of every model. `full_rows` run at
        the same time; `row_s` is what one row of them takes on this device, 0 when unknown.
        """
        in_time = round(MAX_QUEUE_S / row_s) if row_s > 0 else 0
        self.ceiling = max(full_rows * STOCK_BATCHES, in_time)
        self._limit = float(self.ceiling)
        self._long = 0.0
        self._samples = 0
        self._window_sum = 0.0
        self._window_runs = 0
        self._window_end_s = -math.inf

    def __repr__(self) -> str:
        return f"ConcurrencyLimit({self.rows} of at most {self.ceiling} rows)"

    @property
    def rows(self) -> int:
        """The limit now."""
        return max(1, int(self._limit))

    def learnt(self, row_s: float) -> None:
        """Raise the ceiling of a model without a profile, now that a row is known to take `row_s`."""
        ceiling = round(MAX_QUEUE_S / row_s) if row_s > 0 else 0
        if ceiling > self.ceiling:
            self._limit += ceiling - self.ceiling
            self.ceiling = ceiling

    def ran(self, slowdown: float, rows_in_flight: int, now_s: float) -> None:
        """Take a run into account: how many times longer than expected it took, and the load beside it."""
        self._window_sum += slowdown
        self._window_runs += 1
        if now_s < self._window_end_s or self._window_runs < WINDOW_RUNS:
            return
        short = self._window_sum / self._window_runs
        self._window_sum, self._window_runs = 0.0, 0
        self._window_end_s = now_s + WINDOW_S
        self._update(short, rows_in_flight)

    def _update(self, short: float, rows_in_flight: int) -> None:
        self._samples += 1
        # a young average follows its samples; later it is exponential over the window
        weight = max(1 / self._samples, 2 / (LONG_SAMPLES + 1))
        self._long += weight * (short - self._long)
        if self._long > 2 * short:
            self._long *= RECOVERY
        if rows_in_flight < self._limit / 2:
            return  # the callers are the limit
        gradient = min(1.0, max(0.5, TOLERANCE * self._long / short)) if short > 0 else 1.0
        target = (self._limit + math.sqrt(self._limit)) * gradient
        smoothed = (1 - SMOOTHING) * self._limit + SMOOTHING * target
        self._limit = min(max(smoothed, 1.0), float(self.ceiling))
