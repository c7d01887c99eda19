"""Inputs for trying a model that nobody has asked anything of yet. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from capamesh.node.profiling.synthetic_inputs import generated_shape, synthetic_inputs
from capamesh.node.repository.rules import ControlKind, ControlTensor, Rules
from capamesh.node.scheduling import BatchPlan, PendingRequest
from capamesh.protocol.tensors import Datatype, Tensor

QUANTITIES: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
"""Datatypes of quantities: they seldom decide how much there is to do."""


def with_shapes(plan: BatchPlan, rules: Rules) -> BatchPlan:
    """Return a plan whose open dimensions are as the first warm-up gives them: what real requests are like."""
    shapes = dict(rules.warm_up[0].shapes) if rules.warm_up else {}
    inputs = tuple(
        replace(spec, shape=(*spec.shape[:1], *shapes[spec.name][1:]))
        if spec.name in shapes and spec.shape
        else spec
        for spec in plan.inputs
    )
    return replace(plan, inputs=inputs)


def trial_inputs(plan: BatchPlan, rows: int, open_dim: int) -> tuple[Tensor, ...]:
    """Return generated inputs of a batch, states and shared inputs included."""
    state_axes = {state.input: state for state in plan.states}
    ready = {one.input: one for one in plan.controls if one.kind is ControlKind.READY}
    inputs: list[Tensor] = []
    for at, spec in enumerate(plan.inputs):
        state = state_axes.get(spec.name)
        if spec.name in ready:
            tensor = _ready(ready[spec.name], generated_shape(spec, rows=rows))
        elif state is None:
            (tensor,) = synthetic_inputs((spec,), rows=rows, open_dim=open_dim, seed=at)
        else:
            shape = state.shape or spec.shape
            whole = tuple(rows if axis == state.axis else dim for axis, dim in enumerate(shape))
            size = math.prod(whole) * (spec.datatype.itemsize_bytes or 0)
            tensor = Tensor(spec.name, spec.datatype, whole, bytes(size))
        inputs.append(tensor)
    return tuple(inputs)


def _ready(control: ControlTensor, shape: tuple[int, ...]) -> Tensor:
    """Return what says that there is a request in each row: without it a model may leave out what it has to do."""
    array = np.full(shape, control.on).astype(control.datatype.numpy_dtype)
    return Tensor(control.input, control.datatype, shape, array.tobytes())


def row_of(plan: BatchPlan, inputs: Sequence[Tensor], row: int) -> PendingRequest:
    """Return one row of a batch as a request of its own."""
    axes = {state.input: state.axis for state in plan.states}
    own: list[Tensor] = []
    for tensor in inputs:
        if tensor.name in plan.shared:
            own.append(tensor)
            continue
        array = tensor.to_numpy()
        part = np.take(array, [row], axes.get(tensor.name, 0))
        own.append(Tensor.from_numpy(tensor.name, part, tensor.datatype))
    return PendingRequest(tuple(own), (), _nobody, arrived_s=0.0)


def _nobody(request: PendingRequest, result: object) -> None:
    """Stand for a caller where there is none."""
