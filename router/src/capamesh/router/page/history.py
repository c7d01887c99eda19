"""The last day of a router in bins of ten seconds: requests, errors, latencies, nodes. Holds state, does no IO.

It is read off counters that exist anyway, at every turn of a timer; a request pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from capamesh.protocol.ids import ModelName

if TYPE_CHECKING:
    from numpy.typing import NDArray

BIN_S: Final = 10.0
"""Seconds of a bin."""
BINS: Final = 8640
"""The bins of a day."""
MOST_MODELS: Final = 48
"""The most models with a history of their own: with the router's 7 series these are 199, of 35 KB each."""
IDLE_S: Final = 3600.0
"""A model that had no request for so long gives its place to one that has (guess)."""
MOST_POINTS: Final = 720
"""The most points that are told of a series: more than a chart has pixels to show."""
MEASURES: Final = ("requests_per_s", "errors_per_s", "p50_us", "p99_us")
"""The measures that are kept of a model."""
ROUTER_MEASURES: Final = (*MEASURES, "requests_in_flight", "nodes", "nodes_usable")
"""The measures that are kept of the router as a whole."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts of a router since it was started, and how its nodes are now."""

    latencies: Mapping[ModelName, Sequence[int]]
    """The number of answered requests of each model, by bucket of latency."""
    refused: Mapping[tuple[str, str], int]
    """The number of requests answered with an error, by model and code."""
    requests_in_flight: int
    nodes: int
    nodes_usable: int


class _Series:
    """The bins of one model, or of the router, for each of its measures."""

    def __init__(self, measures: Sequence[str], bins: int) -> None:
        self.measures = measures
        self.values: NDArray[np.float32] = np.full((len(measures), bins), np.nan, np.float32)
        self.busy_s = 0.0
        """The last time at which there was anything to count."""


class History:
    """The history of one router."""

    def __init__(
        self,
        read: Callable[[], Totals],
        *,
        bounds_s: Sequence[float],
        clock: Callable[[], float],
        bins: int = BINS,
        most_models: int = MOST_MODELS,
    ) -> None:
        """`read` returns the totals of now, whose buckets have `bounds_s`; `clock` is in seconds."""
        self._read = read
        self._bounds_us = [0.0, *(bound * 1e6 for bound in bounds_s)]
        self._clock = clock
        self._bins = bins
        self._most_models = most_models
        self._began_s = self._sampled_s = clock()
        self._slot = -1
        """The newest bin, counted since the start."""
        self.turns: int = 0
        """The number of times that it was sampled: what it tells is the same until it is sampled again."""
        self._answered: dict[ModelName, list[int]] = {}
        self._refused: dict[str, int] = {}
        self._router = _Series(ROUTER_MEASURES, bins)
        self._models: dict[str, _Series] = {}
        self._newest: dict[str, dict[str, float]] = {}

    def traffic(self, model: str) -> Mapping[str, float]:
        """Return what was counted of a model in the newest bin; empty if it had no request there."""
        return self._newest.get(model, {})

    def newest(self) -> dict[str, dict[str, float]]:
        """Return what was counted in the newest bin, by model."""
        return self._newest

    def sample(self) -> None:
        """Fill the bin of now. To be called every `BIN_S`; bins that were missed stay empty."""
        now_s = self._clock()
        elapsed_s = now_s - self._sampled_s
        if elapsed_s <= 0:
            return
        self._sampled_s = now_s
        self.turns += 1
        self._advance(int((now_s - self._began_s) / BIN_S))
        totals = self._read()
        self._newest = self._models_of(totals, elapsed_s)
        summed = self._all_buckets(totals)
        whole = _measured(
            summed,
            sum(totals.refused.values()) - sum(self._refused.values()),
            elapsed_s,
            self._bounds_us,
        )
        self._fill(
            self._router,
            {
                **whole,
                "requests_in_flight": totals.requests_in_flight,
                "nodes": totals.nodes,
                "nodes_usable": totals.nodes_usable,
            },
        )
        self._answered = {model: list(counts) for model, counts in totals.latencies.items()}
        self._refused = _by_model(totals.refused)

    def models(self) -> list[str]:
        """Return the models that have a history, by name."""
        return sorted(self._models)

    def has(self, model: str) -> bool:
        """Return whether a model has a history; the router, "", has one."""
        return not model or model in self._models

    def bins_of(self, span_s: float) -> int:
        """Return how many bins are told of the last `span_s`."""
        return max(1, min(self._bins, round(span_s / BIN_S)))

    def body(self, model: str, span_s: float) -> dict[str, Any]:
        """Return the last `span_s` of a model, of the router if it is "", as JSON values.

        Each series has the same number of points, the newest last, null where nothing was measured. Neighbouring bins
        are one point where there are too many: their mean, of `p99_us` the largest.
        """
        series = self._models.get(model) if model else self._router
        if series is None:  # it had no request, or others have all places
            series = _Series(MEASURES, self._bins)
        asked = self.bins_of(span_s)
        merged = -(-asked // MOST_POINTS)
        points = asked // merged
        newest = max(self._slot, 0)
        slots = np.arange(newest - points * merged + 1, newest + 1)
        values = np.where(slots >= 0, series.values[:, slots % self._bins], np.nan)
        values = values.reshape(len(series.measures), points, merged)
        return {
            "model": model,
            "point_s": merged * BIN_S,
            "models": self.models(),
            "series": {
                name: _plain(_largest(each) if name == "p99_us" else _mean(each))
                for name, each in zip(series.measures, values, strict=True)
            },
        }

    def _advance(self, slot: int) -> None:
        """Go on to a bin, and empty those between."""
        for passed in range(max(self._slot + 1, slot - self._bins + 1), slot + 1):
            for series in (self._router, *self._models.values()):
                series.values[:, passed % self._bins] = np.nan
        self._slot = max(slot, self._slot)

    def _models_of(self, totals: Totals, elapsed_s: float) -> dict[str, dict[str, float]]:
        """Return what was counted of each model that had a request, and keep it."""
        refused = _by_model(totals.refused)
        found: dict[str, dict[str, float]] = {}
        for model in {*totals.latencies, *refused} - {""}:
            counts = _since(
                totals.latencies.get(ModelName(model), ()),
                self._answered.get(ModelName(model), ()),
            )
            errors = refused.get(model, 0) - self._refused.get(model, 0)
            if errors or any(counts):
                found[model] = _measured(counts, errors, elapsed_s, self._bounds_us)
        for model in sorted(found, key=lambda each: -found[each]["requests_per_s"]):
            series = self._place_for(model)
            if series is not None:
                series.busy_s = self._sampled_s
        for model, series in self._models.items():
            self._fill(series, found.get(model, {"requests_per_s": 0.0, "errors_per_s": 0.0}))
        return found

    def _all_buckets(self, totals: Totals) -> list[int]:
        summed = [0] * len(self._bounds_us)
        for model, counts in totals.latencies.items():
            for number, count in enumerate(_since(counts, self._answered.get(model, ()))):
                summed[number] += count
        return summed

    def _place_for(self, model: str) -> _Series | None:
        """Return the series of a model that had requests; None if others have all places."""
        series = self._models.get(model)
        if series is not None:
            return series
        if len(self._models) >= self._most_models:
            idlest = min(self._models, key=lambda each: self._models[each].busy_s)
            if self._sampled_s - self._models[idlest].busy_s < IDLE_S:
                return None
            del self._models[idlest]
        series = self._models[model] = _Series(MEASURES, self._bins)
        return series

    def _fill(self, series: _Series, measured: Mapping[str, float]) -> None:
        for number, name in enumerate(series.measures):
            series.values[number, self._slot % self._bins] = measured.get(name, np.nan)


def _measured(
    counts: Sequence[int], errors: int, elapsed_s: float, bounds_us: Sequence[float]
) -> dict[str, float]:
    """Return the measures of one bin, without latencies if nothing was answered."""
    answered = sum(counts)
    measured = {
        "requests_per_s": round((answered + errors) / elapsed_s, 3),
        "errors_per_s": round(errors / elapsed_s, 3),
    }
    if answered:
        measured["p50_us"] = round(quantile_us(counts, bounds_us, 0.5))
        measured["p99_us"] = round(quantile_us(counts, bounds_us, 0.99))
    return measured


def quantile_us(counts: Sequence[int], bounds_us: Sequence[float], part: float) -> float:
    """Return a quantile of what was counted in buckets, as if each were filled evenly.

    Bucket `i` begins at `bounds_us[i]`; the last has no end, and counts as its beginning.
    """
    wanted = part * sum(counts)
    for number, total in enumerate(accumulate(counts)):
        if total >= wanted and counts[number]:
            begin = bounds_us[number]
            if number + 1 >= len(bounds_us):
                return begin
            inside = 1 - (total - wanted) / counts[number]
            return begin + (bounds_us[number + 1] - begin) * inside
    return 0.0


def _since(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return how far counters have gone; those of before may be missing."""
    return (
        [count - earlier for count, earlier in zip(now, before, strict=True)]
        if before
        else list(now)
    )


def _by_model(refused: Mapping[tuple[str, str], int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (model, _), count in refused.items():
        found[model] = found.get(model, 0) + count
    return found


def _mean(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean of each row of an array of shape (points, bins), of what is no NaN."""
    counts = np.sum(~np.isnan(values), axis=1)
    sums = np.nansum(values, axis=1, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _largest(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest of each row of an array of shape (points, bins), of what is no NaN."""
    largest = np.max(np.where(np.isnan(values), -np.inf, values), axis=1).astype(np.float64)
    return np.where(np.isfinite(largest), largest, np.nan)


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return values as JSON has them; an array at a time, because anybody may ask for a day of them."""
    return [None if each != each else each for each in np.round(values, 3).tolist()]  # noqa: PLR0124 - a NaN
