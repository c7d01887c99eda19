"""The counts of a worker, for each model and of its event loop, and their sums over its lives. Pure.

A worker's message `metrics {models, loop}` lists in `models` a map for each load of a model that it has counted anything for since the
message before: `name`, `version`, `load` (a number that no other load in that worker's life has), `requests` and
`dropped` (counts by code and by reason), `rows`, `batches`, `batch_rows`, `queue_s` and `run_s` (histograms: `bounds`
ascending, `counts` one more than `bounds`, `sum`), `memory_bytes`, `in_flight`, `limit`, and of language models `generation`, a map of
what `GenerationFigures` has. Counts are since that load.
A model that was replaced or withdrawn is listed until its last request has ended, and once after that. `loop` has two
histograms of the worker's event loop since its start, `delay_s` and `busy_s`: see `capamesh.protocol.loop_watch`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from capamesh.protocol.membership_life import LifeFigures

Key = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """The number of values in each bucket."""

    counts: Mapping[float, int]
    """The counts by the bucket's upper bound, which it includes; infinity is the last."""
    sum: float

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Histogram:
        """Return what a worker told; it comes from our own process."""
        bounds = [*map(float, message["bounds"]), math.inf]
        return cls(dict(zip(bounds, message["counts"], strict=True)), float(message["sum"]))

    @property
    def count(self) -> int:
        """Return the number of values."""
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
class GenerationFigures:
    """The counts of a language model, and what its slots hold now."""

    first_token_s: Histogram
    gap_s: Histogram
    """The times between two tokens of one answer."""
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    """The tokens of prompts that did not have to run."""
    preemptions: int
    """The sequences that gave way, and were computed again."""
    drafted_tokens: int
    """The tokens of answers that were guessed and run."""
    accepted_tokens: int
    """The tokens of these that were drawn, too."""
    held_tokens: int
    """The tokens that slots hold."""
    most_held_tokens: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> GenerationFigures:
        """Return what a worker told; it comes from our own process."""
        counts = {name: value for name, value in message.items() if not name.endswith("_s")}
        return cls(
            first_token_s=Histogram.from_message(message["first_token_s"]),
            gap_s=Histogram.from_message(message["gap_s"]),
            **counts,
        )

    def at_rest(self) -> GenerationFigures:
        """Return the counts alone, for the model is not there any more."""
        return replace(self, held_tokens=0, most_held_tokens=0)

    def __add__(self, later: GenerationFigures) -> GenerationFigures:
        """Return the counts of both, and the present as `later` says it."""
        return replace(
            later,
            first_token_s=self.first_token_s + later.first_token_s,
            gap_s=self.gap_s + later.gap_s,
            tokens=self.tokens + later.tokens,
            prompt_tokens=self.prompt_tokens + later.prompt_tokens,
            cached_tokens=self.cached_tokens + later.cached_tokens,
            preemptions=self.preemptions + later.preemptions,
            drafted_tokens=self.drafted_tokens + later.drafted_tokens,
            accepted_tokens=self.accepted_tokens + later.accepted_tokens,
        )


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """The counts of one model on one device, and its present gauges."""

    requests: Mapping[str, int]
    """Answered, by code; "ok" for the good ones."""
    dropped: Mapping[str, int]
    """The requests that were taken and not run, by reason."""
    rows: int
    batches: int
    batch_rows: Histogram
    queue_s: Histogram
    run_s: Histogram
    memory_bytes: int
    """The memory of the model; 0 if it is unknown or not in memory."""
    in_flight: int
    limit: int
    """The limit of `in_flight`."""
    generation: GenerationFigures | None = None
    """The figures of a language model; None: it is none."""

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
            generation=GenerationFigures.from_message(message["generation"])
            if message.get("generation")
            else None,
        )

    def at_rest(self) -> ModelFigures:
        """Return the counts alone, for the model is not there any more."""
        generation = None if self.generation is None else self.generation.at_rest()
        return replace(self, memory_bytes=0, in_flight=0, limit=0, generation=generation)

    def __add__(self, later: ModelFigures) -> ModelFigures:
        """Return the counts of both, and the present as `later` says it."""
        generation = later.generation or self.generation
        if self.generation is not None and later.generation is not None:
            generation = self.generation + later.generation
        return replace(
            later,
            generation=generation,
            requests=_sum(self.requests, later.requests),
            dropped=_sum(self.dropped, later.dropped),
            rows=self.rows + later.rows,
            batches=self.batches + later.batches,
            batch_rows=self.batch_rows + later.batch_rows,
            queue_s=self.queue_s + later.queue_s,
            run_s=self.run_s + later.run_s,
        )


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """The lags of an event loop, measured 20 times a second."""

    delay_s: Histogram
    """The time by which the loop was late."""
    busy_s: Histogram
    """The CPU time that it took from one measurement to the next."""

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> LoopFigures:
        """Return what a `LoopMeter` of our own counted."""
        return cls(
            delay_s=Histogram.from_message(message["delay_s"]),
            busy_s=Histogram.from_message(message["busy_s"]),
        )

    def __add__(self, other: LoopFigures) -> LoopFigures:
        """Return the counts of both."""
        return LoopFigures(self.delay_s + other.delay_s, self.busy_s + other.busy_s)


NO_LOOP: Final = LoopFigures(Histogram({}, 0.0), Histogram({}, 0.0))
"""The figures of a loop that was not measured yet."""


@dataclass(frozen=True, slots=True)
class WorkerSample:
    """One worker as it is now, for metrics and status."""

    number: int
    is_up: bool
    starts: int
    models: Mapping[Key, ModelFigures]
    loop: LoopFigures = NO_LOOP
    links: int = 0
    """The links of routers that can ask it."""
    memory_bytes: int = 0
    """The memory of its device; 0 if it has not told yet."""
    memory_free_bytes: int = 0
    states: Mapping[Key, str] = field(default_factory=dict[Key, str])
    """The state of each model that it offers."""


@dataclass(frozen=True, slots=True)
class AgentReadings:
    """The readings of the agent itself, each made when metrics are asked for."""

    version: str
    """The version of the program."""
    data_folder: Path
    membership: Callable[[], LifeFigures]
    """Returns how long the node's membership lasts."""
    clock_behind_s: Callable[[], float]
    """Returns by how much the clocks of most other members are ahead."""
    loop: Callable[[], LoopFigures]
    """Returns the figures of the agent's own event loop."""


class WorkerFigures:
    """One worker's counts over all its lives: they never go down."""

    def __init__(self) -> None:
        self._ended: dict[Key, ModelFigures] = {}
        """The sums over the loads that are over."""
        self._latest: dict[Key, dict[int, ModelFigures]] = {}
        """The newest figures by load, the earlier first."""
        self._kept: Collection[Key] | None = None
        """The models whose figures are kept; None for all."""
        self._ended_loops = self._loop = NO_LOOP

    def reported(self, models: Sequence[Mapping[str, Any]]) -> None:
        """Take over a `metrics` message's models."""
        before, self._latest = self._latest, {}
        for message in sorted(models, key=lambda message: int(message["load"])):
            key, load = (message["name"], message["version"]), message["load"]
            if self._kept is not None and key not in self._kept:
                continue  # it is on its way out, and nobody asks for it any more
            before.get(key, {}).pop(load, None)
            self._latest.setdefault(key, {})[load] = ModelFigures.from_message(message)
        self._end(before)

    def loop_reported(self, message: Mapping[str, Any]) -> None:
        """Take over a `metrics` message's loop."""
        self._loop = LoopFigures.from_message(message)

    def ended(self) -> None:
        """The worker is down; its next life counts from 0."""
        self._ended_loops, self._loop = self.loop(), NO_LOOP
        before, self._latest = self._latest, {}
        self._end(before)

    def keep(self, models: Collection[Key]) -> None:
        """Drop the counts of all others, from now on: their files are gone."""
        self._kept = models
        for of in (self._ended, self._latest):
            for key in of.keys() - models:
                del of[key]

    def models(self) -> dict[Key, ModelFigures]:
        """Return each model's sums and present."""
        sums = dict(self._ended)
        for key, loads in self._latest.items():
            for latest in loads.values():
                sums[key] = sums[key] + latest if key in sums else latest
            in_flight = sum(latest.in_flight for latest in loads.values())
            sums[key] = replace(sums[key], in_flight=in_flight)
        return sums

    def loop(self) -> LoopFigures:
        """Return the sums of its event loops."""
        return self._ended_loops + self._loop

    def _end(self, over: Mapping[Key, Mapping[int, ModelFigures]]) -> None:
        for key, loads in over.items():
            for last in loads.values():
                rest = last.at_rest()
                self._ended[key] = self._ended[key] + rest if key in self._ended else rest


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(first) + Counter(second))
