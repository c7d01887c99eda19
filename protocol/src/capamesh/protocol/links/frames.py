"""The frame: a fixed header, then metadata, then raw bytes. Pure.

Layout, little-endian, 20 bytes::

    payload_bytes u32   metadata and body together, after the header
    meta_bytes    u32   how much of the payload is metadata
    value         u32   REQUEST, RESPONSE: body bytes of the whole message; CREDIT: bytes granted;
                        RELEASE: bytes of parts that were passed on; PING, PONG: a number to echo; otherwise 0
    stream        u32   0 for the connection itself; odd ids are opened by the dialer, even by the acceptor
    kind          u8    `FrameKind`
    flags         u8    `END`, `FINAL`
    reserved      u16   0

A message (REQUEST, RESPONSE) is one frame with all metadata and the first part of the body, then CHUNK
frames with the rest. The last frame of a message has END; the last message of a stream has FINAL.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HEADER: Final = struct.Struct("<IIIIBBH")
HEADER_BYTES: Final = HEADER.size

END: Final = 1
"""The message is complete with this frame."""
FINAL: Final = 2
"""No further message follows on this stream in this direction."""

PART_WINDOW_BYTES: Final = 64 * 1024
"""The bytes of one answer's parts that may be with their reader and not passed on yet, where it says nothing else (guess: some
100 small parts; a thousand readers that stall hold 64 MiB)."""
WIRE_VERSION: Final = 1
"""Changes only when a reader of the old version would misunderstand the new one."""


class FrameKind(IntEnum):
    """The kinds of frames."""

    HELLO = 1
    PROBE = 2
    LOAD = 3
    REQUEST = 4
    CHUNK = 5
    RESPONSE = 6
    ERROR = 7
    CANCEL = 8
    CREDIT = 9
    GOAWAY = 10
    PING = 11
    PONG = 12
    RELEASE = 13
    """Sent only on a stream on which a part of an answer has come."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The limits of what one side of a link accepts. Sizes in bytes."""

    chunk_bytes: int = 256 * 1024
    """The body part of one frame: bounds how long a small message waits behind a large one
    (2 ms at 1 Gbit/s)."""
    meta_bytes: int = 4 * 1024 * 1024
    """Metadata of one message: 10,000 tensors at 60 bytes take 0.6 MB (measured); the rest is headroom."""
    message_bytes: int = 256 * 1024 * 1024
    """One message's body."""
    receive_bytes: int = 512 * 1024 * 1024
    """All bodies that are being received or handled on this link; a message over it is refused."""
    send_bytes: int = 512 * 1024 * 1024
    """The bytes that may wait to be sent to a peer that reads slowly or not at all."""
    streams: int = 8192
    """Streams that the peer may have open at once (guess: twice what one model takes)."""
    part_window_bytes: int = PART_WINDOW_BYTES
    """A peer sends the next part of an answer while less than this of the parts before it is not released."""
    initial_credit_bytes: int = 1024 * 1024
    """The bytes of one body that the peer may send before this side has said that it has room for all of it."""


def encode_frame(
    kind: FrameKind,
    stream: int = 0,
    *,
    meta: bytes = b"",
    value: int = 0,
    flags: int = 0,
) -> bytes:
    """Return one frame without a body."""
    return HEADER.pack(len(meta), len(meta), value, stream, kind, flags, 0) + meta
