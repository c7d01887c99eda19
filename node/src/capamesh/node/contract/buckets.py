"""Counts values by size. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Buckets:
    """Counts of values in buckets; the agent makes a `metrics.totals.Histogram` of them."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Take the upper bounds, ascending; one bucket more is for what is above all of them."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count `value`; a bound belongs to the bucket below it, as Prometheus has it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def snapshot(self) -> dict[str, object]:
        """Return it as plain values; the last count is of what is above all bounds."""
        return {"bounds": list(self._bounds), "counts": list(self.counts), "sum": self.total}
