"""The reasons why a request failed or a link ended: ERROR and GOAWAY frames, and words for a lost connection. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.protocol.errors import CapameshError, Overloaded, SizeRefused, from_wire
from capamesh.protocol.links.frames import FrameKind, encode_frame
from capamesh.protocol.links.hello import unpack_map
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.plain_text import plain

MAX_ERROR_CHARS: Final = 8192
"""Longer error texts are cut: they are for a person to read."""
MAX_AFTER_MS: Final = 3_600_000
"""A hint of more than an hour is no hint."""


def error_frame(stream: int, error: CapameshError) -> bytes:
    """Return the frame that answers a request with `error`."""
    return encode_frame(FrameKind.ERROR, stream, meta=error_meta(error))


def error_meta(error: CapameshError) -> bytes:
    """Return the metadata of an ERROR, which `error_in` reads."""
    meta: dict[str, object] = {"code": error.code, "message": error.message[:MAX_ERROR_CHARS]}
    if isinstance(error, SizeRefused):  # a fault to earlier routers, which do not know its code
        meta |= {"code": Overloaded.code, "of_size": True}
    if isinstance(error, Overloaded) and error.retry_after_s > 0:
        meta["after_ms"] = min(int(error.retry_after_s * 1000) + 1, MAX_AFTER_MS)
    if error.load is not None:
        meta["l"] = error.load
    return pack(meta)


def error_in(meta: bytes) -> CapameshError:
    """Return the error in the metadata of an ERROR; raise `ProtocolViolation` when that is no map."""
    raw = unpack_map(meta, "ERROR")
    after_ms = raw.get("after_ms")
    code = _text(raw.get("code"))
    if code == Overloaded.code and raw.get("of_size") is True:
        code = SizeRefused.code
    error = from_wire(
        code,
        _text(raw.get("message"))[:MAX_ERROR_CHARS],
        min(after_ms, MAX_AFTER_MS) / 1000 if type(after_ms) is int and after_ms > 0 else 0.0,
    )
    error.load = raw.get("l")
    return error


def goaway_frame(reason: str) -> bytes:
    """Return the frame that asks the peer to send no new requests."""
    return encode_frame(FrameKind.GOAWAY, meta=pack({"reason": reason}))


def goaway_reason(meta: bytes) -> str:
    """Return the reason in the metadata of a GOAWAY; raise `ProtocolViolation` when that is no map."""
    return plain(_text(unpack_map(meta, "GOAWAY").get("reason"))[:MAX_ERROR_CHARS])


def loss_reason(error: Exception | None, goaway: str, *, is_greeted: bool) -> str:
    """Return why a link has ended that this side did not end: by the socket's error and the peer's GOAWAY, if any."""
    reason = f"the connection was lost: {error}" if error else "the peer closed it"
    if goaway:
        return f"{reason}: {goaway}"
    if not is_greeted and error is None:
        # asyncio's servers do not send the TLS alert that would say so
        reason += " before its HELLO: it may not accept this member's certificate"
    return reason


def _text(value: object) -> str:
    """Return `value` if it is text, else none: `str` of a deeply nested list raises `RecursionError`."""
    return value if isinstance(value, str) else ""
