"""Loads a model in a thread and gives it an engine and a runner. IO: threads, model files, marks in shared memory.

A thread cannot be ended: a model that takes too long to load has its worker ended, as a run does that does not stop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.devices.idle_thread import can_give_way
from capamesh.node.devices.in_flight_journal import InFlightJournal, Phase
from capamesh.node.generation import GenerationSettings
from capamesh.node.models.eviction import held_bytes
from capamesh.node.models.registry import HostedModel, ModelRegistry, advert_problem
from capamesh.node.repository import ContentChanged
from capamesh.node.runtime.api import OutOfMemory
from capamesh.node.runtime.pipeline import PipelineModel
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.scheduling import DynamicBatcher, MemoryBudget, RunBounds, Scheduler, Suspicion
from capamesh.node.scheduling.generation_runner import GenerationRunner
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.scheduling.stats import Meter
from capamesh.node.scheduling.watched_slots import WatchedSlots
from capamesh.protocol.errors import CapameshError, ModelInvalid

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.settings import WorkerSettings
    from capamesh.node.contract.verdict import Verdict
    from capamesh.node.models.preparation import LoadResult, Preparation
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import Backend, LoadedModel
    from capamesh.protocol.ids import ModelName, ModelVersion


class RanShort(ModelInvalid):
    """There was no memory to load a model; nothing is wrong with it."""


class ModelLoading:
    """Loads for one worker, one model at a time."""

    def __init__(
        self,
        models: ModelRegistry,
        backend: Backend,
        preparation: Preparation,
        *,
        settings: WorkerSettings,
        budget: MemoryBudget,
        verdicts: Sequence[Verdict],
        marks: InFlightJournal,
        on_stuck: Callable[[str], None],
        on_survived: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        """`models` has those that pipelines are made of.

        No request is taken that would need more than `budget` of memory, or a run of more than the watchdog allows, or
        against which there is one of the `verdicts`, which begin now.
        """
        self._models = models
        self._backend = backend
        self._preparation = preparation
        self._settings = settings
        self._budget = budget
        self._verdicts = {(one.name, one.version): one for one in verdicts}
        self._since_s = time.monotonic()
        self._marks = marks
        self._on_stuck = on_stuck
        self._on_survived = on_survived
        self._log = log
        self._thread = 0
        """The thread of the load that goes on, or of the latest."""
        self._load_s = 0.0
        """The time of the load that goes on, or of the latest."""
        self.held_bytes = 0
        """The bytes of the device's memory that all that was given and is not closed is taken to use."""

    async def load(self, source: ModelSource) -> HostedModel:
        """Return the model at `source`, which can take requests; raise `ModelInvalid` where it cannot, `RanShort` where memory ran out."""
        number = self._marks.number(source.name, source.version, source.digest)
        try:
            prepared = await self._prepared(source, number)
            try:
                hosted = self._hosted(source, prepared, number)
            except BaseException:
                prepared.close()
                raise
        except BaseException:
            self._marks.release(number)
            raise
        hosted.load_s = self._load_s
        self.held_bytes += held_bytes(hosted)
        self._budget.models_bytes += prepared.measured.memory_bytes
        return hosted

    def _hosted(self, source: ModelSource, prepared: LoadResult, number: int) -> HostedModel:
        if problem := advert_problem(source, prepared):  # nobody could be told of it
            raise ModelInvalid(problem)
        bounds = RunBounds(
            prepared.plan,
            prepared.measured.need,
            prepared.measured.profile,
            self._budget,
            watchdog_s=self._settings.watchdog_s,
            suspicion=self._suspicion(source),
        )
        runner = self._runner(source, prepared, number, bounds)
        return HostedModel(source, prepared, runner, number, bounds)

    def unloaded(self, hosted: HostedModel) -> None:
        """Forget what `load` gave, which is closed now."""
        self._marks.release(hosted.number)
        self.held_bytes -= held_bytes(hosted)
        self._budget.models_bytes -= hosted.prepared.measured.memory_bytes

    def _suspicion(self, source: ModelSource) -> Suspicion:
        verdict = self._verdicts.get((source.name, source.version))
        if verdict is None or verdict.digest not in {"", source.digest}:
            return Suspicion()
        return Suspicion(verdict, self._since_s, self._on_survived)

    async def _prepared(self, source: ModelSource, number: int) -> LoadResult:
        slot = self._marks.begin(number, Phase.LOADING)
        overdue = asyncio.get_running_loop().call_later(
            self._settings.load_limit_s, self._overdue, source, number
        )
        try:
            return await asyncio.to_thread(self._prepare, source)
        except ContentChanged:
            raise
        except CapameshError as error:
            if _is_short(error):
                raise RanShort(error.message) from None
            raise ModelInvalid(error.message) from error
        except MemoryError as exc:
            raise RanShort(f"{type(exc).__name__}: {exc}") from None
        except Exception as exc:
            self._log.exception("model_load_crashed", model=source.name, version=source.version)
            raise ModelInvalid(f"loading it failed: {type(exc).__name__}: {exc}") from exc
        finally:
            overdue.cancel()
            self._marks.end(slot)

    def _prepare(self, source: ModelSource) -> LoadResult:
        self._thread = threading.get_native_id()
        return self._preparation.prepare(source, partial(self._loaded, source))

    def work(self) -> object:
        """Return what differs while the thread of the load does something: its time on a core, its reads, its page faults."""
        folder = Path(f"/proc/self/task/{self._thread}")
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            return (*stat[9:13], (folder / "io").read_text())
        except OSError:  # no Linux, or no thread yet
            return time.process_time()

    def _overdue(self, source: ModelSource, number: int) -> None:
        """Blame a model that is not ready in time, and have this process ended."""
        self._marks.blame(number, Phase.LOADING)
        self._on_stuck(
            f"loading {source.name}/{source.version} has taken more than the {self._settings.load_limit_s:g} s that"
            " this node allows (--load-limit)"
        )

    def _loaded(self, source: ModelSource) -> LoadedModel:
        steps = source.manifest.rules.steps
        if not steps:
            began_s = time.monotonic()
            loaded = self._backend.load(source)
            self._load_s = time.monotonic() - began_s
            return loaded
        self._load_s = 0.0
        return PipelineModel(source.name, source.version, steps, self._member)

    def _member(self, name: ModelName, version: ModelVersion) -> LoadedModel | None:
        hosted = self._models.find(name, version)
        return hosted.prepared.loaded if hosted is not None else None

    def _scheduler(self, source: ModelSource, prepared: LoadResult, bounds: RunBounds) -> Scheduler:
        """Return the scheduler of a model of one run, as its rules ask for it."""
        rules, settings = source.manifest.rules, self._settings
        return DynamicBatcher(
            prepared.plan,
            rules,
            prepared.measured.profile,
            max_in_flight=settings.max_in_flight if rules.loop is None else settings.max_streams,
            max_queue=source.manifest.max_queue,
            streams=prepared.streams,
            has_background=prepared.streams is not None and can_give_way(),
            bounds=bounds,
            doubt=prepared.measured.note if prepared.measured.profile is None else "",
        )

    def _generating(
        self, source: ModelSource, decoder: LoadedDecoder, number: int
    ) -> GenerationScheduler:
        """Return the scheduler of a language model, whose thread runs until the model is closed."""
        meter, slots = Meter(), decoder.slots
        settings = GenerationSettings(
            prefix_bytes=decoder.prefix_bytes,
            lookup_tokens=source.manifest.task.generation.lookup_tokens,
        )
        scheduler = GenerationScheduler(
            decoder.text,
            meter=meter,
            most_in_flight=source.manifest.max_queue or settings.max_waiting + slots.count,
            clock=time.monotonic,
            marks=self._marks,
            number=number,
            watchdog_s=self._settings.watchdog_s,
            on_stuck=self._on_stuck,
        )
        watched = WatchedSlots(slots, meter, self._marks, number, time.monotonic)
        scheduler.begin(
            GenerationRunner(watched, settings, clock=time.monotonic, on_broken=self._on_stuck)
        )
        decoder.on_close = scheduler.close
        return scheduler

    def _runner(
        self, source: ModelSource, prepared: LoadResult, number: int, bounds: RunBounds
    ) -> ModelRunner:
        if isinstance(prepared.loaded, LoadedDecoder):
            scheduler: Scheduler = self._generating(source, prepared.loaded, number)
        else:
            scheduler = self._scheduler(source, prepared, bounds)
        return ModelRunner(
            prepared.loaded,
            scheduler,
            bounds=bounds,
            stream=prepared.stream,
            may_run_here=prepared.is_predictable,
            clock=time.monotonic,
            switch=self._backend.stop_switch,
            marks=self._marks,
            number=number,
            watchdog_s=self._settings.watchdog_s,
            on_stuck=self._on_stuck,
        )


def _is_short(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, says that memory could not be had."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OutOfMemory | MemoryError):
        cause = cause.__cause__
    return cause is not None
