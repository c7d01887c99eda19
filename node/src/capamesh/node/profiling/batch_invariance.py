"""Finds whether requests may share a run: a batch must give what its rows give alone. Runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.profiling.trial_inputs import QUANTITIES, row_of, trial_inputs
from capamesh.node.repository.rules import ControlKind
from capamesh.node.scheduling import BatchPlan
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Datatype, Tensor

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel

PROBE_ROWS: Final = (2, 3)
"""Batches that are compared with their rows run alone."""
RTOL, ATOL = 1e-2, 1e-3
"""The distance that a row may have from itself in a batch: far above what another kernel's rounding does, far below
what another row's influence does (guess)."""


def mixing(loaded: LoadedModel, plan: BatchPlan, open_dim: int) -> str:
    """Return why requests cannot share a run, "" when they can."""
    for rows in PROBE_ROWS:
        plain = trial_inputs(plan, rows, open_dim)
        varied = _varied(plan, plain)
        if varied is not None and _runs_alone(loaded, plan, varied, rows):
            problem = _mixing_of(loaded, plan, varied, rows)
        else:
            problem = _mixing_of(loaded, plan, plain, rows)
        if problem:
            return problem
    return ""


def _mixing_of(loaded: LoadedModel, plan: BatchPlan, inputs: Sequence[Tensor], rows: int) -> str:
    requests = [row_of(plan, inputs, row) for row in range(rows)]
    try:
        whole = loaded.run(inputs)
        shares = plan.split(requests, whole, inputs)
        for request, share in zip(requests, shares, strict=True):
            alone = loaded.run(request.inputs)
            for mine, own in zip(share, alone, strict=True):
                if not _alike(mine, own):
                    return (
                        f"output {own.name!r} of a request differs when it runs in a batch:"
                        " requests run alone"
                    )
    except CapameshError as error:
        return f"a batch of {rows} does not run: {error.message}: requests run alone"
    return ""


def _runs_alone(loaded: LoadedModel, plan: BatchPlan, inputs: Sequence[Tensor], rows: int) -> bool:
    try:
        for row in range(rows):
            loaded.run(row_of(plan, inputs, row).inputs)
    except CapameshError:
        return False
    return True


def _varied(plan: BatchPlan, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return a batch whose whole numbers are 0 and 1 by turns of the rows; None where it has no whole numbers.

    Rows that are all alike hide that they influence each other; 0 and 1 are what most lists and tables have.
    """
    kept = plan.shared | {state.input for state in plan.states}
    kept |= {one.input for one in plan.controls if one.kind is ControlKind.READY}
    varied: list[Tensor] = []
    for tensor in inputs:
        if tensor.name in kept or tensor.datatype in QUANTITIES | {Datatype.BYTES}:
            varied.append(tensor)
            continue
        array = np.zeros_like(tensor.to_numpy())
        array[1::2] = 1
        varied.append(Tensor.from_numpy(tensor.name, array, tensor.datatype))
    return tuple(varied) if varied != list(inputs) else None


def _alike(mine: Tensor, own: Tensor) -> bool:
    if mine.shape != own.shape or mine.datatype is not own.datatype:
        return False
    if bytes(mine.data) == bytes(own.data):
        return True
    if mine.datatype not in {Datatype.FP16, Datatype.FP32, Datatype.FP64}:
        return mine.datatype is Datatype.BF16  # its bits cannot be compared by size
    return bool(np.allclose(mine.to_numpy(), own.to_numpy(), RTOL, ATOL, equal_nan=True))
