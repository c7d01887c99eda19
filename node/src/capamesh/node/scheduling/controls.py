"""The inputs by which a model learns where in its sequence a request is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.repository.rules import ControlKind, ControlTensor
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, join_elements

if TYPE_CHECKING:
    from capamesh.protocol.links.sequence_mark import SequenceMark

_BATCHED_AXES: Final = 2
"""A control has one element a request: of two axes the first is the batch."""


class Controls:
    """The control inputs of one model; the tensors of all but the id are made once."""

    __slots__ = ("_flags", "_ids", "_names", "has_batch_axis")

    def __init__(self, controls: Sequence[ControlTensor], inputs: Sequence[TensorSpec]) -> None:
        """Take controls that are inputs of the model, in any datatype but that of the model refused before."""
        shapes = {spec.name: (1,) * len(spec.shape) for spec in inputs}
        self._names = frozenset(control.input for control in controls)
        self._flags = [
            (control.kind, _flag(control, shapes, on=False), _flag(control, shapes, on=True))
            for control in controls
            if control.kind is not ControlKind.ID
        ]
        self._ids = [
            (control, shapes.get(control.input, ()))
            for control in controls
            if control.kind is ControlKind.ID
        ]
        self.has_batch_axis = any(
            len(shapes.get(name, ())) >= _BATCHED_AXES for name in self._names
        )

    def tensors(self, given: Collection[str], mark: SequenceMark | None) -> list[Tensor]:
        """Return what a request at `mark` of its sequence gives the model; of one without a sequence, what says no.

        InvalidRequest: one of them is among the `given` inputs; the id does not fit the control's datatype.
        """
        for name in self._names:
            if name in given:
                raise InvalidRequest(
                    f"input {name!r} tells the model where in its sequence a request is, which the node fills in:"
                    " leave it out"
                )
        tensors: list[Tensor] = []
        for kind, off, on in self._flags:
            is_on = kind is ControlKind.READY or (
                mark is not None and (mark.is_start if kind is ControlKind.START else mark.is_end)
            )
            tensors.append(on if is_on else off)
        for control, shape in self._ids:
            tensors.append(_id(control, shape, 0 if mark is None else mark.id))
        return tensors


def _flag(control: ControlTensor, shapes: dict[str, tuple[int, ...]], *, on: bool) -> Tensor:
    shape = shapes.get(control.input, ())
    dtype = control.datatype.numpy_dtype
    array = np.full(shape, control.on if on else control.off).astype(dtype)
    return Tensor(control.input, control.datatype, shape, array.tobytes())


def _id(control: ControlTensor, shape: tuple[int, ...], key: int | str) -> Tensor:
    if control.datatype is Datatype.BYTES:
        return Tensor(control.input, control.datatype, shape, join_elements([str(key).encode()]))
    limits = np.iinfo(control.datatype.numpy_dtype)
    if isinstance(key, str) or key > limits.max:
        raise InvalidRequest(
            f"sequence_id is {key!r:.80}: this model takes {control.datatype}, a number from 1 to {limits.max}"
        )
    raw = np.array(key, control.datatype.numpy_dtype).tobytes()
    return Tensor(control.input, control.datatype, shape, raw)
