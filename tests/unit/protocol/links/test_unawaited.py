"""How many frames that nobody awaits a link bears."""

from __future__ import annotations

import pytest
from link_wire import feed, greeted

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.links.frames import (
    END,
    FINAL,
    HEADER,
    FrameKind,
    encode_frame,
)
from capamesh.protocol.links.reasons import goaway_frame
from capamesh.protocol.links.unawaited import (
    A_SECOND,
    FOR_A_MESSAGE,
    MOST,
    SMALL_CHUNK_BYTES,
    UnawaitedFrames,
)

LEFTOVER = HEADER.pack(1, 0, 1, 99, FrameKind.RESPONSE, END | FINAL, 0) + b"x"
FLOODS = {
    "ping": encode_frame(FrameKind.PING),
    "pong": encode_frame(FrameKind.PONG),
    "cancel": encode_frame(FrameKind.CANCEL, 99),
    "credit": encode_frame(FrameKind.CREDIT, 99, value=1),
    "release": encode_frame(FrameKind.RELEASE, 99, value=1),
    "load": encode_frame(FrameKind.LOAD, 99),
    "error": encode_frame(FrameKind.ERROR, 99, meta=b"\xc1"),
    "goaway": goaway_frame("bye"),
    "probe": encode_frame(FrameKind.PROBE, 1),
    "chunk of nothing known": HEADER.pack(1, 0, 0, 99, FrameKind.CHUNK, END, 0) + b"x",
    "answer to nothing": LEFTOVER,
    "request and its cancellation": encode_frame(FrameKind.REQUEST, 1, flags=END | FINAL)
    + encode_frame(FrameKind.CANCEL, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_of_each_kind_ends_the_link(flood: bytes) -> None:
    acceptor = greeted().acceptor
    acceptor.check_unawaited(0.0)
    for _ in range(MOST // 100):
        feed(acceptor, flood * 100)
    acceptor.check_unawaited(0.0)
    feed(acceptor, flood * 100)
    with pytest.raises(ProtocolViolation, match="more frames that nobody awaits"):
        acceptor.check_unawaited(0.0)


def test_small_chunks_of_a_body_that_is_awaited_are_counted_and_large_ones_are_not() -> None:
    def chunk(size: int, flags: int = 0) -> bytes:
        return HEADER.pack(size, 0, 0, 1, FrameKind.CHUNK, flags, 0) + bytes(size)

    acceptor = greeted().acceptor
    large, count = SMALL_CHUNK_BYTES, 2 * MOST
    feed(acceptor, HEADER.pack(0, 0, 1 << 24, 1, FrameKind.REQUEST, FINAL, 0))
    for _ in range(count // 10):
        feed(acceptor, chunk(large))
    acceptor.check_unawaited(0.0)
    for _ in range(MOST + 1):
        feed(acceptor, chunk(0))
    with pytest.raises(ProtocolViolation, match="more frames that nobody awaits"):
        acceptor.check_unawaited(0.0)


@pytest.mark.full
def test_work_pays_for_what_comes_with_it() -> None:
    wire = greeted()
    for _ in range(2 * MOST):
        stream = wire.dialer.ask(b"m")
        wire.settle()
        wire.dialer.cancel(stream)
        assert wire.acceptor.respond(stream, b"m", ())  # both are on their way
        wire.settle()
        wire.dialer.check_unawaited(0.0)
        wire.acceptor.check_unawaited(0.0)


def test_bucket_bears_many_at_once_then_a_rate_and_is_filled_by_messages() -> None:
    bucket = UnawaitedFrames()
    assert bucket.are_borne(MOST, 0, 100.0)
    assert not bucket.are_borne(1, 0, 100.0)
    assert bucket.are_borne(int(A_SECOND) - 1, 0, 101.0)
    assert not bucket.are_borne(1, 0, 101.0 + 0.5 / A_SECOND)
    assert bucket.are_borne(5 * FOR_A_MESSAGE - 3, 5, 101.0 + 0.5 / A_SECOND)
    assert not bucket.are_borne(3, 0, 101.0 + 0.5 / A_SECOND)
    assert bucket.are_borne(MOST, MOST, 1e9)
    assert not bucket.are_borne(1, 0, 1e9)


def test_clock_that_goes_back_fills_nothing() -> None:
    bucket = UnawaitedFrames()
    assert bucket.are_borne(MOST, 0, 100.0)
    assert not bucket.are_borne(1, 0, 50.0)
