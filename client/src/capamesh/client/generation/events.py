"""Splits the bytes of server-sent events as they come. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from capamesh.protocol.errors import TooLarge

_END: Final = re.compile(rb"\r\n|\n|\r(?=[^\n])")
"""Matches the end of a line; a CR at the end of what has come may be half of one."""
RESUMED: Final = b"resumed"
"""The comment by which a router tells that another node goes on."""


class Events:
    """The events of one answer: the data of each, and the comments that count."""

    __slots__ = ("_data", "_left", "_most", "_size", "resumes")

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` is the most that is taken of all events together, which is kept by who reads them."""
        self._most = most_bytes
        self._size = 0
        self._left = b""
        self._data: list[bytes] = []
        self.resumes = 0
        """The times that another node went on."""

    def of(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of the events that bytes complete. Raises `TooLarge`."""
        self._size += len(data)
        if self._size > self._most:
            raise TooLarge(
                f"the stream has more than {self._most} bytes, which is all that is taken of it: ask for fewer tokens"
            )
        *lines, self._left = _END.split(self._left + data)
        for line in lines:
            if not line:
                if self._data:
                    event, self._data = b"\n".join(self._data), []
                    yield event
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b":") and line[1:].strip() == RESUMED:
                self.resumes += 1
