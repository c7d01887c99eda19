"""Reads GGUF, llama.cpp's format of models: metadata, and tensors as views of the file. Maps a file into memory.

A file is a stranger's: counts, lengths and offsets are held against the bytes that there are before anything is made of them,
so that no file has more memory allocated than some times its own size.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import ConfigError, ModelInvalid

MAX_KEYS: Final = 4096  # guess: real files have some 40
MAX_TENSORS: Final = 65_536  # guess: a model of 128 layers has 1,200
MAX_STRINGS: Final = (
    2_000_000  # guess: vocabularies have up to 262,144 tokens, and twice as many merges
)
MAX_NAME_BYTES: Final = 65_535  # the format's own limit of keys
MAX_TEXT_BYTES: Final = 4 * 2**20  # guess: chat templates have some 10 KB
MAX_DIMS: Final = 4  # ggml's
MAX_ALIGNMENT: Final = 65_536  # guess: the format's own habit is 32

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = frozenset({2, 3})
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_TEXT, _LIST, _BOOL = 8, 9, 7
_NUMBERS: Final = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOL: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""The forms of numbers, by the types of metadata values."""
_SHOWN: Final = 80  # guess: enough to find the value again


class GgmlType(IntEnum):
    """The types of a tensor's numbers that can be read, by ggml's own numbers."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30


BLOCKS: Final = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.BF16: (1, 2),
    GgmlType.Q4_0: (32, 18),
    GgmlType.Q4_1: (32, 20),
    GgmlType.Q5_0: (32, 22),
    GgmlType.Q5_1: (32, 24),
    GgmlType.Q8_0: (32, 34),
    GgmlType.Q4_K: (256, 144),
    GgmlType.Q5_K: (256, 176),
    GgmlType.Q6_K: (256, 210),
}
"""The numbers of a block, and its bytes."""

Value: TypeAlias = bool | int | float | str | tuple[str, ...] | npt.NDArray[Any]
"""A value of the metadata; a list of numbers is a view of the file."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor, in the blocks that the file has."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    """The shape in numpy's order: the last axis is that of a row."""
    rows: npt.NDArray[np.uint8]
    """The blocks, u8 [rows, bytes of a row]: a view of the file."""

    @property
    def size(self) -> int:
        """Return how many numbers it has."""
        return math.prod(self.shape)


class GgufFile:
    """One file: what it says of itself, and its tensors by name."""

    def __init__(
        self, size_bytes: int, metadata: dict[str, Value], tensors: dict[str, GgufTensor]
    ) -> None:
        self.size_bytes = size_bytes
        self.metadata = metadata
        self.tensors = tensors

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """Return a whole number; `default` where it is missing, unless that is None. Raises ModelInvalid: it is none, or out of its range."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _unfit(key, value, f"a whole number from {least} to {most}")
        if not least <= value <= most:
            raise _unfit(key, value, f"a whole number from {least} to {most}")
        return value

    def real(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """Return a number; `default` where it is missing, unless that is None. Raises ModelInvalid: it is none, or out of its range."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unfit(key, value, f"a number from {least:g} to {most:g}")
        if not least <= value <= most:
            raise _unfit(key, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; `default` where it is missing, unless that is None. Raises ModelInvalid: it is none."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise _unfit(key, value, "a text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a truth value; `default` where it is missing. Raises ModelInvalid: it is none."""
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise _unfit(key, value, "true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts. Raises ModelInvalid: it is missing or none."""
        value = self.metadata.get(key)
        if not isinstance(value, tuple):
            raise _unfit(key, value, "a list of texts")
        return value

    def numbers(self, key: str) -> npt.NDArray[Any]:
        """Return a list of numbers of one dimension. Raises ModelInvalid: it is missing or none."""
        value = self.metadata.get(key)
        if not isinstance(value, np.ndarray):
            raise _unfit(key, value, "a list of numbers")
        return value


def read_gguf(path: Path) -> GgufFile:
    """Return what the file at `path` holds; its tensors are views of it, which stays mapped while one of them is used.

    Raises:
        ConfigError: the file cannot be read.
        ModelInvalid: it is no GGUF file of version 2 or 3, is cut off, contradicts itself, or is over a limit.
    """
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise ModelInvalid(f"{path} is empty")
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    return parse_gguf(memoryview(mapped))


def parse_gguf(data: memoryview) -> GgufFile:
    """Return what the bytes of a GGUF file hold; its tensors, u8 [rows, bytes of a row], are views of them. Raises ModelInvalid as `read_gguf`."""
    cursor = _Cursor(data)
    if bytes(cursor.take(len(_MAGIC), "its first word")) != _MAGIC:
        raise ModelInvalid("it is no GGUF file, which begins with the letters GGUF")
    version = cursor.u32("its version")
    if version not in _VERSIONS:
        raise ModelInvalid(
            f"it is a GGUF file of version {version}; versions 2 and 3 can be read, in the order of bytes of"
            " little-endian machines: convert it anew with llama.cpp"
        )
    tensor_count = cursor.count(MAX_TENSORS, "tensors")
    key_count = cursor.count(MAX_KEYS, "keys of metadata")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = cursor.text(MAX_NAME_BYTES, "a key of metadata")
        if key in metadata:
            raise ModelInvalid(f"the GGUF file has the key {key[:_SHOWN]!r} twice")
        metadata[key] = cursor.value(cursor.u32(f"the type of {key[:_SHOWN]!r}"), key[:_SHOWN])
    found = GgufFile(len(data), metadata, {})
    if (parts := found.whole("split.count", 0, MAX_TENSORS, default=1)) > 1:
        raise ModelInvalid(
            f"it is one of {parts} parts of a model; put them together with llama-gguf-split --merge"
        )
    alignment = found.whole("general.alignment", 1, MAX_ALIGNMENT, default=32)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    _check_places(infos, alignment, len(data) - start)
    for info in infos:
        if info.name in found.tensors:
            raise ModelInvalid(f"the GGUF file has the tensor {info.name[:_SHOWN]!r} twice")
        found.tensors[info.name] = info.tensor(data, start)
    return found


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    """One tensor as the file describes it."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        numbers, size = BLOCKS[self.kind]
        return self.shape[-1] // numbers * size

    @property
    def row_count(self) -> int:
        return math.prod(self.shape[:-1])

    def tensor(self, data: memoryview, start: int) -> GgufTensor:
        begin = start + self.offset
        piece = data[begin : begin + self.row_count * self.row_bytes]
        rows = np.frombuffer(piece, np.uint8).reshape(self.row_count, self.row_bytes)
        return GgufTensor(self.name, self.kind, self.shape, rows)


def _tensor_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.text(MAX_NAME_BYTES, "a tensor's name")
    shown = repr(name[:_SHOWN])
    dims = cursor.u32(f"the rank of {shown}")
    if not 1 <= dims <= MAX_DIMS:
        raise ModelInvalid(f"tensor {shown} has {dims} dimensions; 1 to {MAX_DIMS} can be read")
    shape = tuple(reversed([cursor.u64(f"the shape of {shown}") for _ in range(dims)]))
    number = cursor.u32(f"the type of {shown}")
    if number not in set(GgmlType):
        raise ModelInvalid(
            f"tensor {shown} is of ggml's type {number}; {', '.join(kind.name for kind in BLOCKS)} can be read:"
            " convert the model to one of these with llama-quantize"
        )
    kind = GgmlType(number)
    if min(shape) < 1 or shape[-1] % BLOCKS[kind][0]:
        raise ModelInvalid(
            f"tensor {shown} is {kind.name}{list(shape)}; its rows must have whole blocks of {BLOCKS[kind][0]} numbers"
        )
    return _TensorInfo(name, kind, shape, cursor.u64(f"the place of {shown}"))


def _check_places(infos: list[_TensorInfo], alignment: int, size_bytes: int) -> None:
    """Raise ModelInvalid where tensors overlap, or one lies outside of the `size_bytes` that there are for them."""
    end = 0
    before = ""
    for info in sorted(infos, key=lambda info: info.offset):
        shown = repr(info.name[:_SHOWN])
        needed = info.row_count * info.row_bytes
        if info.offset % alignment:
            raise ModelInvalid(
                f"tensor {shown} begins at {info.offset}, no multiple of {alignment}"
            )
        if info.offset + needed > size_bytes:
            raise ModelInvalid(
                f"the GGUF file is cut off: tensor {shown} has {needed} bytes from {info.offset} on, and there are"
                f" {max(0, size_bytes)} for all; copy it anew"
            )
        if info.offset < end:
            raise ModelInvalid(f"tensors {before} and {shown} overlap in the GGUF file")
        end, before = info.offset + needed, shown


class _Cursor:
    """A place in a file's bytes, from which values are read one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.at = 0
        self._data = data
        self._strings = 0
        """The texts in lists so far, each of which becomes an object."""

    def take(self, size: int, what: str) -> memoryview:
        """Return the next bytes."""
        left = len(self._data) - self.at
        if size > left:
            raise ModelInvalid(
                f"the GGUF file is cut off: {what} at byte {self.at} has {size} bytes, and {left} are left; copy it anew"
            )
        self.at += size
        return self._data[self.at - size : self.at]

    def u32(self, what: str) -> int:
        """Return a number of 32 bits."""
        return cast("int", _U32.unpack(self.take(_U32.size, what))[0])

    def u64(self, what: str) -> int:
        """Return a number of 64 bits."""
        return cast("int", _U64.unpack(self.take(_U64.size, what))[0])

    def count(self, most: int, what: str) -> int:
        """Return a number of things that follow."""
        count = self.u64(f"the number of {what}")
        if count > most:
            raise ModelInvalid(f"the GGUF file has {count} {what}; at most {most} are read")
        return count

    def text(self, most: int, what: str) -> str:
        """Return a text of at most `most` bytes."""
        size = self.u64(f"the length of {what}")
        if size > most:
            raise ModelInvalid(
                f"the GGUF file has {what} of {size} bytes at byte {self.at}; at most {most} are read"
            )
        try:
            return bytes(self.take(size, what)).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ModelInvalid(f"{what} at byte {self.at - size} is not UTF-8") from exc

    def value(self, kind: int, key: str) -> Value:
        """Return a value of a type of metadata."""
        if kind == _TEXT:
            return self.text(MAX_TEXT_BYTES, f"{key!r}")
        if kind == _LIST:
            return self._list(key)
        number = self._numbers(kind, 1, key).item()
        if kind != _BOOL:
            return cast("int | float", number)
        if number not in {0, 1}:
            raise ModelInvalid(f"{key!r} is {number}; true and false are 1 and 0")
        return bool(number)

    def _list(self, key: str) -> Value:
        kind = self.u32(f"the type of {key!r}'s elements")
        count = self.u64(f"the length of {key!r}")
        if kind != _TEXT:
            return self._numbers(kind, count, key)
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise ModelInvalid(
                f"{key!r} has {count} texts; at most {MAX_STRINGS} of all lists are read"
            )
        return tuple(self.text(MAX_NAME_BYTES, f"an element of {key!r}") for _ in range(count))

    def _numbers(self, kind: int, count: int, key: str) -> npt.NDArray[Any]:
        form = _NUMBERS.get(kind)
        if form is None:
            raise ModelInvalid(f"{key!r} is of type {kind}, which is none of metadata's")
        dtype = np.dtype(form)
        return np.frombuffer(self.take(count * dtype.itemsize, f"{key!r}"), dtype)


def _unfit(key: str, value: object, wanted: str) -> ModelInvalid:
    said = "is missing" if value is None else f"is {str(value)[:_SHOWN]!r}"
    return ModelInvalid(f"metadata {key!r} of the GGUF file {said}; it must be {wanted}")
