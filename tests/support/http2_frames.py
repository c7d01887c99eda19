"""Frames of HTTP/2 as their numbers say, broken or not."""

from __future__ import annotations

from collections.abc import Sequence

import hpack

from capamesh.router.grpc.http2 import Headers

HEAD = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ServerLive"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
ACK = 0x1
UNKNOWN = 0x16
PROTOCOL, FLOW_CONTROL, STREAM_CLOSED = 0x1, 0x3, 0x5
FRAME_SIZE, REFUSED, COMPRESSION = 0x6, 0x7, 0x9
MOST_WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", reserved: int = 0) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + (stream | reserved << 31).to_bytes(4, "big") + payload


def block(headers: Sequence[tuple[bytes, bytes]] = HEAD) -> bytes:
    """Return a header block that uses no table, so that it may come in any order."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoded = encoder.encode(headers)
    return encoded[1:] if encoded[:1] == b"\x20" else encoded


def head(stream: int, flags: int = END_HEADERS, headers: Headers = HEAD) -> bytes:
    return frame(HEADERS, flags, stream, block(headers))


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def without(name: bytes) -> Headers:
    return [field for field in HEAD if field[0] != name]


def twice(name: bytes) -> Headers:
    return [field for field in HEAD for _ in range(1 + (field[0] == name))]


def having(name: bytes, value: bytes) -> Headers:
    return [*HEAD, (name, value)]


def changed(name: bytes, value: bytes) -> Headers:
    return [(key, value if key == name else old) for key, old in HEAD]
