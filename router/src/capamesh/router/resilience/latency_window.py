"""Quantiles of a model's latencies of late, from a histogram of fixed size. Pure.

Buckets grow by 10 %, so that a quantile is wrong by at most 5 %; nothing is sorted and nothing is kept of a
single request. Two histograms take turns: the present one fills, the one before it is still read; each lasts
2.5 s where there is traffic, so that 5 s after a change nothing is left of what was before. With little traffic
they last longer, until there is enough to say something, up to 30 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from typing_extensions import override

LEAST_S = 1e-5
MOST_S = 3600.0
"""Samples beyond `LEAST_S` and `MOST_S` count as those (guess: faster is a lie, slower is given up)."""
GROWTH = 1.1
"""The factor from bucket to bucket; the error is half of it, sqrt(1.1) - 1 = 4.9 %."""
TURN_S = 2.5
"""A histogram fills for this long, if it has enough samples by then (guess)."""
ENOUGH = 200
"""Samples (guess: two above the 99th percentile)."""
MOST_TURN_S = 30.0
"""A histogram fills for at most this long (guess)."""
READ_EVERY_S = 0.05
"""A quantile is computed no more often, unless the samples have become twice as many (guess)."""

_PER_NAT = 1.0 / math.log(GROWTH)
_BUCKETS = math.ceil(math.log(MOST_S / LEAST_S) * _PER_NAT) + 1
_MIDDLES: list[float] = [LEAST_S] + [LEAST_S * GROWTH ** (i - 0.5) for i in range(1, _BUCKETS + 1)]
"""The value that stands for a sample of each bucket; the first bucket holds all that is not above `LEAST_S`."""


class Quantiles(dict[float, float]):
    """Latencies in seconds by the part of requests that does not exceed them, each worked out when it is first asked for."""

    __slots__ = ("_work_out",)

    def __init__(self, work_out: Callable[[float], float]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, q: float) -> float:
        latency_s = self[q] = self._work_out(q)
        return latency_s


class LatencyWindow:
    """Latencies of one model, of all its replicas. `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = (
        "_known",
        "_known_count",
        "_known_s",
        "_now",
        "_now_count",
        "_old",
        "_turned_s",
        "count",
    )

    def __init__(self) -> None:
        self._now = [0] * len(_MIDDLES)
        self._old = [0] * len(_MIDDLES)
        self._now_count = 0
        self.count = 0
        """Samples that a quantile would be of, as of the last call."""
        self._turned_s = -math.inf
        self._known = Quantiles(self._quantile)
        self._known_s = -math.inf
        self._known_count = 0

    @override
    def __repr__(self) -> str:
        return f"LatencyWindow({self._now_count} + {self.count - self._now_count} samples)"

    def add(self, seconds: float, now_s: float) -> None:
        """Take in a latency; what is not above 0 counts as the least."""
        if not 0.0 <= now_s - self._turned_s < TURN_S:
            self._turn(now_s)
        if seconds > LEAST_S:
            bucket = 1 + int(math.log(min(seconds, MOST_S) / LEAST_S) * _PER_NAT)
        else:
            bucket = 0
        self._now[bucket] += 1
        self._now_count += 1
        self.count += 1

    def quantile(self, q: float, now_s: float) -> float:
        """Return the latency in seconds that a part `q`, 0 to 1, of requests does not exceed; 0 when empty.

        By nearest rank; up to `READ_EVERY_S` old.
        """
        return self.read(now_s)[q]

    def read(self, now_s: float) -> Quantiles:
        """Return the quantiles that hold now, to be asked at once: what `quantile` returns, of several in one call."""
        if not 0.0 <= now_s - self._turned_s < TURN_S:
            self._turn(now_s)
        known = self._known
        if not 0.0 <= now_s - self._known_s < READ_EVERY_S or self.count > 2 * self._known_count:
            known.clear()
            self._known_s = now_s
            self._known_count = self.count
        return known

    def _quantile(self, q: float) -> float:
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        for middle, now, old in zip(_MIDDLES, self._now, self._old, strict=True):
            rank -= now + old
            if rank <= 0:
                return middle
        return _MIDDLES[-1]

    def _turn(self, now_s: float) -> None:
        filled_s = now_s - self._turned_s
        if filled_s < 0:
            self._turned_s = now_s  # a clock set back: begin the turn anew
            return
        if filled_s < MOST_TURN_S and self._now_count < ENOUGH:
            return
        self._old, self._now = self._now, self._old
        self.count = self._now_count
        self._now_count = 0
        self._now[:] = [0] * len(_MIDDLES)
        if filled_s >= 2 * MOST_TURN_S:
            self._old[:] = self._now
            self.count = 0
        self._turned_s = now_s
        self._known_s = -math.inf
