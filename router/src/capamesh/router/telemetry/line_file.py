"""Lines of JSON for a file that others may move away, written by a thread of their own. IO: the file.

Whoever puts a line never waits: the lines wait here, up to a number, and what comes beyond that is counted and dropped. A
disk that is full or does not answer holds up the thread alone. Before each write the thread looks whether the file is still
the one at its path, and opens it anew if it is not, so that it may be moved away at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

STANDARD_OUTPUT: Final = "-"
"""The path that stands for standard output."""
MOST_WAITING: Final = 10_000
"""The most lines that wait (guess: 10 MB, and a second's worth of 10,000 requests a second)."""
EVERY_S: Final = 0.25
"""Seconds between two writes (guess: soon enough for who looks on)."""
BATCH: Final = 1_000
"""The most lines of one write."""
CLOSE_S: Final = 2.0
"""The most seconds that a stopping router waits for the last lines."""
_MODE: Final = 0o640
"""The mode of a new file: its owner may write, and the group may read, for what collects logs."""


class LineFile:
    """One file of lines."""

    def __init__(
        self, path: str, log: FilteringBoundLogger, *, most_waiting: int = MOST_WAITING
    ) -> None:
        """`path` may be `STANDARD_OUTPUT`; raise `OSError` when the file cannot be opened."""
        self._path = path
        self._log = log
        self._most_waiting = most_waiting
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._descriptor = -1
        self._is_torn = False
        """True if the file ends inside a line."""
        self._is_failing = False
        """True from a write that failed to the next that did not: only the change is told."""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.written = 0
        """The number of lines that were written."""
        self.dropped = 0
        """The number of lines for which there was no room."""
        self.lost = 0
        """The number of lines that could not be written."""
        self._open()

    @override
    def __repr__(self) -> str:
        return f"LineFile({self._path!r}, {len(self._waiting)} waiting, {self.written} written)"

    def put(self, fields: Mapping[str, Any]) -> None:
        """Have a line written, or drop it; `fields` are JSON values and do not change any more."""
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
        else:
            self._waiting.append(fields)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for a moment at most, and write no more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self.write()
        self.write()

    def write(self) -> None:
        """Write what waits; the thread calls it now and then."""
        while self._waiting:
            lines = [
                json.dumps(self._waiting.popleft(), separators=(",", ":")).encode() + b"\n"
                for _ in range(min(BATCH, len(self._waiting)))
            ]
            try:
                self._open()
                self._write(lines)
            except OSError as error:
                self._settle(f"{error.strerror or error}")
            else:
                self._settle("")

    def _open(self) -> None:
        """Open the file, anew if another is at its path by now."""
        if self._path == STANDARD_OUTPUT:
            self._descriptor = 1
            return
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                here, there = os.fstat(self._descriptor), os.stat(self._path)  # noqa: PTH116 - beside a descriptor
                if (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev):
                    return
            os.close(self._descriptor)
            self._descriptor = -1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, _MODE)
        self._is_torn = False

    def _write(self, lines: list[bytes]) -> None:
        """Write lines, a write for all of them; other processes may write to the file, too."""
        data = b"".join(lines)
        if self._is_torn:
            data = b"\n" + data
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
                self._is_torn = data[len(data) - len(left) - 1 : len(data) - len(left)] != b"\n"
        finally:
            lost = bytes(left).count(b"\n")
            self.lost += lost
            self.written += len(lines) - lost

    def _settle(self, reason: str) -> None:
        if bool(reason) == self._is_failing:
            return
        self._is_failing = bool(reason)
        if reason:
            self._log.warning("lines_lost", path=self._path, reason=reason)
        else:
            self._log.info("lines_written_again", path=self._path, lost=self.lost)
