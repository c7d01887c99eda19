"""Looks into an ONNX file for what a session does not tell: its weights and operators. Reads a given stream.

It also refuses what would be handed to a device's driver as it is. The file is walked by lengths, and
weights are skipped; field numbers are those of onnx.proto.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

from capamesh.node.repository.onnx_fields import MAX_DEPTH, MAX_FIELDS, Pages
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

MAX_SHORT_BYTES: Final = 4096  # guess: ten times any operator's name, or any tensor's rank
MOST: Final = 0.9
"""The share of a model's weights that names its precision (guess: leaves out biases and scales)."""

_OP_TYPE: Final = 4  # in NodeProto
_DIMS, _DATA_TYPE = 1, 2  # in TensorProto
_COMPILED_OPS: Final = frozenset({b"EPContext"})
"""Operators whose content a provider gives its driver to execute, machine code included."""
_OPEN_OPS: Final = frozenset(
    b"AffineGrid BeamSearch BlackmanWindow CenterCropPad Col2Im ConstantOfShape CropAndResize DFT Expand"
    b" GreedySearch HammingWindow HannWindow If Loop MaxUnpool MelWeightMatrix OneHot Pad Range Resize STFT Sampling Scan SequenceMap Tile Upsample"
    b" WhisperBeamSearch".split()
)
"""Operators whose work, or the size of what they make, is set by the values that they are given."""

_WEIGHTS: Final = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}
"""By TensorProto.DataType. Whole numbers of 16 bits and more are indices, shapes and biases."""
_NARROW: Final = frozenset({17, 18, 19, 20, 21, 22, 23, 24, 25, 26})
"""Types of 8 bits and fewer that are widened before they are used: float8, float4, int4, int2."""
_FLOATS: Final = {
    Datatype.FP16: "fp16",
    Datatype.BF16: "bf16",
    Datatype.FP32: "fp32",
    Datatype.FP64: "fp64",
}


class _Message(enum.Enum):
    MODEL = enum.auto()
    GRAPH = enum.auto()
    NODE = enum.auto()
    ATTRIBUTE = enum.auto()
    TENSOR = enum.auto()
    FUNCTION = enum.auto()


_CHILDREN: Final[dict[_Message, dict[int, _Message]]] = {
    _Message.MODEL: {7: _Message.GRAPH, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {6: _Message.GRAPH, 11: _Message.GRAPH},
    _Message.TENSOR: {},
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
}


class Contents(NamedTuple):
    """What an ONNX file holds."""

    weights: dict[int, int]
    """How many elements the weights have of each TensorProto.DataType."""
    is_data_dependent: bool
    """Whether some operator's work depends on more than the shapes of the inputs."""


def contents_of(stream: BinaryIO) -> Contents:
    """Return what the ONNX file holds.

    ModelInvalid: an operator that holds compiled code; no ONNX file; too deep or too many fields.
    """
    is_data_dependent = False
    elements: dict[int, int] = {}
    model = Pages(stream)
    pending = [(0, model.size_bytes, _Message.MODEL, 0)]
    budget = MAX_FIELDS
    while pending:
        position, end, message, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ModelInvalid(f"the ONNX file nests messages deeper than {MAX_DEPTH}")
        children = _CHILDREN[message]
        dims: list[int] = []
        data_type = 0
        while position < end:
            budget -= 1
            if budget < 0:
                raise ModelInvalid(f"the ONNX file has more than {MAX_FIELDS} fields")
            number, is_bytes, value, start, position = model.field(position, end)
            if message is _Message.TENSOR:
                if number == _DATA_TYPE:
                    data_type = value
                elif number == _DIMS:
                    dims.extend(_packed(model, start, position) if is_bytes else [value])
            elif message is _Message.NODE and number == _OP_TYPE:
                if not is_bytes:
                    raise ModelInvalid(
                        f"the ONNX file has a number as an operator's name at byte {start}"
                    )
                op_type = _short(model, start, position)
                _check_op(op_type)
                is_data_dependent = is_data_dependent or op_type in _OPEN_OPS
            elif is_bytes and number in children:
                pending.append((start, position, children[number], depth + 1))
        if message is _Message.TENSOR:
            elements[data_type] = elements.get(data_type, 0) + math.prod(dims)
    return Contents(elements, is_data_dependent)


def precision(weights: dict[int, int], specs: Sequence[TensorSpec]) -> str:
    """Return what a model's numbers are, by its weights, or by its inputs and outputs without any.

    "fp32", "fp16", "bf16", "fp64", "int8" (also of packed 4-bit weights, which look so), "mixed",
    or "" where nothing but text and whole numbers is seen.
    """
    kinds: dict[str, int] = {}
    for data_type, count in weights.items():
        kind = "mixed" if data_type in _NARROW else _WEIGHTS.get(data_type)
        if kind is not None:
            kinds[kind] = kinds.get(kind, 0) + count
    total = sum(kinds.values())
    if total:
        kind = max(kinds, key=lambda kind: kinds[kind])
        return kind if kinds[kind] >= MOST * total else "mixed"
    found = {_FLOATS[spec.datatype] for spec in specs if spec.datatype in _FLOATS}
    if len(found) > 1:
        return "mixed"
    return found.pop() if found else ""


def _check_op(op_type: bytes) -> None:
    if op_type in _COMPILED_OPS:
        raise ModelInvalid(
            f"the model has an operator {op_type.decode()}, which holds code compiled for a device; "
            "export it as an ordinary ONNX model"
        )


def _packed(model: Pages, start: int, stop: int) -> Iterator[int]:
    if stop - start > MAX_SHORT_BYTES:
        raise _too_long(start, stop)
    while start < stop:
        value, start = model.varint(start, stop)
        yield value


def _short(model: Pages, start: int, stop: int) -> bytes:
    """Return the bytes of a short field; ModelInvalid: it is longer than any name."""
    if stop - start > MAX_SHORT_BYTES:
        raise _too_long(start, stop)
    return model.slice(start, stop)


def _too_long(start: int, stop: int) -> ModelInvalid:
    return ModelInvalid(
        f"the ONNX file has a name or shape of {stop - start} bytes at byte {start}; at most "
        f"{MAX_SHORT_BYTES} are allowed"
    )
