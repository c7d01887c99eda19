"""Arrays of numpy as an input: one of `.npy`, or several of `.npz`. IO: the file.

The first axis of an array is the rows, which lie one behind the other, so those of a range are read by their place. They are not
mapped into memory: a file that somebody cuts off under a map ends the process that reads it. A compressed `.npz`, and an array in
Fortran's order, have no such places, and are refused.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import RawRows, Reader, Values
from capamesh.router.jobs.inputs.source import Source, Stamp
from capamesh.router.jobs.values import RowRange

NPY_COLUMN: Final = "array"
"""The name of the one array of a `.npy`."""
MAX_ARRAYS: Final = 1024
MAX_HEAD_BYTES: Final = 2**20
"""The most bytes of a header or of the list of an archive (guess: a thousand arrays take a tenth)."""
READ_BYTES: Final = 8 * 2**20
"""The bytes of a window: the rows of two large calls (guess: one is read while the one before is sent)."""
_LOCAL_HEADER_BYTES: Final = 30
_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class _Array:
    """An array in a file."""

    start: int
    """The first byte of its rows."""
    dtype: np.dtype[Any]
    rows: int
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.row_shape)


class _Head:
    """A file, of which nobody who reads its headers gets more than a header has, whatever length it is told to have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer only at the file's end. Raises `ValueError`: they are too many."""
        data = self._file.read(min(size, MAX_HEAD_BYTES + 1) if size >= 0 else MAX_HEAD_BYTES + 1)
        if len(data) > MAX_HEAD_BYTES:
            raise ValueError(f"a header of it has more than {MAX_HEAD_BYTES} bytes")
        return data


class ArrayReader(Reader):
    """The arrays of one file, all with as many rows."""

    def __init__(self, source: Source, *, is_archive: bool) -> None:
        self._source = source
        self._is_archive = is_archive

    @override
    def fingerprint(self) -> str:
        return self._stamp.text()

    @override
    def columns(self) -> Sequence[str]:
        return list(self._arrays)

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        arrays = self._arrays.values()
        total = next(iter(arrays)).rows
        row_bytes = sum(each.row_bytes for each in arrays)
        if row_bytes > limits.in_bytes:
            raise InputInvalid(
                f"a row of {self._source.name} has {row_bytes} bytes, the limit is {limits.in_bytes}"
            )
        fitting = limits.in_bytes // max(1, row_bytes)
        first = seq = 0
        while first < total:
            rows = min(limits.rows_at(seq), fitting, total - first)
            yield RowRange(first, rows, 0, first, rows * row_bytes)
            first += rows
            seq += 1
        self._source.check(self._stamp)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        self.check_columns(columns)
        arrays = {name: self._arrays[name] for name in columns}
        row_bytes = sum(each.row_bytes for each in arrays.values())
        most_rows = max(1, READ_BYTES // max(1, row_bytes))
        file, stamp = self._source.open()
        with file:
            if stamp != self._stamp:
                raise self._changed()
            for first in range(0, rows.rows, most_rows):
                count = min(most_rows, rows.rows - first)
                found: dict[str, Values] = {
                    name: self._read(file, array, rows.offset + first, count)
                    for name, array in arrays.items()
                }
                start = rows.first_row + first
                yield RawRows(range(start, start + count), found)
        self._source.check(self._stamp)

    def _read(self, file: BinaryIO, array: _Array, first: int, count: int) -> npt.NDArray[Any]:
        """Return rows of an array from a place on, of shape [count, *row_shape]."""
        file.seek(array.start + first * array.row_bytes)
        data = file.read(count * array.row_bytes)
        if len(data) != count * array.row_bytes:
            raise self._changed()
        return np.frombuffer(data, array.dtype).reshape(count, *array.row_shape)

    def _changed(self) -> InputChanged:
        return InputChanged(
            f"{self._source.name} was changed since it was opened; submit a new job for it"
        )

    @cached_property
    def _stamp(self) -> Stamp:
        return self._source.stamp()

    @cached_property
    def _arrays(self) -> dict[str, _Array]:
        file, stamp = self._source.open()
        with file:
            try:
                head = cast("BinaryIO", _Head(file))
                places = _places(head) if self._is_archive else {NPY_COLUMN: (0, stamp.size_bytes)}
                arrays = {name: _array_at(head, *place) for name, place in places.items()}
            except (CapameshError, MemoryError):
                raise
            except Exception as exc:  # numpy's and zipfile's readers raise whatever they meet
                words = exc.strerror if isinstance(exc, OSError) else str(exc)
                words = words or type(exc).__name__
                raise InputInvalid(f"cannot read {self._source.name}: {words[:300]}") from exc
        if not arrays:
            raise InputInvalid(f"{self._source.name} has no array")
        if len({each.rows for each in arrays.values()}) > 1:
            told = ", ".join(f"{name} has {each.rows}" for name, each in arrays.items())
            raise InputInvalid(
                f"the arrays of {self._source.name} have other numbers of rows: {told[:200]}"
            )
        return arrays


def _places(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return the first byte and the bytes of each array of an archive; raises `ValueError` or `BadZipFile`."""
    places: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ARRAYS:
            raise ValueError(f"it has {len(entries)} arrays, the limit is {MAX_ARRAYS}")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"the array {name!r} is compressed; save it with numpy.savez instead of savez_compressed"
                )
            file.seek(entry.header_offset + _LOCAL_HEADER_BYTES - 4)
            lengths = file.read(4)  # of the name and of what else stands before the array
            start = entry.header_offset + _LOCAL_HEADER_BYTES
            start += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            places[name] = start, entry.file_size
    return places


def _array_at(file: BinaryIO, offset: int, size_bytes: int) -> _Array:
    """Return the array whose header stands at a place of a file; raises `ValueError`."""
    file.seek(offset)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its format {version} is not known")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it has Python objects, which are not read")
    if not shape:
        raise ValueError("it is a single value; the first axis of an array is the rows")
    if is_fortran and len(shape) > 1:
        raise ValueError("it is in Fortran's order; save numpy.ascontiguousarray of it")
    start = file.tell()
    lengths: list[int] = list(shape)
    array = _Array(start, dtype, lengths[0], tuple(lengths[1:]))
    if array.rows and array.row_bytes <= 0:  # there could be any number of them
        raise ValueError("its rows have no bytes")
    needed = start - offset + array.rows * array.row_bytes
    if min(shape) < 0 or needed > size_bytes:
        raise ValueError(f"it is cut off: it has {size_bytes} bytes of {needed}")
    return array
