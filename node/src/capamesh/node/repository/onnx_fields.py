"""Reads the fields of an ONNX file, a protobuf, one after the other, and none of its weights. Reads a given stream.

The file is read in pages and not mapped: a map of a file that is cut short meanwhile ends the process.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Final, TypeAlias

from capamesh.protocol.errors import ModelInvalid

MAX_DEPTH: Final = 100  # protobuf's own default recursion limit
MAX_FIELDS: Final = 20_000_000  # guess: about 10 s of walking; a 135M-parameter decoder has 50,000
_PAGE_BYTES: Final = 64 * 1024  # guess: some hundred nodes of a graph


OnnxField: TypeAlias = tuple[int, bool, int, int, int]
"""A field: its number; whether it holds bytes; its value, 0 where it is not a number of base 128; where its bytes
begin, or its number; where it ends. A plain tuple: a named one takes half as long again to walk (measured)."""


class Pages:
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
            self._page = self._read(self._start, self._start + _PAGE_BYTES)
            if index >= len(self._page):
                raise ModelInvalid("the ONNX file became shorter while it was read; scan it again")
        return self._page[index]

    def slice(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, or to the stream's end."""
        if self._start <= start and stop <= self._start + len(self._page):
            return self._page[start - self._start : stop - self._start]
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> bytes:
        self._stream.seek(start)
        return self._stream.read(stop - start)

    def field(self, position: int, end: int) -> OnnxField:
        """Return the field at `position` of a message that ends at `end`. Raises ModelInvalid where there is none."""
        tag, start = self.varint(position, end)
        number, wire_type, value = tag >> 3, tag & 7, 0
        match wire_type:
            case 0:  # a number of base 128
                value, stop = self.varint(start, end)
            case 1:  # 64 bits
                stop = start + 8
            case 2:  # bytes after their length
                size, start = self.varint(start, end)
                stop = start + size
            case 5:  # 32 bits
                stop = start + 4
            case _:  # groups, which ONNX never had, or junk
                raise ModelInvalid(
                    f"not an ONNX file, or a damaged one (no field begins at byte {position}: wire type {wire_type})"
                )
        if stop > end:
            raise ModelInvalid(
                f"the ONNX file is cut short or broken: field {number} at byte {position} ends at byte "
                f"{stop}, its message at byte {end}"
            )
        return number, wire_type == 2, value, start, stop

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Return the base-128 number at `position` and the position after it."""
        value = shift = 0
        while position < end and shift < 70:  # ten groups of seven bits hold 64
            byte = self.byte(position)
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise ModelInvalid(f"the ONNX file is cut short or broken at byte {position}")
