"""Which files an ONNX model reads besides itself: a bounded walk over its protobuf. Reads a given stream.

Tensors may keep their bytes in a file that the model names (`TensorProto.external_data`), so a model can
name any path. ONNX Runtime itself refuses paths that leave the model's folder (since 1.31, tested); this
reader says so before anything is loaded, and tells which files belong to the model. Only what leads to a
tensor is visited; weights are skipped by their length. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO, Final

from capamesh.node.repository.onnx_fields import MAX_DEPTH, MAX_FIELDS, Pages
from capamesh.protocol.errors import ModelInvalid

MAX_NODES: Final = (
    500_000  # guess: ten times the fields of a 135M-parameter decoder; a runtime plans each
)
MAX_LOCATION_BYTES: Final = 4096  # Linux's PATH_MAX


class _Message(enum.Enum):
    """The messages between a model and its tensors."""

    MODEL = enum.auto()
    GRAPH = enum.auto()
    NODE = enum.auto()
    ATTRIBUTE = enum.auto()
    TENSOR = enum.auto()
    SPARSE_TENSOR = enum.auto()
    FUNCTION = enum.auto()
    TRAINING = enum.auto()
    ENTRY = enum.auto()


_CHILDREN: Final[dict[_Message, dict[int, _Message]]] = {
    _Message.MODEL: {7: _Message.GRAPH, 20: _Message.TRAINING, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR, 15: _Message.SPARSE_TENSOR},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {
        5: _Message.TENSOR,
        6: _Message.GRAPH,
        10: _Message.TENSOR,
        11: _Message.GRAPH,
        22: _Message.SPARSE_TENSOR,
        23: _Message.SPARSE_TENSOR,
    },
    _Message.TENSOR: {13: _Message.ENTRY},
    _Message.SPARSE_TENSOR: {1: _Message.TENSOR, 2: _Message.TENSOR},
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
    _Message.TRAINING: {1: _Message.GRAPH, 2: _Message.GRAPH},
    _Message.ENTRY: {},
}

_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def external_locations(stream: BinaryIO) -> frozenset[str]:
    """Return the locations that the ONNX model in `stream` names, as they are written in it.

    Raises ModelInvalid: not a protobuf, nested too deeply, too many fields or nodes, a location that is no
    text.
    """
    model = Pages(stream)
    locations: set[str] = set()
    pending = [(0, model.size_bytes, _Message.MODEL, 0)]
    fields = nodes = 0
    while pending:
        position, end, message, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ModelInvalid(f"the ONNX file nests messages deeper than {MAX_DEPTH}")
        children = _CHILDREN[message]
        key = value = b""
        while position < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise ModelInvalid(f"the ONNX file has more than {MAX_FIELDS} fields")
            number, is_bytes, _, start, position = model.field(position, end)
            if not is_bytes:
                continue
            if number in children:
                if children[number] is _Message.NODE:
                    nodes += 1
                    if nodes > MAX_NODES:
                        raise ModelInvalid(f"the ONNX file has more than {MAX_NODES} nodes")
                # This message goes on after its child: the stack never holds more than the depth.
                pending.append((position, end, message, depth))
                pending.append((start, position, children[number], depth + 1))
                break
            if message is _Message.ENTRY and number == _ENTRY_KEY:
                key = _entry_bytes(model, start, position)
            elif message is _Message.ENTRY and number == _ENTRY_VALUE:
                value = _entry_bytes(model, start, position)
        if message is _Message.ENTRY and key == b"location":
            locations.add(_text(value))
    return frozenset(locations)


def checked_location(location: str) -> PurePosixPath:
    """Return `location` as a path relative to the model's folder.

    Raises ModelInvalid where it is empty, absolute (on any system) or climbs with `..`.
    """
    path = PurePosixPath(location)
    windows = PureWindowsPath(location)
    if not location or "\0" in location:
        raise ModelInvalid(f"external data location {location!r} is no path")
    if path.is_absolute() or windows.drive or windows.root:
        raise ModelInvalid(
            f"external data location {location!r} is absolute; export the model with its weights "
            "beside it"
        )
    if ".." in path.parts or ".." in windows.parts:
        raise ModelInvalid(
            f"external data location {location!r} leaves the model's folder; export the model with "
            "its weights beside it"
        )
    return path


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
