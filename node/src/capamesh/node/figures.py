"""What a worker counts for each model, and the sums over its lives. Pure.

A worker's message `metrics {models}` has, by "name/version", a map of `requests` and `dropped` (counts by code and by
reason), `rows`, `batches`, `batch_rows`, `queue_s` and `run_s` (histograms: `bounds` ascending, `counts` one more
than `bounds`, `sum`), `memory_bytes`, `in_flight` and `limit`. Counts are since the worker, or the model in it, started.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Key = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a value fell into each bucket."""

    counts: Mapping[float, int]
    """By the bucket's upper bound, which it includes; infinity is the last."""
    sum: float

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Histogram:
        """Return what a worker told; it comes from our own process."""
        bounds = [*map(float, message["bounds"]), math.inf]
        return cls(dict(zip(bounds, message["counts"], strict=True)), float(message["sum"]))

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts.values())

    def cumulative(self) -> list[tuple[float, int]]:
        """Return how many values were at most each bound, the bounds ascending and infinity the last."""
        at_most = 0
        found: list[tuple[float, int]] = []
        for bound in sorted({*self.counts, math.inf}):
            at_most += self.counts.get(bound, 0)
            found.append((bound, at_most))
        return found

    def quantile(self, part: float) -> float | None:
        """Return the value that `part` (0..1) of all values do not exceed, None when there are none.

        Between the bounds of a bucket values are taken as evenly spread, as Prometheus' `histogram_quantile`
        does; of the last bucket only its lower bound is known.
        """
        rank = part * self.count
        if not self.count:
            return None
        below, low = 0, 0.0
        for bound, at_most in self.cumulative():
            if at_most >= rank and at_most > below:
                if bound == math.inf:
                    return low
                return low + (bound - low) * (rank - below) / (at_most - below)
            below, low = at_most, bound
        return low

    def __add__(self, other: Histogram) -> Histogram:
        """Return both together; where their bounds differ, each value stays at the bound it was counted under."""
        counts = {
            bound: self.counts.get(bound, 0) + other.counts.get(bound, 0)
            for bound in {**self.counts, **other.counts}
        }
        return Histogram(counts, self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What was counted for one model on one device, and how it is with it now."""

    requests: Mapping[str, int]
    """Answered, by code; "ok" for the good ones."""
    dropped: Mapping[str, int]
    """Not run although they had been taken, by reason."""
    rows: int
    batches: int
    batch_rows: Histogram
    queue_s: Histogram
    run_s: Histogram
    memory_bytes: int
    """0: unknown, or not in memory."""
    in_flight: int
    limit: int
    """Of `in_flight`."""

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ModelFigures:
        """Return what a worker told; it comes from our own process."""
        return cls(
            requests=dict(message["requests"]),
            dropped=dict(message["dropped"]),
            rows=message["rows"],
            batches=message["batches"],
            batch_rows=Histogram.from_message(message["batch_rows"]),
            queue_s=Histogram.from_message(message["queue_s"]),
            run_s=Histogram.from_message(message["run_s"]),
            memory_bytes=message["memory_bytes"],
            in_flight=message["in_flight"],
            limit=message["limit"],
        )

    def is_continued_by(self, later: ModelFigures) -> bool:
        """Whether `later` may have gone on from here, or else counts from 0 again."""
        return all(
            after >= before
            for before, after in (
                (sum(self.requests.values()), sum(later.requests.values())),
                (sum(self.dropped.values()), sum(later.dropped.values())),
                (self.rows, later.rows),
                (self.batches, later.batches),
                (self.queue_s.count, later.queue_s.count),
                (self.run_s.count, later.run_s.count),
            )
        )

    def at_rest(self) -> ModelFigures:
        """Return the counts alone, for the model is not there any more."""
        return replace(self, memory_bytes=0, in_flight=0, limit=0)

    def __add__(self, later: ModelFigures) -> ModelFigures:
        """Return the counts of both, and the present as `later` says it."""
        return replace(
            later,
            requests=_sum(self.requests, later.requests),
            dropped=_sum(self.dropped, later.dropped),
            rows=self.rows + later.rows,
            batches=self.batches + later.batches,
            batch_rows=self.batch_rows + later.batch_rows,
            queue_s=self.queue_s + later.queue_s,
            run_s=self.run_s + later.run_s,
        )


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """One worker as it is now, for metrics and status."""

    number: int
    is_up: bool
    starts: int
    models: Mapping[Key, ModelFigures]


class WorkerFigures:
    """One worker's counts over all its lives: they never go down."""

    def __init__(self) -> None:
        self._ended: dict[Key, ModelFigures] = {}
        self._latest: dict[Key, ModelFigures] = {}

    def told(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over a `metrics` message's models."""
        gone = set(self._latest)
        for named, message in models.items():
            name, _, version = named.rpartition("/")
            key, latest = (name, version), ModelFigures.from_message(message)
            gone.discard(key)
            before = self._latest.get(key)
            if before is not None and not before.is_continued_by(latest):
                self._end(key)
            self._latest[key] = latest
        for key in gone:
            self._latest[key] = self._latest[key].at_rest()

    def ended(self) -> None:
        """The worker is down; its next life counts from 0."""
        for key in list(self._latest):
            self._end(key)

    def models(self) -> dict[Key, ModelFigures]:
        """Return each model's sums and present."""
        return {
            **self._ended,
            **{
                key: self._ended[key] + latest if key in self._ended else latest
                for key, latest in self._latest.items()
            },
        }

    def _end(self, key: Key) -> None:
        last = self._latest.pop(key).at_rest()
        self._ended[key] = self._ended[key] + last if key in self._ended else last


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(first) + Counter(second))
