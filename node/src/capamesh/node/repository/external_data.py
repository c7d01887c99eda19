"""Which files an ONNX model reads besides itself: a bounded walk over its protobuf. Reads a given stream.

Tensors may keep their bytes in a file that the model names (`TensorProto.external_data`), so a model can
name any path. ONNX Runtime itself refuses paths that leave the model's folder (since 1.31, tested); this
reader says so before anything is loaded, and tells which files belong to the model. Only what leads to a
tensor is visited; weights are skipped by their length. Field numbers are those of onnx.proto.

The file is read in pages and not mapped: a map of a file that is cut short meanwhile ends the process.
"""

from __future__ import annotations

import enum
import os
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO, Final

from capamesh.protocol.errors import ModelInvalid

MAX_DEPTH: Final = 100  # protobuf's own default recursion limit
MAX_FIELDS: Final = 20_000_000  # guess: about 10 s of walking; a 135M-parameter decoder has 50,000
MAX_NODES: Final = (
    500_000  # guess: ten times the fields of a 135M-parameter decoder; a runtime plans each
)
MAX_LOCATION_BYTES: Final = 4096  # Linux's PATH_MAX
_PAGE_BYTES: Final = 64 * 1024  # guess: some hundred nodes of a graph


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
    model = _Pages(stream)
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
            number, is_bytes, start, position = _field(model, position, end)
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


class _Pages:
    """A stream of bytes with random access, of which one page is held."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size_bytes = stream.seek(0, os.SEEK_END)
        self._start = 0
        self._page = b""

    def byte(self, position: int) -> int:
        """Return the byte at `position`."""
        index = position - self._start
        if not 0 <= index < len(self._page):
            index = position % _PAGE_BYTES
            self._start = position - index
            self._page = self.slice(self._start, self._start + _PAGE_BYTES)
            if index >= len(self._page):
                raise ModelInvalid("the ONNX file became shorter while it was read; scan it again")
        return self._page[index]

    def slice(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, or to the stream's end."""
        self._stream.seek(start)
        return self._stream.read(stop - start)


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


def _field(data: _Pages, position: int, end: int) -> tuple[int, bool, int, int]:
    """Return the field at `position`: its number, whether it holds bytes, their start, the field's end."""
    tag, start = _varint(data, position, end)
    number, wire_type = tag >> 3, tag & 7
    match wire_type:
        case 0:  # a varint
            _, stop = _varint(data, start, end)
        case 1:  # 64 bits
            stop = start + 8
        case 2:  # bytes after their length
            size, start = _varint(data, start, end)
            stop = start + size
        case 5:  # 32 bits
            stop = start + 4
        case _:  # groups, which ONNX never had, or junk
            raise ModelInvalid(f"not an ONNX file: wire type {wire_type} at byte {position}")
    if stop > end:
        raise ModelInvalid(
            f"the ONNX file is cut short or broken: field {number} at byte {position} ends at byte "
            f"{stop}, its message at byte {end}"
        )
    return number, wire_type == 2, start, stop


def _entry_bytes(data: _Pages, start: int, stop: int) -> bytes:
    if stop - start > MAX_LOCATION_BYTES:
        raise ModelInvalid(
            f"an external-data entry of {stop - start} bytes at byte {start}; "
            f"at most {MAX_LOCATION_BYTES} are allowed"
        )
    return data.slice(start, stop)


def _varint(data: _Pages, position: int, end: int) -> tuple[int, int]:
    """Return the base-128 number at `position` and the position after it."""
    value = shift = 0
    while position < end and shift < 70:  # ten groups of seven bits hold 64
        byte = data.byte(position)
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ModelInvalid(f"the ONNX file is cut short or broken at byte {position}")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ModelInvalid(f"external data location {raw[:80]!r} is not UTF-8") from exc
