from __future__ import annotations

from link_wire import limits

from capamesh.protocol.links.frames import HEADER, FrameKind
from capamesh.protocol.links.outgoing import Outgoing
from capamesh.protocol.links.streams import MAX_STREAM, Streams


def streams(*, is_dialer: bool = True) -> tuple[Streams, Outgoing]:
    outgoing = Outgoing(1000)
    own = limits(initial_credit_bytes=100)
    return (
        Streams(outgoing, own, is_dialer=is_dialer, budget=None, on_output=lambda: None),
        outgoing,
    )


def sent(outgoing: Outgoing) -> list[tuple[int, int, int]]:
    """Return kind, stream and value of all frames that wait, none of which has a body."""
    data = b"".join(outgoing.take(1 << 20))
    heads = [HEADER.unpack(data[at : at + HEADER.size]) for at in range(0, len(data), HEADER.size)]
    return [(kind, stream, value) for _, _, value, stream, kind, _, _ in heads]


def test_numbers_of_the_two_sides_never_meet() -> None:
    dialer, acceptor = streams()[0], streams(is_dialer=False)[0]
    assert [dialer.open() for _ in range(3)] == [1, 3, 5]
    assert [acceptor.open() for _ in range(3)] == [2, 4, 6]
    assert (dialer.peer_parity, acceptor.peer_parity) == (0, 1)


def test_numbers_wrap_around_past_those_in_use() -> None:
    for is_dialer, numbers in ((True, [1, MAX_STREAM, 3]), (False, [2, MAX_STREAM - 1, 4])):
        side, _ = streams(is_dialer=is_dialer)
        first = side.open()
        side._next_stream = numbers[1]
        assert [first, side.open(), side.open()] == numbers


def test_cancelled_stream_tells_the_peer_once() -> None:
    side, outgoing = streams()
    stream = side.open()
    for _ in range(2):
        side.cancel(stream)
    assert sent(outgoing) == [(FrameKind.CANCEL, stream, 0)]
    assert repr(side) == "0 asked, 0 serving, 0 receiving, 0 bytes"


def test_body_over_the_credit_is_granted_the_rest_and_given_back_with_its_stream() -> None:
    side, outgoing = streams()
    stream = side.open()
    message = side.reserve(stream, b"m", 250, 0, is_request=False)
    assert message is not None
    assert len(message.memory) == 250
    assert sent(outgoing) == [(FrameKind.CREDIT, stream, 150)]
    assert repr(side) == "1 asked, 0 serving, 1 receiving, 250 bytes"
    side.close_asked(stream)
    assert sent(outgoing) == []
    assert repr(side) == "0 asked, 0 serving, 0 receiving, 0 bytes"


def test_body_within_the_credit_needs_no_grant() -> None:
    side, outgoing = streams()
    assert side.reserve(side.open(), b"m", 100, 0, is_request=False) is not None
    assert sent(outgoing) == []
