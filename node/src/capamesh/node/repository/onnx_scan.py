"""Walks through an ONNX file once, and tells what a node must know before it loads it. Reads a given stream.

That is the other files that it names, its weights and its operators, none of which a session tells. What would be handed
to a device's driver as it is, is refused. The file, a protobuf, is walked by lengths and weights are skipped; field
numbers are those of onnx.proto.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple

from capamesh.node.repository.onnx_fields import MAX_DEPTH, MAX_FIELDS, Pages
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

MAX_SHORT_BYTES: Final = 4096  # guess: ten times any operator's name, or any tensor's rank
MAX_NODES: Final = (
    500_000  # guess: ten times the fields of a 135M-parameter decoder; a runtime plans each
)
MAX_LOCATION_BYTES: Final = 4096  # Linux's PATH_MAX
MAX_RANK: Final = 64  # numpy's; the product of more could take hours
MOST: Final = 0.9
"""The share of a model's weights that names its precision (guess: leaves out biases and scales)."""

_OP_TYPE: Final = 4  # in NodeProto
_DIMS, _DATA_TYPE = 1, 2  # in TensorProto
_ENTRY_KEY, _ENTRY_VALUE = 1, 2  # in StringStringEntryProto
_COMPILED_OPS: Final = frozenset({b"EPContext"})
"""Operators whose content a provider gives its driver to execute, machine code included."""
_OPEN_OPS: Final = frozenset(
    b"AffineGrid BeamSearch BlackmanWindow CenterCropPad Col2Im ConstantOfShape CropAndResize DFT Expand"
    b" GreedySearch HammingWindow HannWindow If Loop MaxUnpool MelWeightMatrix OneHot Pad Range Resize STFT Sampling Scan SequenceMap Tile Upsample"
    b" WhisperBeamSearch".split()
)
"""Operators whose work, or the size of what they make, is set by the values that they are given."""
_RANDOM_OPS: Final = frozenset(
    b"Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike Sampling".split()
)
"""Operators that draw by chance, with a seed too: each run goes on where the one before has ended."""
_SLOT_OPS: Final = frozenset({b"GroupQueryAttention"})
"""Operators that write keys and values into slots of a buffer, each as long as its own sequence."""

_WEIGHTS: Final = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}
"""The precisions of weights by TensorProto.DataType. Whole numbers of 16 bits and more are indices, shapes and biases."""
_NARROW: Final = frozenset({17, 18, 19, 20, 21, 22, 23, 24, 25, 26})
"""Types of 8 bits and fewer that are widened before they are used: float8, float4, int4, int2."""
_FLOATS: Final = {
    Datatype.FP16: "fp16",
    Datatype.BF16: "bf16",
    Datatype.FP32: "fp32",
    Datatype.FP64: "fp64",
}


class _Message(enum.Enum):
    """The messages between a model and its tensors and operators."""

    MODEL = enum.auto()
    GRAPH = enum.auto()
    NODE = enum.auto()
    ATTRIBUTE = enum.auto()
    WEIGHT = enum.auto()
    """A tensor among a graph's initializers; the others are values of attributes and parts of sparse tensors."""
    TENSOR = enum.auto()
    SPARSE_TENSOR = enum.auto()
    FUNCTION = enum.auto()
    TRAINING = enum.auto()
    ENTRY = enum.auto()


_CHILDREN: Final[dict[_Message, dict[int, _Message]]] = {
    _Message.MODEL: {7: _Message.GRAPH, 20: _Message.TRAINING, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.WEIGHT, 15: _Message.SPARSE_TENSOR},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {
        5: _Message.TENSOR,
        6: _Message.GRAPH,
        10: _Message.TENSOR,
        11: _Message.GRAPH,
        22: _Message.SPARSE_TENSOR,
        23: _Message.SPARSE_TENSOR,
    },
    _Message.WEIGHT: {13: _Message.ENTRY},
    _Message.TENSOR: {13: _Message.ENTRY},
    _Message.SPARSE_TENSOR: {1: _Message.TENSOR, 2: _Message.TENSOR},
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
    _Message.TRAINING: {1: _Message.GRAPH, 2: _Message.GRAPH},
    _Message.ENTRY: {},
}


class OnnxContents(NamedTuple):
    """The contents of an ONNX file."""

    locations: frozenset[str] = frozenset()
    """The external files that its tensors name, as they are written in it."""
    weights: Mapping[int, int] = MappingProxyType({})
    """The elements that its weights have of each TensorProto.DataType."""
    is_data_dependent: bool = False
    """True if some operator's work depends on more than the shapes of the inputs."""
    is_random: bool = False
    """True if some operator draws by chance."""
    has_slots: bool = False
    """True if some operator keeps the sequences of a batch in slots, as decoders of texts do."""


def contents_of(stream: BinaryIO) -> OnnxContents:
    """Return what the ONNX file in `stream` holds, by one walk through it.

    Raises ModelInvalid: not a protobuf; nested too deeply, too many fields or nodes; a name that is too long; an external
    location that is no text; an operator that holds compiled code.
    """
    walk = _Walk(Pages(stream))
    walk.through()
    return OnnxContents(
        frozenset(walk.locations),
        walk.weights,
        walk.is_data_dependent,
        walk.is_random,
        walk.has_slots,
    )


class _Walk:
    """One walk through a file, and what it has found."""

    def __init__(self, model: Pages) -> None:
        self.locations: set[str] = set()
        self.weights: dict[int, int] = {}
        self.is_data_dependent = False
        self.is_random = False
        self.has_slots = False
        self._model = model
        self._fields = self._nodes = 0

    def through(self) -> None:
        """Walk through the whole file."""
        self._message(0, self._model.size_bytes, _Message.MODEL, 0)

    def _message(self, position: int, end: int, message: _Message, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ModelInvalid(f"the ONNX file nests messages deeper than {MAX_DEPTH}")
        children, next_field = _CHILDREN[message], self._model.field
        dims: list[int] = []
        data_type = 0
        key = location = b""
        while position < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise ModelInvalid(f"the ONNX file has more than {MAX_FIELDS} fields")
            number, is_bytes, value, start, position = next_field(position, end)
            if is_bytes and number in children:
                child = children[number]
                if child is _Message.NODE:
                    self._nodes += 1
                    if self._nodes > MAX_NODES:
                        raise ModelInvalid(f"the ONNX file has more than {MAX_NODES} nodes")
                self._message(start, position, child, depth + 1)
            elif message is _Message.NODE and number == _OP_TYPE:
                self._operator(start, position, is_bytes=is_bytes)
            elif message is _Message.WEIGHT and number == _DATA_TYPE:
                data_type = value
            elif message is _Message.WEIGHT and number == _DIMS:
                dims.extend(_packed(self._model, start, position) if is_bytes else [value])
                if len(dims) > MAX_RANK:
                    raise ModelInvalid(
                        f"the ONNX file has a weight of more than {MAX_RANK} dimensions"
                    )
            elif message is _Message.ENTRY and is_bytes and number == _ENTRY_KEY:
                key = _entry_bytes(self._model, start, position)
            elif message is _Message.ENTRY and is_bytes and number == _ENTRY_VALUE:
                location = _entry_bytes(self._model, start, position)
        if message is _Message.WEIGHT:
            self.weights[data_type] = self.weights.get(data_type, 0) + math.prod(dims)
        elif key == b"location":
            self.locations.add(_text(location))

    def _operator(self, start: int, stop: int, *, is_bytes: bool) -> None:
        if not is_bytes:
            raise ModelInvalid(f"the ONNX file has a number as an operator's name at byte {start}")
        op_type = _short(self._model, start, stop)
        if op_type in _COMPILED_OPS:
            raise ModelInvalid(
                f"the model has an operator {op_type.decode()}, which holds code compiled for a device; "
                "export it as an ordinary ONNX model"
            )
        self.is_data_dependent = self.is_data_dependent or op_type in _OPEN_OPS
        self.is_random = self.is_random or op_type in _RANDOM_OPS
        self.has_slots = self.has_slots or op_type in _SLOT_OPS


def precision(weights: Mapping[int, int], specs: Sequence[TensorSpec]) -> str:
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


def _entry_bytes(data: Pages, start: int, stop: int) -> bytes:
    if stop - start > MAX_LOCATION_BYTES:
        raise ModelInvalid(
            f"an external-data entry of {stop - start} bytes at byte {start}; "
            f"at most {MAX_LOCATION_BYTES} are allowed"
        )
    return data.slice(start, stop)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ModelInvalid(f"external data location {raw[:80]!r} is not UTF-8") from exc
