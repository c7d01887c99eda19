"""Looks at the pages of a Parquet file before they are decoded: none may become more bytes than a router holds. IO: the file, as it is read.

A page of some kilobytes may say that it is two gigabytes, and be it once it is unpacked. The library takes the memory that a page
asks for, so what is read of a column is looked at first: the head of each page, in Thrift's compact form, tells its size.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from typing_extensions import override

from capamesh.router.jobs.errors import InputInvalid

MAX_PAGE_BYTES: Final = 256 * 2**20
"""The most bytes of a page once it is unpacked: what a router plans to hold of all shards (guess: writers make pages of a megabyte)."""
_MOST_DEPTH: Final = 8
"""The most structs within one another in the head of a page; there are three."""
_UNPACKED: Final = 2
_PACKED: Final = 3
"""The numbers of the fields of a head that tell the bytes of its page."""
_BOOLS: Final = (1, 2)
_BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 3, 7, 8, 9, 10, 12
_NUMBERS: Final = (4, 5, 6)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The place of the pages of one column of one group of rows."""

    start: int
    size_bytes: int
    column: str
    group: int


def chunks_of(metadata: Any, groups: Sequence[int]) -> list[Chunk]:  # noqa: ANN401 - pyarrow's
    """Return the chunks of some groups of rows, as a file's footer tells them."""
    found: list[Chunk] = []
    for group in groups:
        about = metadata.row_group(group)
        for at in range(about.num_columns):
            column = about.column(at)
            starts = [column.data_page_offset]
            if column.has_dictionary_page and column.dictionary_page_offset:
                starts.append(column.dictionary_page_offset)
            found.append(
                Chunk(min(starts), column.total_compressed_size, str(column.path_in_schema), group)
            )
    return found


class CheckedPages(io.RawIOBase):
    """A file that raises `InputInvalid` where a chunk is read with a page that is too large."""

    def __init__(self, file: BinaryIO, name: str, chunks: Sequence[Chunk]) -> None:
        """`name` is the file's for messages; it is not closed with this."""
        super().__init__()
        self._file = file
        self._name = name
        self._chunks = sorted(chunks, key=lambda chunk: chunk.start)
        self._starts = [chunk.start for chunk in self._chunks]
        self._checked: set[int] = set()
        """The chunks that were looked at, by their place in the list."""
        self._size_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def read(self, size: int = -1, /) -> bytes:
        start = self._file.tell()
        # a footer may name more bytes than there are, for which memory would be taken
        left = max(0, self._size_bytes - start)
        data = self._file.read(left if size < 0 else min(size, left))
        at = max(0, bisect_right(self._starts, start) - 1)
        while at < len(self._chunks) and self._starts[at] < start + len(data):
            chunk = self._chunks[at]
            if at not in self._checked and chunk.start + chunk.size_bytes > start:
                self._checked.add(at)
                self._check(chunk, start, data)
            at += 1
        return data

    def _check(self, chunk: Chunk, start: int, data: bytes) -> None:
        end = min(chunk.start + chunk.size_bytes, self._size_bytes)
        if start <= chunk.start and end <= start + len(data):
            found = memoryview(data)[chunk.start - start : end - start]
        else:
            back = self._file.tell()
            self._file.seek(max(0, chunk.start))
            found = memoryview(self._file.read(max(0, end - chunk.start)))
            self._file.seek(back)
        where = f"column {chunk.column[:80]!r} of group {chunk.group} of {self._name}"
        try:
            for unpacked, _ in page_sizes(found):
                if unpacked > MAX_PAGE_BYTES:
                    raise InputInvalid(
                        f"a page of {where} has {unpacked} bytes, the limit is {MAX_PAGE_BYTES}; write it anew with smaller pages"
                    )
        except (IndexError, ValueError) as exc:
            raise InputInvalid(f"cannot read {where}: the head of a page is broken") from exc


def page_sizes(chunk: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the bytes of each page of a chunk, unpacked and as they are there.

    Raises `IndexError` or `ValueError`: a head is broken, or leads out of the chunk.
    """
    at = 0
    while at < len(chunk):
        fields, at = _struct(chunk, at, 0)
        unpacked, packed = fields[_UNPACKED], fields[_PACKED]
        if unpacked < 0 or packed < 0 or at + packed > len(chunk):
            raise ValueError("a page leads out of its chunk")
        yield unpacked, packed
        at += packed


class _Fields(dict[int, int]):
    """The numbers of a struct by their fields."""

    def __missing__(self, field: int) -> int:
        raise ValueError(f"field {field} is missing")


def _struct(data: memoryview, at: int, depth: int) -> tuple[_Fields, int]:
    """Return the numbers of a struct, and where it ends."""
    if depth > _MOST_DEPTH:
        raise ValueError("structs within structs")
    fields = _Fields()
    field = 0
    while True:
        head = data[at]
        at += 1
        if not head:
            return fields, at
        kind, more = head & 15, head >> 4
        if more:
            field += more
        else:
            field, at = _number(data, at)
        if kind in _NUMBERS:
            fields[field], at = _number(data, at)
        elif kind not in _BOOLS:
            at = _passed(data, at, kind, depth)


def _passed(data: memoryview, at: int, kind: int, depth: int) -> int:
    """Return where a value ends."""
    if kind in _NUMBERS:
        return _varint(data, at)[1]
    if kind in {_BYTE, *_BOOLS}:  # in a list, a truth is a byte
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)[1]
    if kind not in {_LIST, _SET}:
        raise ValueError(f"a value of kind {kind}")
    head = data[at]
    count, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(data, at + 1)
    for _ in range(count):
        at = _passed(data, at, head & 15, depth + 1)
        if at > len(data):
            raise ValueError("a list leads out of its chunk")
    return at


def _number(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without an end")
