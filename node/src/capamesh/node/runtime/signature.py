"""The inputs and outputs of a model, and the check that a request fits them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest, ModelInvalid
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, split_elements

SHOWN_CHARS: Final = 500  # guess: how much of a runtime's message or a model's signature helps
READ_TEXTS: Final = 4096
"""Texts that are read before a request joins a batch (measured: 1.8 ms, for which the event loop stands still). Of more
the run finds out what is wrong, and its batch is then run one by one."""


_DATATYPES: Final = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
"""The datatypes by ONNX Runtime's names."""


_NO_TENSORS: Final = ("seq(", "map(", "optional(")
"""The beginnings of the types of values that are no tensors, by ONNX Runtime's names."""
ZIPMAP_HINT: Final = "skl2onnx makes a tensor of it with options={'zipmap': False}"
"""The way out for the classifiers of scikit-learn, whose probabilities are a list of dictionaries by default."""


class NotUtf8(InvalidRequest):
    """A text is no UTF-8, and whoever runs the model cannot be given such."""


class Signature:
    """A model's inputs and outputs, with the check that is made of every request.

    A request that fits is found to do so by a few comparisons (0.5 µs for one input, measured); only
    when these fail, or where there is text to read, is it gone through again for what to say.
    """

    __slots__ = (
        "_count", "_inputs", "_outputs", "_quick", "_reads_texts", "inputs", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        reads_texts: bool = True,
    ) -> None:
        """Take the specs; where `reads_texts`, texts must be UTF-8, else the run takes any, or refuses them itself."""
        self.inputs = inputs
        self._reads_texts = reads_texts
        self.outputs = outputs
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = frozenset(spec.name for spec in outputs)
        self._count = len(inputs)
        self._quick = {
            spec.name: (
                spec.datatype,
                len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if size >= 0),
            )
            for spec in inputs
            if spec.datatype is not Datatype.BYTES
        }

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check the datatypes and shapes of a request; see `LoadedModel.validate`."""
        if outputs or not self._fits(inputs):
            self._check_inputs(inputs)
            self._check_outputs(outputs)

    def _fits(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether the inputs certainly fit; False says only that they must be looked at closely."""
        if len(inputs) != self._count:
            return False
        quick = self._quick
        for tensor in inputs:
            wanted = quick.get(tensor.name)
            if wanted is None:
                return False
            datatype, rank, sizes = wanted
            shape = tensor.shape
            # No rank is a scalar or any shape at all.
            if tensor.datatype is not datatype or (rank and len(shape) != rank):
                return False
            for axis, size in sizes:
                if shape[axis] != size:
                    return False
        return self._count == 1 or len({tensor.name for tensor in inputs}) == self._count

    def _check_inputs(self, inputs: Sequence[Tensor]) -> None:
        given: set[str] = set()
        for tensor in inputs:
            name = tensor.name
            spec = self._inputs.get(name)
            if spec is None:
                self._refuse(f"the model has no input {name[:SHOWN_CHARS]!r}")
            if name in given:
                self._refuse(f"input {name!r} is given twice")
            given.add(name)
            # ONNX Runtime reports a scalar and an input of any rank alike, as []: it judges those.
            shape = tensor.shape if spec.shape else ()
            if reason := spec.accepts(tensor.datatype, shape):
                self._refuse(reason)
            if (
                self._reads_texts
                and tensor.datatype is Datatype.BYTES
                and math.prod(shape or tensor.shape) <= READ_TEXTS
            ):
                texts(tensor)
        if len(given) != self._count:
            missing = [spec.name for spec in self.inputs if spec.name not in given]
            self._refuse(cut(f"inputs {missing} are missing"))

    def _check_outputs(self, outputs: Sequence[str]) -> None:
        if len(set(outputs)) != len(outputs):
            raise InvalidRequest(f"an output is asked for twice: {cut(str(list(outputs)))}")
        for name in outputs:
            if name not in self._outputs:
                raise InvalidRequest(
                    f"the model has no output {name[:SHOWN_CHARS]!r}; its outputs are "
                    f"{described(self.outputs)}"
                )

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidRequest(f"{reason}; the model's inputs are {described(self.inputs)}")


def declared(side: str, name: str, kind: str, shape: Sequence[object]) -> TensorSpec:
    """Return an input or output as ONNX Runtime declares it; symbolic and unknown dimensions become -1.

    `side` names it in the complaint. ModelInvalid: a type that the wire cannot carry.
    """
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise ModelInvalid(
            f"{side} {name!r} is {kind}, which the protocol cannot carry; it takes "
            f"{', '.join(_DATATYPES)}"
        )
    return TensorSpec(name, datatype, tuple(dim if isinstance(dim, int) else -1 for dim in shape))


def declared_outputs(
    outputs: Iterable[tuple[str, str, Sequence[object]]],
) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """Return the outputs that can be served, and a note on each that is left out because it is no tensor.

    `outputs` are names, types and shapes as ONNX Runtime declares them. ModelInvalid: a tensor that the wire cannot
    carry, or nothing is left.
    """
    specs: list[TensorSpec] = []
    left_out: list[tuple[str, str]] = []
    for name, kind, shape in outputs:
        if kind.startswith(_NO_TENSORS):
            hint = f"; {ZIPMAP_HINT}" if "map(" in kind else ""
            left_out.append((f"output {cut(name)!r}", f"is {cut(kind)}, which is no tensor{hint}"))
        else:
            specs.append(declared("output", name, kind, shape))
    if left_out and not specs:
        raise ModelInvalid(" ".join(left_out[0]))
    notes = tuple(f"{output} is left out: it {reason}" for output, reason in left_out)
    return tuple(specs), notes


def texts(tensor: Tensor) -> npt.NDArray[Any]:
    """Return BYTES as an object array of the same shape, of the `str` that ONNX Runtime's Python binding takes.

    Raises:
        NotUtf8: it cannot be, for some element is no UTF-8.
    """
    array = np.empty(tensor.shape, dtype=object)
    flat = array.reshape(-1)
    for index, element in enumerate(split_elements(tensor.data, flat.size)):
        try:
            flat[index] = element.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise NotUtf8(
                f"input {tensor.name!r}: element {index} starts with {element[:16]!r} and is not UTF-8: this node "
                "gives the model texts through ONNX Runtime's Python binding, which takes no others"
            ) from exc
    return array


def cut(text: str) -> str:
    """Return `text` short enough for a message."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def described(specs: Sequence[TensorSpec]) -> str:
    """Return inputs or outputs by their names, datatypes and shapes, short enough for a message."""
    return cut(", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs))
