"""Makes a model ready: load, check against its rules, warm up, measure how it batches and how fast. Blocks.

Runs in a thread. What was measured is kept by digest and device, so that only a model's first start takes
the time; `measuring.BUDGET_S` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from capamesh.node.models.initial_states import with_initial_states
from capamesh.node.profiling.batch_invariance import mixing
from capamesh.node.profiling.measuring import REVISION, Measuring
from capamesh.node.profiling.memory_watch import MemoryWatch
from capamesh.node.profiling.output_watch import OutputWatch
from capamesh.node.profiling.profile_cache import Measured, ProfileCache
from capamesh.node.profiling.trial_inputs import QUANTITIES, with_shapes
from capamesh.node.profiling.warm_up import warm_up
from capamesh.node.repository.labels import read_labels
from capamesh.node.runtime.tasks.making import make_task
from capamesh.node.runtime.tasks.task import PackageMissing
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.node.scheduling import BatchPlan, Streams
from capamesh.node.scheduling.declared_plan import declared_plan, with_rows
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import Backend, LoadedModel
    from capamesh.node.runtime.tasks.task import ModelTask


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A model that can take requests."""

    loaded: LoadedModel
    plan: BatchPlan
    measured: Measured
    notes: tuple[str, ...] = ()
    stream: LoadedModel | None = None
    """The same on one thread, where `streams` says so."""
    streams: Streams | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The names of the classes of those outputs that have some, in the order of the scores."""
    task: ModelTask | None = None
    """The task that the model is for; None: it takes its own tensors alone, or is asked for no tensors at all."""
    max_parts: int = 0
    """The most parts of an answer of a language model; 0: it is none."""

    def close(self) -> None:
        """Let go of the model; again is harmless."""
        self.loaded.close()
        if self.stream is not None:
            self.stream.close()

    def give_back(self) -> None:
        """Give what runs have left with the model back to the device; see `LoadedModel.give_back`."""
        self.loaded.give_back()
        if self.stream is not None:
            self.stream.give_back()

    @property
    def is_predictable(self) -> bool:
        """Return whether the time of a run depends on nothing but its rows.

        It does not where an input is of whole numbers: one may be the turns of a loop or the size of a tensor, and was 0
        when the runs were timed; nor where an operator's work is set by values that may have been computed.
        """
        return (
            self.measured.profile is not None
            and not self.loaded.is_data_dependent
            and all(
                spec.datatype in QUANTITIES and all(dim >= 0 for dim in spec.shape[1:])
                for spec in self.plan.inputs
            )
        )


def _of_triton(source: ModelSource) -> dict[str, str]:
    """Return what only a configuration of Triton's says and a measurement depends on; nothing where it does not."""
    controls, declared = source.manifest.rules.sequence.controls, source.declared
    reshapes = (*declared.reshaped_inputs, *declared.reshaped_outputs)
    said = {"controls": controls, "reshapes": reshapes}
    return {key: repr(value) for key, value in said.items() if value}


def _task(source: ModelSource, plan: BatchPlan) -> tuple[ModelTask | None, tuple[str, ...]]:
    """Return what a model is for, and a note where a package is missing for that. Raises `ModelInvalid`."""
    try:
        return make_task(source, plan.public_inputs, plan.public_outputs), ()
    except PackageMissing as exc:
        return None, (str(exc),)


def _generating(loaded: LoadedDecoder, own_bytes: int) -> LoadResult:
    """Return a language model, which is measured while it runs; its memory is `own_bytes` and what its slots will hold."""
    memory_bytes = own_bytes + loaded.pool_bytes + loaded.prefix_bytes
    return LoadResult(
        loaded,
        BatchPlan((), ()),
        Measured(None, memory_bytes, False),
        loaded.notes,
        max_parts=loaded.slots.length,
    )


class Preparation:
    """Prepares models for one device."""

    def __init__(
        self,
        backend: Backend,
        cache: ProfileCache,
        *,
        circumstances: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """`circumstances` is what a measurement depends on besides the model: device, threads."""
        self._backend = backend
        self._cache = cache
        self._circumstances = dict(circumstances)
        self._measuring = Measuring(backend, clock)

    def prepare(self, source: ModelSource, load: Callable[[], LoadedModel]) -> LoadResult:
        """Return what `load` gives, ready; raise `ModelInvalid` where it does not fit its rules."""
        memory = MemoryWatch(self._backend.used_bytes)
        with ExitStack() as undo:
            with memory:
                loaded = load()
            undo.callback(loaded.close)
            if isinstance(loaded, LoadedDecoder):
                undo.pop_all()
                return _generating(loaded, max(source.size_bytes, memory.held_bytes()))
            rules = with_initial_states(source)
            if problem := source.declared.problem(loaded.inputs, loaded.outputs):
                raise ModelInvalid(problem)
            plan = declared_plan(loaded, rules)
            task, missing = _task(source, plan)
            watch = OutputWatch(loaded)
            watched = cast("LoadedModel", watch)
            warm_up(source, watched, rules.warm_up)
            trial = with_shapes(plan, rules)
            # a pipeline's digest does not tell of which files its models are
            kept = None if source.is_pipeline else self._cache.get(self._key(source))
            measured = kept or self._measured(source, loaded, trial, watched)
            if kept is not None and kept.profile is not None:
                # its first run is slow: better now than for a caller
                self._measuring.try_once(watched, trial)
            if measured.is_one_threaded:
                loaded.close()
                with memory:
                    loaded = self._backend.load_stream(source)
                undo.callback(loaded.close)
                self._measuring.try_once(loaded, trial)
            plan = replace(plan, outputs=watch.widened(plan.outputs))
            stream = None
            if measured.stream_profile is not None:
                with memory:
                    stream = self._backend.load_stream(source)
                undo.callback(stream.close)
                self._measuring.try_once(stream, trial)
            if kept is None:
                held = memory.held_bytes()  # first: it is a look more
                measured = replace(measured, memory_bytes=held, peak_bytes=memory.peak_bytes())
                if not source.is_pipeline:
                    self._cache.put(self._key(source), measured)
            prepared = self._put_together(source, loaded, plan, measured, stream)
            undo.pop_all()
            labels, notes = read_labels(source.label_files, plan.public_outputs)
            return replace(
                prepared, labels=labels, notes=(*prepared.notes, *notes, *missing), task=task
            )

    def _put_together(
        self,
        source: ModelSource,
        loaded: LoadedModel,
        plan: BatchPlan,
        measured: Measured,
        stream: LoadedModel | None,
    ) -> LoadResult:
        rules = source.manifest.rules
        if plan.is_batching and not measured.is_batching:
            if rules.batching.is_enabled:
                raise ModelInvalid(
                    f"batching is asked for, but {measured.note}: set batching.enabled = false"
                )
            plan = plan.unbatched()
        notes = (*source.notes, *loaded.notes, *([measured.note] if measured.note else []))
        if plan.is_batching and measured.profile is not None:
            plan = with_rows(plan, measured.profile.best_rows, rules)
        if stream is None or measured.stream_profile is None:
            return LoadResult(loaded, plan, measured, notes)
        of_streams = measured.stream_profile
        streams = Streams(self._backend.streams, of_streams, of_streams.widest_rows)
        return LoadResult(loaded, plan, measured, notes, stream, streams)

    def needed_bytes(self, source: ModelSource) -> int:
        """Return the memory that loading a model takes at its peak, as measured at an earlier load, or its files' size."""
        measured = self._cache.get(self._key(source))
        if measured is None:
            return source.size_bytes
        return max(source.size_bytes, measured.memory_bytes, measured.peak_bytes)

    def _key(self, source: ModelSource) -> dict[str, str]:
        manifest = source.manifest
        rules = manifest.rules
        return {
            **self._circumstances,
            "measuring": REVISION,
            "digest": source.digest,
            "runtime": self._backend.runtime,
            "providers": repr((manifest.providers, manifest.allow_cpu_fallback)),
            "batching": repr(rules.batching),
            "states": repr(rules.sequence.states),
            "steps": repr(rules.steps),
            **_of_triton(source),
            "warm_up": repr(rules.warm_up),
            "may_stream": repr(rules.instances == 0),
        }

    # measuring

    def _measured(
        self, source: ModelSource, loaded: LoadedModel, plan: BatchPlan, watched: LoadedModel
    ) -> Measured:
        """Return what a model takes but for its memory; `watched` is it too, for runs that are not timed."""
        rules = source.manifest.rules
        open_dim, problem = self._measuring.open_dim(watched, plan)
        if open_dim is None:
            note = f"it was not measured, because it does not run on generated inputs: {problem}"
            is_batching = plan.is_batching and rules.batching.is_enabled is True
            if plan.is_batching and not is_batching:
                note += "; batching stays off (batching.enabled = true turns it on)"
            return Measured(None, 0, is_batching, note)
        note = ""
        if plan.is_batching:
            note = mixing(watched, plan, open_dim)
        is_batching = plan.is_batching and not note
        if not is_batching:
            plan = plan.unbatched()
        profile = self._measuring.profile(loaded, plan, open_dim, rules)
        alone = self._measuring.one_thread_profile(source, loaded, plan, open_dim, profile)
        of_streams = self._measuring.stream_profile(source, loaded, plan, open_dim, profile)
        need = self._measuring.need(loaded, plan, open_dim, profile, rules)
        return Measured(
            alone or profile,
            0,
            is_batching,
            note,
            of_streams,
            is_one_threaded=alone is not None,
            need=need,
        )
