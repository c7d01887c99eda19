"""HTTP/2 as this package uses it, whoever speaks it: what is told of streams, and what is sent. Pure.

A session does the frames, the header compression and the windows of both sides. It never opens the client's window by
itself: who has taken the bytes of a stream says so (`taken`), and until then the client has to wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS: Final = 100
"""Streams that a client may have open on one connection: what RFC 9113 recommends at least, and what is usual."""
MAX_HEADER_BYTES: Final = 16 * 1024
"""The largest list of headers, as RFC 9113 counts it: 32 bytes for each beside its name and value (guess: gRPC's usual 8 KiB, twice)."""
STREAM_WINDOW_BYTES: Final = 2**20
CONNECTION_WINDOW_BYTES: Final = 4 * 2**20
"""The bytes that a client may send ahead of what was taken (guess: 1 Gbit/s at 30 ms), and so what it can make a router keep."""


class ErrorCode(IntEnum):
    """The reasons that RST_STREAM and GOAWAY carry, RFC 9113, section 7: those that are given here."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Misbehaved(Exception):
    """The client broke the protocol or a bound of it: the connection is to be ended with `last_words`."""

    def __init__(self, reason: str, last_words: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.last_words = last_words
        """The GOAWAY frame that tells the client, and what was to be sent before it."""


@mypyc_attr(native_class=False)
class StreamEvents(Protocol):
    """The receiver of what comes on a connection; it may send at once, and must not raise."""

    __slots__ = ()

    def on_request(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        """Take the head of a request; `is_whole`: nothing follows."""
        ...

    def on_data(self, stream: int, pieces: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        """Take bytes of a request, in pieces that follow each other, of which as many are to be told as `taken` later.

        They change once this has returned.
        """
        ...

    def on_gone(self, stream: int) -> None:
        """Forget a stream that the client has reset or broken; it may also be told of one that was ended here."""
        ...

    def on_noise(self) -> None:
        """Count a frame that costs work and brings no request: SETTINGS, PING, RST_STREAM, WINDOW_UPDATE."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Http2Session(ABC):
    """The server's side of one connection. Sending on a stream that is gone does nothing."""

    __slots__ = ()

    @property
    @abstractmethod
    def has_left(self) -> bool:
        """Return whether the client has sent GOAWAY: it opens no stream any more."""

    @property
    @abstractmethod
    def last_stream(self) -> int:
        """Return the newest stream that the client has opened."""

    @abstractmethod
    def receive(self, data: bytes | memoryview, events: StreamEvents) -> None:
        """Take bytes of the client, from its preface on, and tell what they mean; `data` may change afterwards.

        Raises:
            Misbehaved: the connection cannot go on.
        """

    @abstractmethod
    def start_answer(self, stream: int, headers: Headers) -> None:
        """Send the head of an answer."""

    @abstractmethod
    def refuse(self, stream: int, headers: Headers, *, is_all_here: bool) -> None:
        """Send an answer that is a head alone. Unless the whole request is here, the client is told to stop sending it."""

    @abstractmethod
    def send(self, stream: int, data: bytes | memoryview) -> None:
        """Send bytes of an answer as the client's windows allow; they must not change."""

    @abstractmethod
    def end_answer(self, stream: int, trailers: Headers) -> None:
        """Send the trailers of an answer behind all its bytes."""

    def answer(
        self, stream: int, headers: Headers, data: bytes | memoryview, trailers: Headers
    ) -> None:
        """Send a whole answer: its head, its bytes, and the trailers behind them."""
        self.start_answer(stream, headers)
        self.send(stream, data)
        self.end_answer(stream, trailers)

    @abstractmethod
    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream at once, and drop what was to be sent on it."""

    @abstractmethod
    def taken(self, stream: int, size_bytes: int) -> None:
        """Let the client send so many bytes more, on this stream and on the connection."""

    @abstractmethod
    def go_away(self) -> None:
        """Tell the client to open no more streams; those that are open go on."""

    @abstractmethod
    def to_send(self) -> bytes:
        """Return the bytes to write to the client now."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """Return how many bytes of answers wait for the client to open its windows."""

    @abstractmethod
    def unsent_of(self, stream: int) -> int:
        """Return how many bytes of one answer wait for the client to open its windows; 0 for a stream that is gone."""


def goaway(last_stream: int, code: ErrorCode, reason: str) -> bytes:
    """Return a GOAWAY frame, for where the library is past making one."""
    text = reason.encode("ascii", "replace")[:200]
    head = (len(text) + 8).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00"
    return head + last_stream.to_bytes(4, "big") + int(code).to_bytes(4, "big") + text
