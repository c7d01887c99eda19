"""Frames and streams of HTTP/2 by hand: the numbers of RFC 9113, and what is known of a stream. Pure."""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from capamesh.router.grpc.http2 import STREAM_WINDOW_BYTES, ErrorCode, Headers

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20
HEAD: Final = struct.Struct(">HBBBI")
"""The head of a frame: its length in two parts, type, flags, stream."""
HEAD_BYTES: Final = 9
SETTING: Final = struct.Struct(">HI")
TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MOST_STREAMS: Final = 0x3
FIRST_WINDOW: Final = 0x4
MOST_FRAME: Final = 0x5
MOST_LIST: Final = 0x6
FRAME_BYTES: Final = 16_384
"""The longest frame where no settings say otherwise: RFC 9113, section 4.2."""
MOST_FRAME_BYTES: Final = 2**24 - 1
MOST_WINDOW_BYTES: Final = 2**31 - 1
FIRST_WINDOW_BYTES: Final = 65_535
"""The windows before any settings or update: RFC 9113, section 6.9.2."""


class Broken(Exception):
    """The client broke the protocol: the connection is to be ended."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame_head(size_bytes: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes before a frame's payload."""
    return HEAD.pack(size_bytes >> 8, size_bytes & 0xFF, kind, flags, stream)


class Stream:
    """One stream that is open on either side."""

    __slots__ = (
        "is_answered",
        "is_ended",
        "left_bytes",
        "owed_bytes",
        "room_bytes",
        "trailers",
        "unsent",
        "unsent_bytes",
        "window_bytes",
    )

    def __init__(self, window_bytes: int, left_bytes: int, *, is_ended: bool) -> None:
        self.is_ended = is_ended
        """The client has sent all."""
        self.left_bytes = left_bytes
        """The bytes that the client has still announced; -1: it does not say how many there are."""
        self.room_bytes = STREAM_WINDOW_BYTES
        """The bytes that the client may send."""
        self.owed_bytes = 0
        """The bytes that were taken, and for which the client's window was not opened yet."""
        self.window_bytes = window_bytes
        """The bytes that may be sent to the client; below zero where it has made the window smaller."""
        self.unsent: deque[bytes | memoryview] | None = None
        """The bytes that wait for a window; None: none have."""
        self.unsent_bytes = 0
        self.trailers: Headers | None = None
        """The trailers behind what is not sent yet."""
        self.is_answered = False
        """All of the answer was sent."""
