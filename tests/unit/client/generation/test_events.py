"""The bytes of server-sent events, cut anywhere."""

from __future__ import annotations

import pytest

from capamesh.client.generation.events import Events
from capamesh.protocol.errors import TooLarge

STREAM = (
    b": hello\n\ndata: one\n\nevent: x\r\ndata: two\r\ndata:three\r\n\r\n: resumed\n\nid: 7\n\n"
    b"data: \xc3\xa4\n\n:resumed\n\ndata: [DONE]\n\ndata: never complete\n"
)
TOLD = [b"one", b"two\nthree", "ä".encode(), b"[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_the_same_however_bytes_are_cut(size: int) -> None:
    events = Events(10_000)
    cut = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for data in cut for event in events.of(data)] == TOLD
    assert events.resumes == 2


def test_cr_alone_ends_a_line() -> None:
    events = Events(100)
    assert list(events.of(b"data: a\r\rdata: b\r")) == [b"a"]
    assert list(events.of(b"\rx")) == [b"b"]


def test_stream_has_a_bound() -> None:
    events = Events(10)
    assert list(events.of(b"data: 1\n\n")) == [b"1"]
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        list(events.of(b"xx"))
