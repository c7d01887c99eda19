"""The newest frames of a feed, kept once for all who follow it, and how far each of them has read. Holds state, does no IO.

A reader holds a place and no frame, and takes a piece at a time: however many there are and however little they read, the
frames take no more than `most_bytes`. A reader whose place is no longer kept begins anew.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

from typing_extensions import override

KEPT_FRAMES: Final = 16
"""The most frames that are kept for readers who are behind (guess: 8 s at two a second)."""
KEPT_BYTES: Final = 4 * 2**20
"""The most bytes of all kept frames (guess: one in which 10,000 nodes change takes 1 MB)."""
PIECE_BYTES: Final = 64 * 1024
"""The most bytes that a reader takes at a time (guess: what asyncio keeps for a socket before it says to wait)."""


class Backlog:
    """The newest frames. They are numbered from 1 on, each number once."""

    def __init__(self, *, most_frames: int = KEPT_FRAMES, most_bytes: int = KEPT_BYTES) -> None:
        self._most_frames = most_frames
        self._most_bytes = most_bytes
        self._frames: deque[bytes] = deque()
        self.kept_bytes = 0
        """The bytes of all frames that are kept."""
        self.newest = 0
        """The number of the newest frame, kept or not; 0 while there is none."""

    @override
    def __repr__(self) -> str:
        return f"Backlog({len(self._frames)} frames, {self.kept_bytes} bytes)"

    def add(self, frame: bytes) -> None:
        """Take the next frame, and drop the oldest while there are too many; one that is too large is not kept."""
        self.newest += 1
        self._frames.append(frame)
        self.kept_bytes += len(frame)
        while len(self._frames) > self._most_frames or self.kept_bytes > self._most_bytes:
            self.kept_bytes -= len(self._frames.popleft())

    def skip(self) -> None:
        """Count a frame that nobody could use, and drop all: whoever follows begins anew."""
        self.newest += 1
        self._frames.clear()
        self.kept_bytes = 0

    def keeps_newest(self) -> bool:
        """Return whether the newest frame is kept."""
        return bool(self._frames)

    def has_all_after(self, number: int) -> bool:
        """Return whether all frames are kept that came after that of a number, which there must have been."""
        return 0 <= self.newest - number <= len(self._frames)

    def piece(self, number: int, begin: int) -> tuple[bytes, bool]:
        """Return the bytes of a kept frame from `begin` on, `PIECE_BYTES` at most, and whether its end is among them."""
        at = len(self._frames) - 1 - (self.newest - number)
        frame = next(islice(self._frames, at, None))
        return frame[begin : begin + PIECE_BYTES], begin + PIECE_BYTES >= len(frame)


class Reader:
    """One who reads the frames after a number, each from its beginning to its end."""

    def __init__(self, backlog: Backlog, number: int) -> None:
        """`number` is that of the last frame that it has."""
        self._backlog = backlog
        self.number = number
        """The number of the last frame that it has read to its end."""
        self._begin = 0

    @override
    def __repr__(self) -> str:
        return f"Reader(has {self.number} of {self._backlog.newest})"

    @property
    def is_inside(self) -> bool:
        """Return whether it has read a part of a frame: nothing else may be told to it now."""
        return self._begin > 0

    def read(self) -> bytes | None:
        """Return the next piece, b"" when there is none yet; None: the frames after its own are not kept any more."""
        if not self._backlog.has_all_after(self.number):
            return None
        if self.number == self._backlog.newest:
            return b""
        piece, is_end = self._backlog.piece(self.number + 1, self._begin)
        if is_end:
            self.number += 1
            self._begin = 0
        else:
            self._begin += len(piece)
        return piece
