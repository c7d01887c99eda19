"""Makes a model ready: load, check against its rules, warm up, measure how it batches and how fast. Blocks.

Runs in a thread. What was measured is kept by digest and device, so that only a model's first start takes
the time; `BUDGET_S` bounds it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.engine import BatchPlan, Work
from capamesh.node.generated_inputs import generated_inputs
from capamesh.node.profile import ProfilePoint, ServiceProfile, next_rows
from capamesh.node.store.rules import Rules, WarmUp
from capamesh.node.worker.profile_cache import Measured, ProfileCache
from capamesh.protocol.errors import CapameshError, ModelInvalid
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.backend import Backend, LoadedModel
    from capamesh.node.store import ModelSource

BUDGET_S: Final = 3.0
"""For measuring one model at its first load (guess: a start that people wait for)."""
POINT_S: Final = 0.25
"""For one number of rows."""
POINT_RUNS: Final = 25
"""A median of more is no better."""
MAX_BATCH_ROWS: Final = 1024
"""Larger batches gain nothing that was measured: a tiny MLP is flat from 64 on (guess)."""
PROFILE_DIMS: Final = (64, 16, 8, 1, 224)
"""Sizes for open dimensions besides the batch, where no warm-up gives shapes: the first that runs counts
(guess: a sentence of 64 tokens, a small picture; a length of 1 would tell nothing of the real one)."""
PROBE_ROWS: Final = (2, 3)
"""Batches that are compared with their rows run alone."""
RTOL, ATOL = 1e-2, 1e-3
"""How far a row may be from itself in a batch: far above what another kernel's rounding does, far below
what another row's influence does (guess)."""
_MEASURES: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
"""Datatypes of quantities: they seldom decide how much there is to do."""
MIN_FREE_SHARE: Final = 0.1
"""A larger batch is not tried when less of the memory is free (guess)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that can take requests."""

    loaded: LoadedModel
    plan: BatchPlan
    measured: Measured
    notes: tuple[str, ...] = ()

    @property
    def is_steady(self) -> bool:
        """Whether the time of a run depends on nothing but its rows.

        Not where an input is of whole numbers: one may be the turns of a loop or the size of a tensor, and was 0
        when the runs were timed.
        """
        return self.measured.profile is not None and all(
            spec.datatype in _MEASURES and all(dim >= 0 for dim in spec.shape[1:])
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
        self._clock = clock

    def prepare(self, source: ModelSource, load: Callable[[], LoadedModel]) -> Prepared:
        """Return what `load` gives, ready; raise `ModelInvalid` where it does not fit its rules."""
        used_before = self._backend.used_bytes()
        loaded = load()
        try:
            return self._prepare(source, loaded, used_before)
        except BaseException:
            loaded.close()
            raise

    def _prepare(self, source: ModelSource, loaded: LoadedModel, used_before: int) -> Prepared:
        rules = source.manifest.rules
        if problem := source.declared.problem(loaded.inputs, loaded.outputs):
            raise ModelInvalid(problem)
        plan = _declared_plan(loaded, rules)
        notes = list(source.notes)
        self._warm_up(source, loaded, rules.warm_up)
        key = self._key(source)
        # a pipeline's digest does not tell of which files its models are
        measured = None if source.is_pipeline else self._cache.get(key)
        if measured is None:
            measured = self._measured(loaded, _with_shapes(plan, rules), rules, used_before)
            if not source.is_pipeline:
                self._cache.put(key, measured)
        elif measured.profile is not None:  # its first run is slow: better now than for a caller
            self._try(loaded, _with_shapes(plan, rules))
        if plan.is_batching and not measured.is_batching:
            if rules.batching.is_enabled:
                raise ModelInvalid(
                    f"batching is asked for, but {measured.note}: set batching.enabled = false"
                )
            plan = plan.unbatched()
        if measured.note:
            notes.append(measured.note)
        if plan.is_batching and measured.profile is not None:
            plan = _with_rows(plan, measured.profile.best_rows, rules)
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
        }

    # measuring

    def _measured(
        self, loaded: LoadedModel, plan: BatchPlan, rules: Rules, used_before: int
    ) -> Measured:
        open_dim, problem = self._open_dim(loaded, plan)
        if open_dim is None:
            note = f"it was not measured, because it does not run on generated inputs: {problem}"
            is_batching = plan.is_batching and rules.batching.is_enabled is True
            if plan.is_batching and not is_batching:
                note += "; batching stays off (batching.enabled = true turns it on)"
            return Measured(None, self._memory(used_before), is_batching, note)
        note = ""
        if plan.is_batching:
            note = self._mixing(loaded, plan, open_dim)
        is_batching = plan.is_batching and not note
        profile = self._profile(loaded, plan if is_batching else plan.unbatched(), open_dim, rules)
        return Measured(profile, self._memory(used_before), is_batching, note)

    def _memory(self, used_before: int) -> int:
        return max(0, self._backend.used_bytes() - used_before)

    def _open_dim(self, loaded: LoadedModel, plan: BatchPlan) -> tuple[int | None, str]:
        """Return a size for open dimensions that the model runs with, or why none does."""
        problem = ""
        is_open = any(dim < 0 for spec in plan.inputs for dim in spec.shape[1:])
        for open_dim in PROFILE_DIMS if is_open else PROFILE_DIMS[:1]:
            try:
                loaded.run(_inputs(plan, 1, open_dim))
            except CapameshError as error:
                problem = problem or error.message
            else:
                return open_dim, ""
        return None, problem

    def _mixing(self, loaded: LoadedModel, plan: BatchPlan, open_dim: int) -> str:
        """Return why requests cannot share a run, "" when they can."""
        for rows in PROBE_ROWS:
            plain = _inputs(plan, rows, open_dim)
            varied = _varied(plan, plain)
            if varied is not None and self._runs_alone(loaded, plan, varied, rows):
                problem = self._mixing_of(loaded, plan, varied, rows)
            else:
                problem = self._mixing_of(loaded, plan, plain, rows)
            if problem:
                return problem
        return ""

    def _mixing_of(
        self, loaded: LoadedModel, plan: BatchPlan, inputs: Sequence[Tensor], rows: int
    ) -> str:
        works = [_row_of(plan, inputs, row) for row in range(rows)]
        try:
            whole = loaded.run(inputs)
            shares = plan.split(works, whole, inputs)
            for work, share in zip(works, shares, strict=True):
                alone = loaded.run(work.inputs)
                for mine, own in zip(share, alone, strict=True):
                    if not _alike(mine, own):
                        return (
                            f"output {own.name!r} of a request differs when it runs in a batch:"
                            " requests run alone"
                        )
        except CapameshError as error:
            return f"a batch of {rows} does not run: {error.message}: requests run alone"
        return ""

    def _runs_alone(
        self, loaded: LoadedModel, plan: BatchPlan, inputs: Sequence[Tensor], rows: int
    ) -> bool:
        try:
            for row in range(rows):
                loaded.run(_row_of(plan, inputs, row).inputs)
        except CapameshError:
            return False
        return True

    def _profile(
        self, loaded: LoadedModel, plan: BatchPlan, open_dim: int, rules: Rules
    ) -> ServiceProfile:
        points: tuple[ProfilePoint, ...] = ()
        ends_s = self._clock() + BUDGET_S
        limit = rules.batching.max_rows or MAX_BATCH_ROWS
        max_rows = limit if plan.is_batching else 1
        while True:
            rows = next_rows(points, max_rows=max_rows, left_s=max(0.0, ends_s - self._clock()))
            if rows is None or (points and self._is_tight()):
                break
            try:
                points = (*points, self._point(loaded, _inputs(plan, rows, open_dim), rows))
            except CapameshError:
                if not points:
                    raise
                break  # as many rows as that do not fit: the last is the most
        return ServiceProfile(points)

    def _point(self, loaded: LoadedModel, inputs: Sequence[Tensor], rows: int) -> ProfilePoint:
        clock = self._clock
        loaded.run(inputs)  # the first of a new shape allocates
        ends_s = clock() + POINT_S
        times: list[float] = []
        while len(times) < POINT_RUNS and (not times or clock() < ends_s):
            began_s = clock()
            loaded.run(inputs)
            times.append(clock() - began_s)
        return ProfilePoint(rows, max(statistics.median(times), 1e-7))

    def _is_tight(self) -> bool:
        free = self._backend.free_bytes()
        return free < MIN_FREE_SHARE * (free + self._backend.used_bytes())

    def _try(self, loaded: LoadedModel, plan: BatchPlan) -> None:
        for open_dim in PROFILE_DIMS:
            try:
                loaded.run(_inputs(plan, 1, open_dim))
            except CapameshError:
                continue
            return

    # warm-up

    def _warm_up(self, source: ModelSource, loaded: LoadedModel, warm_up: Sequence[WarmUp]) -> None:
        for number, one in enumerate(warm_up, 1):
            try:
                inputs = _given(source, loaded, one) if one.file else _shaped(loaded.inputs, one)
                loaded.validate(inputs)
                for _ in range(one.count):
                    loaded.run(inputs)
            except CapameshError as error:
                raise ModelInvalid(f"warm-up {number} does not run: {error.message}") from error


def _declared_plan(loaded: LoadedModel, rules: Rules) -> BatchPlan:
    """Return how the model may batch by what it declares; raise `ModelInvalid` where the rules ask for more."""
    inputs, outputs = loaded.inputs, loaded.outputs
    _check_rules(inputs, outputs, rules)
    state_axes = {state.input: state.axis for state in rules.sequence.states}
    shared: list[str] = []
    open_inputs = 0
    problem = ""
    for spec in inputs:
        axis = state_axes.get(spec.name, 0)
        if len(spec.shape) <= axis:
            shared.append(spec.name)  # a scalar: a setting rather than data
        elif spec.shape[axis] == -1:
            open_inputs += 1
        elif not problem:
            problem = f"input {spec.name!r} of shape {list(spec.shape)} has a fixed first axis"
    if not open_inputs and not problem:
        problem = "no input has an open first axis"
    wanted = rules.batching.is_enabled
    if wanted and problem:
        raise ModelInvalid(f"batching is asked for, but {problem}: set batching.enabled = false")
    is_batching = wanted is not False and not problem
    return BatchPlan(
        inputs,
        outputs,
        is_batching=is_batching,
        batch_rows=rules.batching.max_rows or 1,
        max_rows=rules.batching.max_rows or 0,
        shared=frozenset(shared) if is_batching else frozenset(),
        ragged=rules.batching.ragged,
        states=rules.sequence.states,
    )


def _with_rows(plan: BatchPlan, best_rows: int, rules: Rules) -> BatchPlan:
    return replace(plan, batch_rows=min(best_rows, rules.batching.max_rows or best_rows))


def _check_rules(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rules: Rules) -> None:
    of_inputs = {spec.name: spec for spec in inputs}
    of_outputs = {spec.name: spec for spec in outputs}

    def known(specs: Mapping[str, TensorSpec], name: str, what: str) -> TensorSpec:
        spec = specs.get(name)
        if spec is None:
            raise ModelInvalid(f"{what} {name!r} is not one of the model's: {', '.join(specs)}")
        return spec

    for ragged in rules.batching.ragged:
        spec = known(of_inputs, ragged.name, "batching.ragged: input")
        if spec.datatype is Datatype.BYTES:
            raise ModelInvalid(
                f"batching.ragged: input {ragged.name!r} is text, which is not padded"
            )
        if not 0 < ragged.axis < len(spec.shape) or spec.shape[ragged.axis] != -1:
            raise ModelInvalid(
                f"batching.ragged: axis {ragged.axis} of input {ragged.name!r} {list(spec.shape)} is not open"
            )
        pad = np.array(ragged.pad)
        if spec.datatype is not Datatype.BF16 and pad.astype(spec.datatype.numpy_dtype) != pad:
            raise ModelInvalid(
                f"batching.ragged: pad {ragged.pad} is no {spec.datatype}, as input {ragged.name!r} is"
            )
        if ragged.mask:
            mask = known(of_inputs, ragged.mask, "batching.ragged: mask")
            if mask.datatype is Datatype.BYTES:
                raise ModelInvalid(f"batching.ragged: mask {ragged.mask!r} is text")
        for name in ragged.outputs:
            known(of_outputs, name, "batching.ragged: output")
    for state in rules.sequence.states:
        spec = known(of_inputs, state.input, "sequence.state: input")
        output = known(of_outputs, state.output, "sequence.state: output")
        if spec.datatype is not output.datatype or spec.datatype is Datatype.BYTES:
            raise ModelInvalid(
                f"sequence.state: input {state.input!r} is {spec.datatype} and output {state.output!r}"
                f" {output.datatype}; both must be of one datatype that is not BYTES"
            )
        shape = state.shape or tuple(
            1 if at == state.axis else dim for at, dim in enumerate(spec.shape)
        )
        if (
            len(shape) <= state.axis
            or min(shape, default=-1) < 0
            or spec.accepts(spec.datatype, shape)
        ):
            raise ModelInvalid(
                f"sequence.state: the shape {list(shape)} of {state.input!r} does not fit the model's"
                f" {list(spec.shape)} with axis {state.axis}: give sequence.state.shape"
            )


def _with_shapes(plan: BatchPlan, rules: Rules) -> BatchPlan:
    """Return a plan whose open dimensions are as the first warm-up gives them: what real requests are like."""
    shapes = dict(rules.warm_up[0].shapes) if rules.warm_up else {}
    inputs = tuple(
        replace(spec, shape=(*spec.shape[:1], *shapes[spec.name][1:]))
        if spec.name in shapes and spec.shape
        else spec
        for spec in plan.inputs
    )
    return replace(plan, inputs=inputs)


def _inputs(plan: BatchPlan, rows: int, open_dim: int) -> tuple[Tensor, ...]:
    """Return generated inputs of a batch, states and shared inputs included."""
    state_axes = {state.input: state for state in plan.states}
    inputs: list[Tensor] = []
    for at, spec in enumerate(plan.inputs):
        state = state_axes.get(spec.name)
        if state is None:
            (tensor,) = generated_inputs((spec,), rows=rows, open_dim=open_dim, seed=at)
        else:
            shape = state.shape or spec.shape
            whole = tuple(rows if axis == state.axis else dim for axis, dim in enumerate(shape))
            size = math.prod(whole) * (spec.datatype.itemsize_bytes or 0)
            tensor = Tensor(spec.name, spec.datatype, whole, bytes(size))
        inputs.append(tensor)
    return tuple(inputs)


def _varied(plan: BatchPlan, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return a batch whose whole numbers are 0 and 1 by turns of the rows; None where it has no whole numbers.

    Rows that are all alike hide that they influence each other; 0 and 1 are what most lists and tables have.
    """
    kept = plan.shared | {state.input for state in plan.states}
    varied: list[Tensor] = []
    for tensor in inputs:
        if tensor.name in kept or tensor.datatype in _MEASURES | {Datatype.BYTES}:
            varied.append(tensor)
            continue
        array = np.zeros_like(tensor.to_numpy())
        array[1::2] = 1
        varied.append(Tensor.from_numpy(tensor.name, array, tensor.datatype))
    return tuple(varied) if varied != list(inputs) else None


def _row_of(plan: BatchPlan, inputs: Sequence[Tensor], row: int) -> Work:
    axes = {state.input: state.axis for state in plan.states}
    own: list[Tensor] = []
    for tensor in inputs:
        if tensor.name in plan.shared:
            own.append(tensor)
            continue
        array = tensor.to_numpy()
        part = np.take(array, [row], axes.get(tensor.name, 0))
        own.append(Tensor.from_numpy(tensor.name, part, tensor.datatype))
    return Work(tuple(own), (), _nobody, arrived_s=0.0)


def _nobody(work: Work, result: object) -> None:
    """Stand for a caller where there is none."""


def _alike(mine: Tensor, own: Tensor) -> bool:
    if mine.shape != own.shape or mine.datatype is not own.datatype:
        return False
    if bytes(mine.data) == bytes(own.data):
        return True
    if mine.datatype not in {Datatype.FP16, Datatype.FP32, Datatype.FP64}:
        return mine.datatype is Datatype.BF16  # its bits cannot be compared by size
    return bool(np.allclose(mine.to_numpy(), own.to_numpy(), RTOL, ATOL, equal_nan=True))


def _shaped(specs: Sequence[TensorSpec], warm_up: WarmUp) -> tuple[Tensor, ...]:
    shapes = dict(warm_up.shapes)
    unknown = shapes.keys() - {spec.name for spec in specs}
    if unknown:
        raise ModelInvalid(f"the model has no input {sorted(unknown)}")
    return generated_inputs(
        [TensorSpec(spec.name, spec.datatype, shapes.get(spec.name, spec.shape)) for spec in specs],
        rows=1,
    )


def _given(source: ModelSource, loaded: LoadedModel, warm_up: WarmUp) -> tuple[Tensor, ...]:
    datatypes = {spec.name: spec.datatype for spec in loaded.inputs}
    path = next((file.path for file in source.warm_up_files if file.name == warm_up.file), None)
    if path is None:
        raise ModelInvalid(f"{warm_up.file!r} is not in the model's folder")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(
                Tensor.from_numpy(name, arrays[name], datatypes.get(name)) for name in arrays.files
            )
    except (OSError, ValueError, EOFError, KeyError) as exc:
        raise ModelInvalid(f"{warm_up.file!r} cannot be read: {exc}") from exc
