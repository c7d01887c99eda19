"""The frames of a WebSocket at its server, as wsproto reads them: the one module here that knows the library. Pure.

No extension is agreed on, so that a message has as many bytes as its frames: packed ones would need a bound of their own.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REASON_BYTES: Final = 123
"""The most bytes of the reason in a frame that closes (RFC 6455, section 5.5)."""
_LAST: Final = 0x80
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_SHORT: Final = 126
_LONG: Final = 127


class Kind(Enum):
    """The kind of what has come."""

    TEXT = auto()
    BINARY = auto()
    PING = auto()
    PONG = auto()
    CLOSE = auto()
    BROKEN = auto()
    """The mark of bytes that are no WebSocket's: nothing more can be read."""


_DATA: Final = frozenset({Kind.TEXT, Kind.BINARY})


class Part(Value):
    """A frame, or as much of a message as is here."""

    __slots__ = ("code", "data", "is_last", "kind")

    def __init__(
        self, kind: Kind, data: bytes = b"", *, is_last: bool = True, code: int = 0
    ) -> None:
        self.kind = kind
        self.data = data
        """The bytes of a message's part, of a ping, or the text of what is broken."""
        self.is_last = is_last
        """Nothing more of its message follows."""
        self.code = code
        """The code with which the client closes, or is to be closed."""

    @property
    def is_control(self) -> bool:
        """Return whether it is no part of a message."""
        return self.kind not in _DATA


class Frames:
    """The frames of one connection, in both directions."""

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = Connection(ConnectionType.SERVER)

    def feed(self, data: bytes) -> None:
        """Take bytes of the client, which `next` reads. Only when it has returned None are more to be given."""
        if self._connection.state in {ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING}:
            self._connection.receive_data(data)

    def next(self) -> Part | None:
        """Return the next part that is here; None: more bytes are needed."""
        event = next(self._connection.events(), None)
        part: Part | None = None
        match event:
            case BytesMessage():
                part = Part(Kind.BINARY, bytes(event.data), is_last=event.message_finished)
            case TextMessage():
                data = event.data.encode("utf-8")
                part = Part(Kind.TEXT, data, is_last=event.message_finished)
            case Ping():
                part = Part(Kind.PING, bytes(event.payload))
            case Pong():
                part = Part(Kind.PONG)
            case CloseConnection() if self._connection.state is ConnectionState.OPEN:
                part = Part(Kind.BROKEN, (event.reason or "").encode(), code=int(event.code))
            case CloseConnection():
                part = Part(Kind.CLOSE, code=int(event.code))
            case _:
                pass
        return part

    def pong(self, payload: bytes) -> bytes:
        """Return the answer to a ping."""
        return self._connection.send(Pong(payload))

    def ping(self) -> bytes:
        """Return a ping."""
        return self._connection.send(Ping())

    def close(self, code: int, reason: str) -> bytes:
        """Return the frame that closes, or that answers the client's; empty: one was sent."""
        if self._connection.state not in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
            return b""
        return self._connection.send(CloseConnection(code, reason[:MAX_REASON_BYTES]))


def head_of(size_bytes: int, *, is_text: bool) -> bytes:
    """Return what goes before a whole message of so many bytes (RFC 6455, section 5.2): a server's are not masked."""
    first = _LAST | (_TEXT if is_text else _BINARY)
    if size_bytes < _SHORT:
        return bytes((first, size_bytes))
    if size_bytes < 2**16:
        return bytes((first, _SHORT)) + size_bytes.to_bytes(2, "big")
    return bytes((first, _LONG)) + size_bytes.to_bytes(8, "big")


def message(
    buffers: Sequence[bytes | memoryview], size_bytes: int, *, is_text: bool
) -> list[bytes | memoryview]:
    """Return a whole message of `size_bytes` in pieces."""
    return [head_of(size_bytes, is_text=is_text), *buffers]
