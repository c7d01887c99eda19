"""Measures how fast a model is, by rows: on all threads, and on one thread each beside one another. Runs it, for seconds."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from capamesh.node.profiling.batch_invariance import mixing
from capamesh.node.profiling.trial_inputs import trial_inputs
from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan
from capamesh.node.scheduling.run_need import RunNeed, RunSample, elements_of, fitted
from capamesh.node.scheduling.runner import SHORT_S
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile, next_rows, rate
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Tensor

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import Backend, LoadedModel

BUDGET_S: Final = 3.0
"""The time for measuring one model at its first load (guess: a start that people wait for)."""
POINT_S: Final = 0.25
"""The time for one number of rows."""
POINT_RUNS: Final = 25
"""A median of more is no better."""
AGAIN: Final = 2
AGAIN_S: Final = 2.0
CONTENDING: Final = 0.85
"""A choice that comes this near to the best is measured `AGAIN` times more, in turns, within `AGAIN_S`, and the least counts:
whatever else a machine does only adds. Measured: by one time each, ResNet-18 on two threads seemed no faster with 4
rows than with one in every other start, and it is 6 % faster; and in one start of twelve its streams, which do as
much as all threads, were found to do less than `STREAM_SHARE` of that."""
MAX_BATCH_ROWS: Final = 1024
"""Larger batches gain nothing that was measured: a tiny MLP is flat from 64 on (guess)."""
PROFILE_DIMS: Final = (64, 16, 8, 1, 224)
"""Sizes for open dimensions besides the batch, where no warm-up gives shapes: the first that runs counts
(guess: a sentence of 64 tokens, a small picture; a length of 1 would tell nothing of the real one)."""
STREAM_RUN_S: Final = 0.002
"""Runs that are shorter are left to one thread or to all: handing them to threads would cost more than it gives
(guess: twenty times what waking a thread costs)."""
SHORT_ROWS: Final = 64
"""The most rows of the short runs by which one thread is compared with all (guess: what waits together at a busy node)."""
ONE_THREAD_SHARE: Final = 0.8
"""Short runs have one thread where it is at least so fast as all threads together. Threads take the time of as many cores and
wait for one another, on a busy machine for as long as something else has their core (measured on two cores, 64 rows of the
digits: 25 us and 27 us of CPU on one thread, 29 us and 57 us of CPU on two)."""
ONE_THREAD_BYTES: Final = 4 * 1024 * 1024
"""The files of the largest model for which one thread is compared with all: it is in memory twice meanwhile (guess)."""
STREAM_SHARE: Final = 0.95
"""Streams are taken when they reach this share of the rows a second that runs of all threads have on a quiet
machine: beside links and routers on the same cores they lose half as much (measured: see engine.streams)."""
STREAM_LONGEST_S: Final = 0.5
"""No run of one thread is made longer by more rows: all that waits for a lane waits so long (guess; ResNet-18 on one
thread of today takes 0.27 to 0.4 s for eight rows; where it takes 0.4, runs of eight do 4 % more under load than those
of four; more gain nothing, see profile)."""
MIN_FREE_SHARE: Final = 0.1
"""A larger batch is not tried when less of the memory is free (guess)."""
REVISION: Final = "2"
"""Kept measurements of another revision are made again; raise it where a measurement comes to mean something else."""
NEED_ROWS: Final = 64
NEED_RUN_S: Final = 0.5
"""A run's memory is measured with as many rows as were timed, and up to `NEED_ROWS` where that takes no longer: of a
few rows the rounding of a memory pool is most (guess)."""
LONGER: Final = (8, 4, 2)
"""The lengths, as multiples of an open dimension's, that its rows are tried with to see whether memory grows with the square:
the first that runs and is expected to take no more than `NEED_RUN_S`, though its time may grow so too (guess: 512
tokens beside 64, which most models of texts take and none needs more than)."""


class _Measure(Protocol):
    def __call__(self, rows: int, *, is_warm: bool = False) -> ProfilePoint:
        """Time runs of so many rows."""
        ...


class _Timed(NamedTuple):
    """A measurement, and how to repeat it."""

    point: ProfilePoint
    measure: Callable[[], ProfilePoint]


class Measuring:
    """Measures models on one device."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._clock = clock

    def open_dim(self, loaded: LoadedModel, plan: BatchPlan) -> tuple[int | None, str]:
        """Return a size for open dimensions that the model runs with, or why none does."""
        problem = ""
        is_open = any(dim < 0 for spec in plan.inputs for dim in spec.shape[1:])
        for open_dim in PROFILE_DIMS if is_open else PROFILE_DIMS[:1]:
            try:
                loaded.run(trial_inputs(plan, 1, open_dim))
            except CapameshError as error:
                problem = problem or error.message
            else:
                return open_dim, ""
        return None, problem

    def profile(
        self, loaded: LoadedModel, plan: BatchPlan, open_dim: int, rules: Rules
    ) -> ServiceProfile:
        """Measure runs of all threads, of more and more rows until that gains nothing or takes too long."""

        def measure(rows: int, *, is_warm: bool = False) -> ProfilePoint:
            return self._point(loaded, trial_inputs(plan, rows, open_dim), rows, is_warm=is_warm)

        limit = rules.batching.max_rows or MAX_BATCH_ROWS
        return self._profile_of(measure, limit if plan.is_batching else 1)

    def one_thread_profile(
        self,
        source: ModelSource,
        loaded: LoadedModel,
        plan: BatchPlan,
        open_dim: int,
        profile: ServiceProfile,
    ) -> ServiceProfile | None:
        """Measure runs of one thread; None where runs are not short, all threads make them shorter, or rows mix on one alone.

        `profile` is of `loaded`, whose runs take all threads.
        """
        short = [
            point
            for point in profile.points
            if point.rows <= SHORT_ROWS and point.seconds <= SHORT_S
        ]
        is_small = source.size_bytes <= ONE_THREAD_BYTES and not source.is_pipeline
        if self._backend.streams < 2 or not is_small or not short or self._is_tight():
            return None
        rows = short[-1].rows
        inputs = trial_inputs(plan, rows, open_dim)
        alone = self._backend.load_stream(source)
        try:
            one, together = self._again(
                _Timed(
                    self._point(alone, inputs, rows, is_warm=False),
                    partial(self._point, alone, inputs, rows, is_warm=True),
                ),
                _Timed(short[-1], partial(self._point, loaded, inputs, rows, is_warm=True)),
            )
            if ONE_THREAD_SHARE * one.seconds > together.seconds:
                return None
            if plan.is_batching and mixing(alone, plan, open_dim):
                return None
            return self.profile(alone, plan, open_dim, source.manifest.rules)
        finally:
            alone.close()

    def stream_profile(
        self,
        source: ModelSource,
        loaded: LoadedModel,
        plan: BatchPlan,
        open_dim: int,
        profile: ServiceProfile,
    ) -> ServiceProfile | None:
        """Measure runs of one thread each beside one another; None where they would not do as much.

        `profile` is of `loaded`, whose runs take all threads.
        """
        rules, count = source.manifest.rules, self._backend.streams
        if count < 2 or rules.instances or source.is_pipeline or self._is_tight():
            return None
        if profile.seconds_at(1) < STREAM_RUN_S:
            return None
        stream = self._backend.load_stream(source)
        try:
            with ThreadPoolExecutor(count) as threads:

                def measure(rows: int, *, is_warm: bool = False) -> ProfilePoint:
                    inputs = trial_inputs(plan, rows, open_dim)
                    points = [
                        threads.submit(self._point, stream, inputs, rows, is_warm=is_warm)
                        for _ in range(count)
                    ]
                    return ProfilePoint(
                        rows, statistics.fmean(point.result().seconds for point in points)
                    )

                most_rows = profile.points[-1].rows
                beside = self._profile_of(measure, most_rows, longest_s=STREAM_LONGEST_S)
                share = count * profile.row_s / beside.row_s
                if CONTENDING <= share < STREAM_SHARE:  # to be told from what else the machine does
                    best = profile.best_rows
                    whole = trial_inputs(plan, best, open_dim)
                    one, together = self._again(
                        _Timed(beside.best_point, partial(measure, beside.best_rows, is_warm=True)),
                        _Timed(
                            profile.best_point,
                            partial(self._point, loaded, whole, best, is_warm=True),
                        ),
                    )
                    beside = beside.with_point(one)
                    share = count * rate(one) / rate(together)
        finally:
            stream.close()
        return beside if share >= STREAM_SHARE else None

    def need(
        self,
        loaded: LoadedModel,
        plan: BatchPlan,
        open_dim: int,
        profile: ServiceProfile,
        rules: Rules,
    ) -> RunNeed | None:
        """Measure what memory a run takes, and where other dimensions than rows are open, how that grows with them.

        Of all runs before and in it the model keeps the memory of a full batch alone.
        """
        rows = timed_rows = profile.points[-1].rows
        most_rows = min(rules.batching.max_rows or NEED_ROWS, NEED_ROWS) if plan.is_batching else 1
        while 2 * rows <= most_rows and profile.seconds_at(2 * rows) <= NEED_RUN_S:
            rows *= 2
        usual = least = None
        for tried in (rows, profile.points[0].rows):
            with contextlib.suppress(CapameshError):  # more rows than there is memory for
                is_warm = tried <= timed_rows
                usual, least = self._sample(loaded, plan, tried, open_dim, is_warm=is_warm)
                break
        if usual is None or least is None:
            return None
        kept = {state.input for state in plan.states}
        longer = None
        if any(min(spec.shape[1:], default=0) < 0 for spec in plan.inputs if spec.name not in kept):
            for times in LONGER:
                if profile.seconds_at(1) * times**2 > NEED_RUN_S or self._is_tight():
                    continue
                try:
                    longer, _ = self._sample(loaded, plan, 1, times * open_dim, is_warm=False)
                except CapameshError:
                    continue  # it takes no rows so long
                break
        best_rows = profile.best_rows
        best = trial_inputs(plan, best_rows, open_dim)
        loaded.give_back()
        if profile.seconds_at(best_rows) <= NEED_RUN_S:
            with contextlib.suppress(CapameshError):
                loaded.run(best)
        return fitted(usual, longer, least_row_bytes=least)

    def try_once(self, loaded: LoadedModel, plan: BatchPlan) -> None:
        """Run a model once, as far as it runs: its first run is slow."""
        for open_dim in PROFILE_DIMS:
            try:
                loaded.run(trial_inputs(plan, 1, open_dim))
            except CapameshError:
                continue
            return

    def _profile_of(
        self, measure: _Measure, max_rows: int, *, longest_s: float = math.inf
    ) -> ServiceProfile:
        points: tuple[ProfilePoint, ...] = ()
        ends_s = self._clock() + BUDGET_S
        while True:
            left_s = min(longest_s, max(0.0, ends_s - self._clock()))
            rows = next_rows(points, max_rows=max_rows, left_s=left_s)
            if rows is None or (points and self._is_tight()):
                break
            try:
                points = (*points, measure(rows))
            except CapameshError:
                if not points:
                    raise
                break  # as many rows as that do not fit: the last is the most
        profile = ServiceProfile(points)
        enough = max(map(rate, points)) * CONTENDING
        contending = [
            _Timed(point, partial(measure, point.rows, is_warm=True))
            for point in points
            if rate(point) >= enough
        ]
        if len(contending) > 1:
            for point in self._again(*contending):
                profile = profile.with_point(point)
        return profile

    def _again(self, *contending: _Timed) -> list[ProfilePoint]:
        """Measure all again, in turns; return the least of each."""
        least = [timed.point for timed in contending]
        ends_s = self._clock() + AGAIN_S
        for at in [*range(len(least))] * AGAIN:
            if self._clock() + least[at].seconds <= ends_s:
                least[at] = min(
                    least[at], contending[at].measure(), key=lambda point: point.seconds
                )
        return least

    def _point(
        self, loaded: LoadedModel, inputs: Sequence[Tensor], rows: int, *, is_warm: bool
    ) -> ProfilePoint:
        """Time runs of so many rows; where `is_warm`, the model has run with as many before."""
        clock = self._clock
        if not is_warm:
            loaded.run(inputs)  # the first of a new shape allocates
        ends_s = clock() + POINT_S
        times: list[float] = []
        while len(times) < POINT_RUNS and (not times or clock() < ends_s):
            began_s = clock()
            loaded.run(inputs)
            times.append(clock() - began_s)
        return ProfilePoint(rows, max(statistics.median(times), 1e-7))

    def _sample(
        self, loaded: LoadedModel, plan: BatchPlan, rows: int, open_dim: int, *, is_warm: bool
    ) -> tuple[RunSample, int]:
        """Run once from rest; return what that took, and the bytes of a row's inputs and outputs."""
        kept = {state.input for state in plan.states}
        inputs = trial_inputs(plan, rows, open_dim)
        if not is_warm:
            loaded.run(inputs)  # the first that is much larger gives its memory back (`ArenaWatch`)
        loaded.give_back()
        before_bytes, began_s = self._backend.used_bytes(), self._clock()
        outputs = loaded.run(inputs)
        took_s = self._clock() - began_s
        grown = max(0, self._backend.used_bytes() - before_bytes)  # a pool keeps the peak of a run
        elements = elements_of(tensor for tensor in inputs if tensor.name not in kept)
        carried = sum(tensor.size_bytes for tensor in (*inputs, *outputs))
        sample = RunSample(rows, max(1, elements // rows), grown, took_s)
        return sample, carried // rows

    def _is_tight(self) -> bool:
        free = self._backend.free_bytes()
        return free < MIN_FREE_SHARE * (free + self._backend.used_bytes())
