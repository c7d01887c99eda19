"""Finds where ranges of rows begin in a text of lines, and reads the bytes of a range. IO: the file that is passed in.

The text is read once, in chunks, and never more than a chunk and what a row may have is held; positions of line ends are found
by numpy, so the cost is that of bytes and of ranges, not of rows. A row of CSV ends at a line end outside of quotes, which is one
before which stands an even number of quotes: a quote within quotes is written twice.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import WINDOW_BYTES, WINDOW_ROWS
from capamesh.router.jobs.inputs.source import Source, Stamp
from capamesh.router.jobs.values import RowRange

CHUNK_BYTES: Final = 2**20
_NEWLINE: Final = 0x0A
_QUOTE: Final = 0x22


def line_ranges(
    source: Source, limits: ShardLimits, *, has_header: bool, has_quotes: bool
) -> Iterator[RowRange]:
    """Yield the ranges of the rows of a text, one row a line end, or a quoted one where `has_quotes`.

    The last row may do without its line end. `has_header`: the first row names the columns, and is none itself.

    Raises:
        InputInvalid: a row has more bytes than a shard may, or a quote is never closed.
        InputChanged: the text was changed meanwhile.
    """
    file, stamp = source.open()
    with file:
        cutter = _Cutter(source.name, limits, has_header=has_header)
        is_quoted = False
        while chunk := file.read(CHUNK_BYTES):
            ends, is_quoted = _row_ends(chunk, is_quoted=is_quoted, has_quotes=has_quotes)
            yield from cutter.take(chunk, ends)
        if is_quoted:
            raise InputInvalid(f"{source.name} ends within quotes: one is never closed")
        yield from cutter.finish()
    source.check(stamp)
    if cutter.position != stamp.size_bytes:
        raise InputChanged(
            f"{source.name} gave {cutter.position} bytes where it had {stamp.size_bytes}"
        )


def header_of(source: Source) -> bytes:
    """Return the bytes of the first row, quotes kept; empty: there is none. Raises `InputInvalid`: it is too long."""
    file, _ = source.open()
    with file:
        found = b""
        is_quoted = False
        while chunk := file.read(CHUNK_BYTES):
            ends, is_quoted = _row_ends(chunk, is_quoted=is_quoted, has_quotes=True)
            if len(ends):
                return found + chunk[: int(ends[0])]
            found += chunk
            if len(found) >= 4 * CHUNK_BYTES:
                raise InputInvalid(f"{source.name} has no line end in its first {len(found)} bytes")
    return found


def read_range(source: Source, rows: RowRange) -> tuple[bytes, str, Stamp]:
    """Return the bytes of a range, their SHA-256 in hexadecimal digits, and the stamp of the file.

    Raises `InputChanged`: they are not those that were planned.
    """
    file, stamp = source.open()
    with file:
        data = _read_at(file, rows.offset, rows.size_bytes)
    digest = hashlib.sha256(data)
    if len(data) != rows.size_bytes or not _is_as_planned(data, rows, digest.digest()):
        raise InputChanged(
            f"the rows from {rows.first_row} on of {source.name}, {rows.size_bytes} bytes from {rows.offset} on, are not those"
            " that were there when the job was planned; submit a new job for it"
        )
    return data, digest.hexdigest(), stamp


def _is_as_planned(data: bytes, rows: RowRange, digest: bytes) -> bool:
    """Return whether the bytes of a range are those that were planned, piece by piece; `digest` is the SHA-256 of all of them."""
    if not rows.digest or rows.digest == digest:
        return True
    view, at = memoryview(data), 0
    for size_bytes, planned in rows.digests():
        if hashlib.sha256(view[at : at + size_bytes]).digest() != planned:
            return False
        at += size_bytes
    return at == len(data)


def windows_of(data: bytes) -> Iterator[list[bytes]]:
    """Yield the lines of a range, with their ends, as many at a time as a window may have."""
    window: list[bytes] = []
    size_bytes = 0
    for line in io.BytesIO(data):
        window.append(line)
        size_bytes += len(line)
        if len(window) == WINDOW_ROWS or size_bytes >= WINDOW_BYTES:
            yield window
            window = []
            size_bytes = 0
    if window:
        yield window


def _read_at(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(size_bytes)


def _row_ends(
    chunk: bytes, *, is_quoted: bool, has_quotes: bool
) -> tuple[npt.NDArray[np.int64], bool]:
    """Return the places in a chunk after the ends of rows, of shape [ends] and dtype int64, and whether it ends in quotes."""
    data = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    if has_quotes:
        quotes = np.flatnonzero(data == _QUOTE)
        if len(quotes) or is_quoted:
            before = np.searchsorted(quotes, ends) + is_quoted
            ends = ends[before % 2 == 0]
            is_quoted = bool((len(quotes) + is_quoted) % 2)
    return ends + 1, is_quoted


class _Cutter:
    """Cuts chunks that follow one another into ranges."""

    def __init__(self, name: str, limits: ShardLimits, *, has_header: bool) -> None:
        self._name = name
        self._limits = limits
        self._skips_row = has_header
        self.position = 0
        """The bytes that were taken."""
        self._start = 0
        """The first byte of the range that is being made."""
        self._row_start = 0
        """The first byte after the last row that is in it whole."""
        self._first_row = 0
        self._rows = 0
        self._seq = 0
        self._digest = hashlib.sha256()
        """The digest of the rows that are in it whole."""
        self._tail: list[memoryview] = []
        """The bytes of the row that is not whole yet, as they came."""

    def take(self, chunk: bytes, ends: npt.NDArray[np.int64]) -> Iterator[RowRange]:
        """Yield the ranges that end in a chunk; `ends`, of shape [ends] and dtype int64, are the places after its rows' ends."""
        base = self.position
        self.position += len(chunk)
        view = memoryview(chunk)
        ends = ends + base
        at = 0
        if self._skips_row:
            if not len(ends):
                return
            self._skips_row = False
            self._start = self._row_start = int(ends[0])
            at = 1
        while at < len(ends):
            left = self._limits.rows_at(self._seq) - self._rows
            # the rows that fit by their number, and those that fit by their bytes
            by_bytes = int(np.searchsorted(ends, self._start + self._limits.in_bytes, "right"))
            upto = min(at + left, by_bytes)
            if upto > at:
                self._add(upto - at, view, base, int(ends[upto - 1]))
                at = upto
            elif not self._rows:
                raise self._too_long(int(ends[at]) - self._start)
            if at < len(ends) or self._rows == self._limits.rows_at(self._seq):
                yield self._cut()
        if self.position - self._row_start > self._limits.in_bytes:
            raise self._too_long(self.position - self._row_start)
        self._tail.append(view[max(0, self._row_start - base) :])

    def finish(self) -> Iterator[RowRange]:
        """Yield what is left, with a row that has no line end."""
        if not self._skips_row and self.position > self._row_start:
            if self._rows and self.position - self._start > self._limits.in_bytes:
                yield self._cut()
            self._add(1, memoryview(b""), self.position, self.position)
        if self._rows:
            yield self._cut()

    def _add(self, rows: int, chunk: memoryview, base: int, end: int) -> None:
        """Add rows up to a place of the text, which is in the chunk that begins at `base`."""
        for each in self._tail:
            self._digest.update(each)
        self._tail.clear()
        self._digest.update(chunk[max(0, self._row_start - base) : end - base])
        self._row_start = end
        self._rows += rows

    def _cut(self) -> RowRange:
        rows = RowRange(
            self._first_row,
            self._rows,
            0,
            self._start,
            self._row_start - self._start,
            self._digest.digest(),
        )
        self._first_row += self._rows
        self._start = self._row_start
        self._rows = 0
        self._seq += 1
        self._digest = hashlib.sha256()
        return rows

    def _too_long(self, size_bytes: int) -> InputInvalid:
        return InputInvalid(
            f"row {self._first_row + self._rows} of {self._name} has {size_bytes} bytes or more, the limit is"
            f" {self._limits.in_bytes}"
        )
