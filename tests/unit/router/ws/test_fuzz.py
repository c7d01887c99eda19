"""Whatever bytes come, the reader of frames tells of parts or of what is broken, and the reader of heads of a reason."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given
from hypothesis import strategies as st
from ws_client import head
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, TextMessage

from capamesh.protocol.errors import CapameshError
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.ws.frames import Frames, Kind, Part, head_of
from capamesh.router.ws.handshake import read_head
from capamesh.router.ws.messages import is_end, split


def parts_of(frames: Frames, pieces: list[bytes]) -> list[Part]:
    parts: list[Part] = []
    for piece in pieces:
        frames.feed(piece)
        while (part := frames.next()) is not None:
            parts.append(part)
            if part.kind is Kind.BROKEN:
                return parts
    return parts


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Return `data` in pieces."""
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(data=st.binary(max_size=200), at=st.lists(st.integers(0, 200), max_size=5))
def test_bytes_of_any_kind_come_to_parts_or_to_an_end(data: bytes, at: list[int]) -> None:
    frames = Frames()
    for part in parts_of(frames, cut(data, at)):
        assert len(part.data) <= len(data) or part.kind is Kind.BROKEN
    frames.close(1000, "over")


MESSAGES = st.lists(
    st.one_of(st.text(max_size=300), st.binary(max_size=70_000), st.just(None)), max_size=5
)


@given(
    messages=MESSAGES,
    at=st.lists(st.integers(0, 200_000), max_size=6),
    parts=st.integers(1, 3),
)
def test_messages_are_read_whole_however_they_are_cut(
    messages: list[str | bytes | None], at: list[int], parts: int
) -> None:
    client, sent = Connection(ConnectionType.CLIENT), b""
    for message in messages:
        if message is None:
            sent += client.send(Ping(b"?"))
            continue
        kind = TextMessage if isinstance(message, str) else BytesMessage
        step = max(1, -(-len(message) // parts))
        pieces = [message[a : a + step] for a in range(0, len(message), step)] or [message]
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            sent += client.send(kind(data=piece, message_finished=is_last))  # type: ignore[arg-type]
    found: list[str | bytes | None] = []
    whole = b""
    for part in parts_of(Frames(), cut(sent, at)):
        if part.kind is Kind.PING:
            found.append(None)
            continue
        whole += part.data
        if part.is_last:
            found.append(whole.decode() if part.kind is Kind.TEXT else whole)
            whole = b""
    assert found == messages


@given(size=st.integers(0, 200_000), is_text=st.booleans())
def test_heads_of_messages_are_those_that_a_client_reads(size: int, is_text: bool) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(head_of(size, is_text=is_text) + b"a" * size)
    events = list(client.events())
    assert len(events) == 1
    (event,) = events
    assert isinstance(event, TextMessage if is_text else BytesMessage)
    assert (len(event.data), event.message_finished) == (size, True)


TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)


@given(query=TEXT, lines=st.lists(TEXT, max_size=4), model=TEXT)
def test_head_of_any_kind_is_read_or_refused(query: str, lines: list[str], model: str) -> None:
    raw = b"".join(
        (
            b"GET /v2/models/" + model.encode("latin-1") + b"/stream?" + query.encode("latin-1"),
            head("", *[])[len(b"GET ") :][: -len(b"\r\n\r\n")],
            b"".join(b"\r\n" + line.encode("latin-1") for line in lines),
            b"\r\n\r\n",
        )
    )
    with contextlib.suppress(CapameshError):
        read_head(raw, OriginCheck((ANY_HOST,)))


@given(body=st.binary(max_size=40))
def test_binary_message_is_split_or_refused(body: bytes) -> None:
    try:
        rest, json_bytes = split(memoryview(body))
    except CapameshError:
        return
    assert json_bytes <= len(rest) == len(body) - 4


@given(text=st.one_of(st.binary(max_size=80), st.just(b"[" * 64)))
def test_text_of_any_kind_says_whether_it_is_the_end(text: bytes) -> None:
    assert is_end(text) in {True, False}
    assert is_end(b' {"end" : true}')
