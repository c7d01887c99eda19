from __future__ import annotations

from link_wire import limits

from capamesh.protocol.links.outgoing import Outgoing
from capamesh.protocol.links.streams import MAX_STREAM, Streams


def streams(*, is_dialer: bool = True) -> tuple[Streams, Outgoing]:
    outgoing = Outgoing(1000)
    own = limits(initial_credit_bytes=100)
    return (
        Streams(outgoing, own, is_dialer=is_dialer, budget=None, on_output=lambda: None),
        outgoing,
    )


def test_numbers_wrap_around_past_those_in_use() -> None:
    for is_dialer, numbers in ((True, [1, MAX_STREAM, 3]), (False, [2, MAX_STREAM - 1, 4])):
        side, _ = streams(is_dialer=is_dialer)
        first = side.open()
        side._next_stream = numbers[1]
        assert [first, side.open(), side.open()] == numbers
