"""Plans how a model may batch, by its inputs and its manifest alone. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from capamesh.node.repository.rules import NO_AXIS, ControlTensor, Rules, StateTensor
from capamesh.node.repository.triton.sequence_batching import INITIAL_FOLDER
from capamesh.node.scheduling import BatchPlan
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.protocol.windows import windows_problem

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel


def declared_plan(loaded: LoadedModel, rules: Rules) -> BatchPlan:
    """Return how the model may batch by what it declares; raise `ModelInvalid` where the rules ask for more."""
    inputs, outputs = loaded.inputs, loaded.outputs
    _check_rules(inputs, outputs, rules)
    state_axes = {state.input: state.axis for state in rules.sequence.states}
    shared: list[str] = []
    open_inputs = 0
    problem = ""
    if NO_AXIS in state_axes.values():
        problem = "a state has no axis along which sequences could be stacked"
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
        controls=rules.sequence.controls,
        looped=_looped(rules),
    )


def _looped(rules: Rules) -> tuple[str, ...]:
    """Return the outputs that a loop needs of every run, whatever its requests want."""
    loop = rules.loop
    if loop is None:
        return ()
    looped = [output for _, output in loop.feedback]
    return tuple(dict.fromkeys([*looped, loop.stop] if loop.stop else looped))


def with_rows(plan: BatchPlan, best_rows: int, rules: Rules) -> BatchPlan:
    """Return `plan` with the batch that was measured to be best, or the manifest's if that is smaller."""
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
    if rules.loop is not None:
        for name, feeding in rules.loop.feedback:
            spec = known(of_inputs, name, "loop.feedback: input")
            output = known(of_outputs, feeding, "loop.feedback: output")
            if spec.datatype is not output.datatype:
                raise ModelInvalid(
                    f"loop.feedback: input {name!r} is {spec.datatype} and output {feeding!r} {output.datatype}; both must"
                    " be of one datatype"
                )
        if rules.loop.stop:
            stop = known(of_outputs, rules.loop.stop, "loop.stop: output")
            if stop.datatype is Datatype.BYTES:
                raise ModelInvalid(
                    f"loop.stop: output {stop.name!r} is text, which is not zero or more"
                )
    own = rules.sequence.inputs
    if rules.windows is not None and (
        problem := windows_problem(rules.windows, [spec for spec in inputs if spec.name not in own])
    ):
        raise ModelInvalid(f"window: {problem}")
    for control in rules.sequence.controls:
        _check_control(control, known(of_inputs, control.input, "sequence control: input"))
    for state in rules.sequence.states:
        spec = known(of_inputs, state.input, "sequence.state: input")
        output = known(of_outputs, state.output, "sequence.state: output")
        if spec.datatype is not output.datatype or spec.datatype is Datatype.BYTES:
            raise ModelInvalid(
                f"sequence.state: input {state.input!r} is {spec.datatype} and output {state.output!r}"
                f" {output.datatype}; both must be of one datatype that is not BYTES"
            )
        if problem := _initial_problem(state, spec.datatype.itemsize_bytes or 0):
            raise ModelInvalid(problem)
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


def _check_control(control: ControlTensor, spec: TensorSpec) -> None:
    if spec.datatype is not control.datatype:
        raise ModelInvalid(
            f"sequence control: input {spec.name!r} is {spec.datatype}, the configuration gives {control.datatype}"
        )
    if not spec.shape or any(dim not in {-1, 1} for dim in spec.shape):
        raise ModelInvalid(
            f"sequence control: input {spec.name!r} of shape {list(spec.shape)} has not one element a request:"
            " [-1, 1], or [1] without a batch axis"
        )


def _initial_problem(state: StateTensor, itemsize: int) -> str:
    """Return why the contents of a state's file are not its elements of `itemsize` bytes each; "" if they are."""
    size_bytes = math.prod(state.shape) * itemsize
    if not state.initial_file or len(state.initial) == size_bytes:
        return ""
    return (
        f"{INITIAL_FOLDER}/{state.initial_file} has {len(state.initial)} bytes; the state {state.input!r} of shape "
        f"{list(state.shape)} has {size_bytes}"
    )
