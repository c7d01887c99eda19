"""An HTTP answer as a value, whoever writes it to a socket. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from capamesh.protocol.values import Value

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus} | {
    499: "Client Closed Request"
}


class Reply(Value):
    """Status, headers but for those on the connection and the length, and the body in pieces."""

    __slots__ = ("beginning", "buffers", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        buffers: Sequence[bytes | memoryview],
        beginning: bytes = b"",
    ) -> None:
        self.status = status
        self.headers = headers
        """ASCII, without line ends."""
        self.buffers = buffers
        self.beginning = beginning
        """The head up to its date; empty: not known."""


def head_of(reply: Reply, end: bytes, body_bytes: int) -> bytes:
    """Return the head of an answer with so many bytes in its body; `end` is its last lines, the empty one included."""
    if reply.beginning:
        return reply.beginning + end
    status = reply.status
    text = f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
    for name, value in reply.headers.items():
        text += f"{name}: {value}\r\n"
    return f"{text}Content-Length: {body_bytes}\r\n".encode("ascii") + end


def size_of(buffer: bytes | memoryview) -> int:
    """Return how many bytes it has."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
