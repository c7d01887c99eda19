"""The protocol of Valkey and Redis, as far as a cache needs it: commands out, replies in. Pure.

Only what a get, a set and a log-in are answered with is read; whatever else comes is a violation, and so is a reply that is longer
than any that a router has written.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from capamesh.protocol.errors import ProtocolViolation

MOST_LINE_BYTES: Final = 1024
"""The longest line that is no value (guess: errors have some 100 bytes)."""
MOST_ERROR_CHARS: Final = 200
_SIZE: Final = re.compile(rb"-1|[0-9]{1,10}")


class Reply(NamedTuple):
    """The reply to one command."""

    value: bytes | None
    """The value that was asked for; None: there is none, or none was asked for."""
    error: str
    """The reason why the command was refused; empty: it was not."""


def command(*words: bytes) -> bytes:
    """Return a command as it is sent: an array of strings."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(parts)


class Replies:
    """Makes replies of the bytes of one connection, however they come in pieces."""

    __slots__ = ("_most_bytes", "_rest")

    def __init__(self, most_bytes: int) -> None:
        """A value of more than `most_bytes` is a violation, which is seen before the value is kept."""
        self._most_bytes = most_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that end in `data`, in their order. Raises `ProtocolViolation`, after which nothing is read."""
        data = self._rest + data
        replies: list[Reply] = []
        at = 0
        while True:
            end = data.find(b"\r\n", at, at + MOST_LINE_BYTES)
            if end < 0:
                if len(data) - at >= MOST_LINE_BYTES:
                    raise ProtocolViolation("a line of the store's reply has no end")
                break
            kind, line = data[at : at + 1], data[at + 1 : end]
            stop = end + 2
            value: bytes | None = None
            error = ""
            if kind == b"$":
                size_bytes = self._size(line)
                if size_bytes >= 0:
                    stop += size_bytes + 2
                    if len(data) < stop:
                        break
                    value = data[end + 2 : stop - 2]
                    if data[stop - 2 : stop] != b"\r\n":
                        raise ProtocolViolation("a value of the store does not end where it says")
            elif kind == b"-":
                error = line.decode("utf-8", "replace")[:MOST_ERROR_CHARS] or "error"
            elif kind not in {b"+", b":"}:
                raise ProtocolViolation(f"the store's reply begins with {kind!r}")
            at = stop
            replies.append(Reply(value, error))
        self._rest = data[at:]
        return replies

    def _size(self, line: bytes) -> int:
        """Return the bytes of a value; -1: there is none."""
        if _SIZE.fullmatch(line) is None:
            raise ProtocolViolation(f"a value of the store has {line[:40]!r} bytes")
        size_bytes = int(line)
        if size_bytes > self._most_bytes:
            raise ProtocolViolation(
                f"a value of the store has {size_bytes} bytes; the limit is {self._most_bytes}"
            )
        return size_bytes
