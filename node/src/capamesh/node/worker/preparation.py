"""Makes a model ready: load, check against its rules, warm up, measure how it batches and how fast. Blocks.

Runs in a thread. What was measured is kept by digest and device, so that only a model's first start takes
the time; `measuring.BUDGET_S` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from capamesh.node.engine import BatchPlan, Streams
from capamesh.node.worker.declared_plan import declared_plan, with_rows
from capamesh.node.worker.measuring import Measuring
from capamesh.node.worker.mixing import mixing
from capamesh.node.worker.profile_cache import Measured, ProfileCache
from capamesh.node.worker.trial_inputs import QUANTITIES, with_shapes
from capamesh.node.worker.warm_up import warm_up
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.backend import Backend, LoadedModel
    from capamesh.node.store import ModelSource


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that can take requests."""

    loaded: LoadedModel
    plan: BatchPlan
    measured: Measured
    notes: tuple[str, ...] = ()
    stream: LoadedModel | None = None
    """The same on one thread, where `streams` says so."""
    streams: Streams | None = None

    def close(self) -> None:
        """Let go of the model; again is harmless."""
        self.loaded.close()
        if self.stream is not None:
            self.stream.close()

    @property
    def is_steady(self) -> bool:
        """Whether the time of a run depends on nothing but its rows.

        Not where an input is of whole numbers: one may be the turns of a loop or the size of a tensor, and was 0
        when the runs were timed.
        """
        return self.measured.profile is not None and all(
            spec.datatype in QUANTITIES and all(dim >= 0 for dim in spec.shape[1:])
            for spec in self.plan.inputs
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

    def prepare(self, source: ModelSource, load: Callable[[], LoadedModel]) -> Prepared:
        """Return what `load` gives, ready; raise `ModelInvalid` where it does not fit its rules."""
        used_before = self._backend.used_bytes()
        loaded = load()
        try:
            prepared = self._prepare(source, loaded, used_before)
        except BaseException:
            loaded.close()
            raise
        return (
            prepared
            if prepared.measured.stream_profile is None
            else self._streamed(source, prepared)
        )

    def _prepare(self, source: ModelSource, loaded: LoadedModel, used_before: int) -> Prepared:
        rules = source.manifest.rules
        if problem := source.declared.problem(loaded.inputs, loaded.outputs):
            raise ModelInvalid(problem)
        plan = declared_plan(loaded, rules)
        notes = list(source.notes)
        warm_up(source, loaded, rules.warm_up)
        key = self._key(source)
        # a pipeline's digest does not tell of which files its models are
        measured = None if source.is_pipeline else self._cache.get(key)
        if measured is None:
            measured = self._measured(source, loaded, with_shapes(plan, rules), used_before)
            if not source.is_pipeline:
                self._cache.put(key, measured)
        elif measured.profile is not None:  # its first run is slow: better now than for a caller
            self._measuring.try_once(loaded, with_shapes(plan, rules))
        if plan.is_batching and not measured.is_batching:
            if rules.batching.is_enabled:
                raise ModelInvalid(
                    f"batching is asked for, but {measured.note}: set batching.enabled = false"
                )
            plan = plan.unbatched()
        if measured.note:
            notes.append(measured.note)
        if plan.is_batching and measured.profile is not None:
            plan = with_rows(plan, measured.profile.best_rows, rules)
        return Prepared(loaded, plan, measured, tuple(notes))

    def needed_bytes(self, source: ModelSource) -> int:
        """Return the memory that a model takes, as measured at an earlier load; else its files' size."""
        measured = self._cache.get(self._key(source))
        return max(source.size_bytes, measured.memory_bytes if measured else 0)

    def _key(self, source: ModelSource) -> dict[str, str]:
        manifest = source.manifest
        rules = manifest.rules
        return {
            **self._circumstances,
            "digest": source.digest,
            "runtime": self._backend.runtime,
            "providers": repr((manifest.providers, manifest.allow_cpu_fallback)),
            "batching": repr(rules.batching),
            "states": repr(rules.sequence.states),
            "steps": repr(rules.steps),
            "warm_up": repr(rules.warm_up),
            "may_stream": repr(rules.instances == 0),
        }

    # measuring

    def _measured(
        self, source: ModelSource, loaded: LoadedModel, plan: BatchPlan, used_before: int
    ) -> Measured:
        rules = source.manifest.rules
        open_dim, problem = self._measuring.open_dim(loaded, plan)
        if open_dim is None:
            note = f"it was not measured, because it does not run on generated inputs: {problem}"
            is_batching = plan.is_batching and rules.batching.is_enabled is True
            if plan.is_batching and not is_batching:
                note += "; batching stays off (batching.enabled = true turns it on)"
            return Measured(None, self._memory(used_before), is_batching, note)
        note = ""
        if plan.is_batching:
            note = mixing(loaded, plan, open_dim)
        is_batching = plan.is_batching and not note
        if not is_batching:
            plan = plan.unbatched()
        profile = self._measuring.profile(loaded, plan, open_dim, rules)
        of_streams = self._measuring.stream_profile(source, plan, open_dim, profile)
        return Measured(profile, self._memory(used_before), is_batching, note, of_streams)

    def _memory(self, used_before: int) -> int:
        return max(0, self._backend.used_bytes() - used_before)

    def _streamed(self, source: ModelSource, prepared: Prepared) -> Prepared:
        """Return `prepared` with a session for runs of one thread each."""
        profile = prepared.measured.stream_profile
        assert profile is not None  # noqa: S101 - the caller has looked
        try:
            stream = self._backend.load_stream(source)
        except BaseException:
            prepared.loaded.close()
            raise
        rows = min(profile.widest_rows, prepared.plan.batch_rows)
        return replace(
            prepared, stream=stream, streams=Streams(self._backend.streams, profile, rows)
        )

    # warm-up
