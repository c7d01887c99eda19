"""A file that is read by ranges from far away, as Python's readers want it: with a place, and a window ahead. Pure, but for a thread.

Who reads on from where it stopped gets twice as much each time, up to a whole window, and then the next one is fetched meanwhile: one, so
what is held has a bound. Who jumps gets what it asked for and little more.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import Final

from typing_extensions import Buffer, override

WINDOW_BYTES: Final = 8 * 2**20
"""The most bytes of one call (guess: some hundred times what a call costs beside its bytes)."""
LEAST_BYTES: Final = 64 * 2**10
"""The fewest bytes of one call, where there are so many (guess: they take no longer than one)."""


class RangeFile(io.RawIOBase):
    """A file of a known length. One thread at a time uses it."""

    def __init__(
        self, read: Callable[[int, int], bytes], size_bytes: int, *, reads_ahead: bool = True
    ) -> None:
        """`read` returns the bytes from one place up to another, all of them, or raises; if it `reads_ahead`, in two threads at once."""
        super().__init__()
        self._read_range = read
        self._size_bytes = size_bytes
        self._reads_ahead = reads_ahead
        self._position = 0
        self._held = b""
        self._held_start = 0
        self._read_end = -1
        """The place where the last read ended."""
        self._fetched_bytes = 0
        """The bytes of the last fetch."""
        self._ahead: _Fetch | None = None

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"the place {base + offset} is before the file's beginning")
        self._position = base + offset
        return self._position

    @override
    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, fewer only at the file's end; raises as the function that fetches them does."""
        left = max(0, self._size_bytes - self._position)
        wanted = left if size < 0 else min(size, left)
        goes_on = self._position == self._read_end and wanted <= WINDOW_BYTES
        end = self._position + wanted
        pieces: list[bytes] = []
        while self._position < end:
            piece = self._from_held(end)
            if not piece:
                self._fetch(end, goes_on=goes_on)
                piece = self._from_held(end)
            pieces.append(piece)
            self._position += len(piece)
        self._read_end = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    @override
    def close(self) -> None:
        self._ahead = None
        self._held = b""
        super().close()

    def _from_held(self, end: int) -> bytes:
        at = self._position - self._held_start
        if not 0 <= at < len(self._held):
            return b""
        return self._held[at : at + end - self._position]

    def _fetch(self, end: int, *, goes_on: bool) -> None:
        """Hold bytes from the position on; those up to `end` are wanted now."""
        start = self._position
        length = max(end - start, LEAST_BYTES)
        if goes_on:
            length = max(length, 2 * self._fetched_bytes)
        length = min(length, WINDOW_BYTES)
        upto = min(start + length, self._size_bytes)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.start == start:
            data, upto = ahead.result(), ahead.end
        else:
            data = self._read_range(start, upto)
        if len(data) != upto - start:
            raise OSError(f"{len(data)} bytes came where {upto - start} were asked for")
        self._held, self._held_start, self._fetched_bytes = data, start, length
        # of a long range no more than itself, of lines what follows them
        bound = self._size_bytes if goes_on else end
        if self._reads_ahead and upto < bound and length == WINDOW_BYTES:
            self._ahead = _Fetch(self._read_range, upto, min(upto + WINDOW_BYTES, bound))


class _Fetch:
    """A range that is fetched in a thread, which no one waits for at the end of the process."""

    def __init__(self, read: Callable[[int, int], bytes], start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._read = read
        self._data = b""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="job input", daemon=True)
        self._thread.start()

    def result(self) -> bytes:
        """Return the bytes, once they are there; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._data

    def _run(self) -> None:
        try:
            self._data = self._read(self.start, self.end)
        except BaseException as exc:  # noqa: BLE001 - it is raised where the bytes are asked for
            self._error = exc
