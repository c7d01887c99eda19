"""HTTP/2 by hand and by two libraries, behind one interface: the same bytes, and the same is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from http2_by_h2 import SessionByH2
from http2_client import HEAD, Http2Client
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.grpc.http2 import (
    MAX_HEADER_BYTES,
    MAX_STREAMS,
    STREAM_WINDOW_BYTES,
    ErrorCode,
    Headers,
    Http2Session,
    Misbehaved,
    StreamEvents,
)
from capamesh.router.grpc.http2_by_hand import SessionByHand

ANSWER = ((b":status", b"200"), (b"content-type", b"application/grpc"))
ACKNOWLEDGED = SettingsFrame(0, flags=["ACK"]).serialize()
TRAILERS = ((b"grpc-status", b"0"),)


class Events(StreamEvents):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: dict[int, tuple[Headers, bool]] = {}
        self.data: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.gone: list[int] = []
        self.noise = 0

    def on_request(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        self.requests[stream] = (tuple(headers), is_whole)

    def on_data(self, stream: int, pieces: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        self.data[stream] = b"".join((self.data.get(stream, b""), *pieces))
        if is_last:
            self.ended.append(stream)

    def on_gone(self, stream: int) -> None:
        self.gone.append(stream)

    def on_noise(self) -> None:
        self.noise += 1


class Pair:
    """A session and its client."""

    def __init__(self, make: Callable[[], Http2Session], **client_settings: int) -> None:
        self.session = make()
        self.events = Events()
        self.client = Http2Client()
        self.sends(self.client.begin(**client_settings), ACKNOWLEDGED)
        self.events.noise = 0

    def sends(self, *frames: bytes) -> None:
        self.session.receive(b"".join(frames), self.events)
        self.flush()

    def flush(self) -> None:
        self.client.take(self.session.to_send())

    def misbehaves(self, *frames: bytes) -> Misbehaved:
        try:
            for frame in frames:
                self.sends(frame)
        except Misbehaved as error:
            self.client.take(error.last_words)
            return error
        pytest.fail("it goes on")


@pytest.fixture(params=[SessionByHand, SessionByH2], ids=["hand", "h2"])
def make(request: pytest.FixtureRequest) -> Callable[[], Http2Session]:
    made: Callable[[], Http2Session] = request.param
    return made


def test_client_is_told_the_bounds_at_once(make: Callable[[], Http2Session]) -> None:
    settings_frame, *_ = Pair(make).client.frames
    assert isinstance(settings_frame, SettingsFrame)
    told = settings_frame.settings
    assert told[SettingsFrame.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert told[SettingsFrame.INITIAL_WINDOW_SIZE] == STREAM_WINDOW_BYTES
    assert told[SettingsFrame.MAX_HEADER_LIST_SIZE] == MAX_HEADER_BYTES


def test_bytes_one_at_a_time_tell_the_same(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    sent = pair.client.head(1) + pair.client.data(1, b"hello", is_last=True)
    for at in range(len(sent)):
        pair.session.receive(memoryview(sent)[at : at + 1], pair.events)
    assert pair.events.requests == {1: (HEAD, False)}
    assert pair.events.data == {1: b"hello"}
    assert pair.events.ended == [1]


def test_answer_has_head_bytes_and_trailers(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    pair.sends(pair.client.head(1, is_last=True))
    pair.session.start_answer(1, ANSWER)
    pair.session.send(1, b"abc")
    pair.session.send(1, memoryview(b"def"))
    pair.session.end_answer(1, TRAILERS)
    pair.flush()
    assert pair.client.heads == {1: [dict(ANSWER), dict(TRAILERS)]}
    assert pair.client.bodies == {1: b"abcdef"}
    assert pair.client.resets == []
    assert pair.session.unsent_bytes == 0


@pytest.mark.parametrize("is_all_here", [True, False])
def test_refusal_is_a_head_alone_and_stops_who_still_sends(
    make: Callable[[], Http2Session], is_all_here: bool
) -> None:
    pair = Pair(make)
    pair.sends(pair.client.head(1, is_last=is_all_here))
    pair.session.refuse(1, (*ANSWER, (b"grpc-status", b"3")), is_all_here=is_all_here)
    pair.flush()
    assert pair.client.heads == {1: [{**dict(ANSWER), b"grpc-status": b"3"}]}
    assert pair.client.resets == ([] if is_all_here else [(1, 0)])
    # what was on its way is nobody's any more, and the connection goes on
    if not is_all_here:
        pair.sends(pair.client.data(1, b"late"))
        assert pair.events.data == {}
    pair.sends(pair.client.head(3, is_last=True))
    assert 3 in pair.events.requests


def test_frames_that_are_not_written_count_as_waiting() -> None:
    pair = Pair(SessionByHand)
    pair.sends(pair.client.head(1, is_last=True), pair.client.head(3, is_last=True))
    for stream in (1, 3):
        before = pair.session.unsent_bytes
        pair.session.answer(stream, ANSWER, b"abc", TRAILERS)
        assert pair.session.unsent_bytes > before + 3
    told = pair.session.unsent_bytes
    assert len(pair.session.to_send()) == told
    assert pair.session.unsent_bytes == 0


def test_answer_waits_for_the_client_s_window(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make, initial_window_size=100)
    pair.sends(pair.client.head(1, is_last=True))
    pair.session.start_answer(1, ANSWER)
    pair.session.send(1, b"x" * 250)
    pair.session.end_answer(1, TRAILERS)
    pair.flush()
    assert pair.client.bodies == {1: b"x" * 100}
    assert pair.session.unsent_bytes == 150
    pair.sends(pair.client.window(1, 1000))
    assert pair.client.bodies == {1: b"x" * 250}
    assert pair.client.heads[1][-1] == dict(TRAILERS)
    assert (pair.session.unsent_bytes, pair.events.noise) == (0, 1)


def test_reset_of_either_side_drops_what_was_to_be_sent(make: Callable[[], Http2Session]) -> None:
    for is_here in (True, False):
        pair = Pair(make, initial_window_size=100)
        pair.sends(pair.client.head(1, is_last=True))
        pair.session.start_answer(1, ANSWER)
        pair.session.send(1, b"x" * 250)
        pair.flush()
        if is_here:
            pair.session.reset(1, ErrorCode.CANCEL)
            pair.flush()
            assert pair.client.resets == [(1, 8)]
        else:
            pair.sends(pair.client.reset(1))
            assert pair.events.gone == [1]
            assert pair.events.noise == 1
        assert pair.session.unsent_bytes == 0


def test_window_is_opened_only_for_what_was_taken(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    pair.sends(pair.client.head(1))
    before = len(pair.client.frames)
    pair.sends(pair.client.data(1, b"x" * STREAM_WINDOW_BYTES))
    assert len(pair.client.frames) == before
    pair.session.taken(1, STREAM_WINDOW_BYTES)
    pair.flush()
    opened = {f.stream_id: f.window_increment for f in pair.client.frames[before:]}  # type: ignore[attr-defined]
    assert opened[1] == STREAM_WINDOW_BYTES


def test_client_that_sends_beyond_its_window_is_stopped(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    pair.sends(pair.client.head(1), pair.client.data(1, b"x" * STREAM_WINDOW_BYTES))
    try:
        pair.sends(pair.client.data(1, b"x"))
    except Misbehaved as error:
        pair.client.take(error.last_words)
        assert pair.client.goaway is not None
    else:
        assert pair.client.resets == [(1, 3)]
    assert len(pair.events.data[1]) == STREAM_WINDOW_BYTES


def test_padding_is_no_part_of_the_bytes_and_costs_no_window(
    make: Callable[[], Http2Session],
) -> None:
    pair = Pair(make)
    frame = DataFrame(1, flags=["PADDED"])
    frame.data, frame.pad_length = b"abc", 250
    padded = frame.serialize()
    pair.sends(pair.client.head(1))
    for _ in range(3 * STREAM_WINDOW_BYTES // 250):
        pair.sends(padded)
        pair.session.taken(1, 3)
    assert set(pair.events.data[1]) == set(b"abc")


def test_goaway_lets_open_streams_end(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    pair.sends(pair.client.head(1))
    pair.session.go_away()
    pair.flush()
    assert pair.client.goaway is not None
    assert (pair.client.goaway.error_code, pair.client.goaway.last_stream_id) == (0, 1)
    pair.sends(pair.client.data(1, b"abc", is_last=True))
    assert pair.events.ended == [1]
    pair.session.start_answer(1, ANSWER)
    pair.session.end_answer(1, TRAILERS)
    pair.flush()
    assert pair.client.heads == {1: [dict(ANSWER), dict(TRAILERS)]}


def test_more_streams_than_agreed_are_not_told(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    pair.sends(*(pair.client.head(1 + 2 * at) for at in range(MAX_STREAMS)))
    assert len(pair.events.requests) == MAX_STREAMS
    error = pair.misbehaves(pair.client.head(1 + 2 * MAX_STREAMS))
    assert len(pair.events.requests) == MAX_STREAMS
    assert error.reason
    assert pair.client.goaway is not None


def _continuations(client: Http2Client) -> list[bytes]:
    frame = ContinuationFrame(1)
    frame.data = b""
    return [client.head(1, is_whole=False), *([frame.serialize()] * 100)]


def _large_list(client: Http2Client) -> list[bytes]:
    # a small frame: each field is a reference to the table
    return [client.head(1, HEAD + ((b"x-large", b"v" * 2000),) * 9)]


def _http1_behind_the_preface(_: Http2Client) -> list[bytes]:
    return [b"GET / HTTP/1.1\r\n\r\n" * 2]


def _too_large_frame(_: Http2Client) -> list[bytes]:
    return [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"]


def _data_on_idle_stream(client: Http2Client) -> list[bytes]:
    return [client.data(9, b"x")]


def _even_stream(client: Http2Client) -> list[bytes]:
    return [client.head(2)]


def _broken_compression(_: Http2Client) -> list[bytes]:
    return [b"\x00\x00\x02\x01\x04\x00\x00\x00\x01\xff\xff"]


@pytest.mark.parametrize(
    "attack",
    [
        _continuations,
        _large_list,
        _http1_behind_the_preface,
        _too_large_frame,
        _data_on_idle_stream,
        _even_stream,
        _broken_compression,
    ],
)
def test_broken_or_endless_frames_end_the_connection_with_goaway(
    make: Callable[[], Http2Session], attack: Callable[[Http2Client], list[bytes]]
) -> None:
    pair = Pair(make)
    error = pair.misbehaves(*attack(pair.client))
    assert error.reason
    goaway = pair.client.goaway
    assert goaway is not None
    assert goaway.error_code != 0
    assert pair.events.requests == {}
    assert pair.session.to_send() == b""


def test_floods_of_frames_are_noise(make: Callable[[], Http2Session]) -> None:
    pair = Pair(make)
    ping = PingFrame(0)
    ping.opaque_data = b"12345678"
    pair.sends(*[ping.serialize()] * 20, *[SettingsFrame(0).serialize()] * 20)
    pair.sends(*[pair.client.window(0, 1)] * 20)
    for stream in range(1, 41, 2):
        pair.sends(pair.client.head(stream), pair.client.reset(stream))
    assert pair.events.noise == 80
    assert len(pair.events.gone) == 20


@pytest.mark.full
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, flags, stream, body: (
                    len(body).to_bytes(3, "big")
                    + bytes((kind, flags))
                    + stream.to_bytes(4, "big")
                    + body
                ),
                st.integers(0, 12),
                st.integers(0, 255),
                st.integers(0, 8),
                st.binary(max_size=40),
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([SessionByHand, SessionByH2]),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_events_or_in_goaway(
    pieces: list[bytes], make: Callable[[], Http2Session]
) -> None:
    pair = Pair(make)
    try:
        for piece in [pair.client.head(1), *pieces]:
            pair.session.receive(piece, pair.events)
            pair.session.start_answer(1, ANSWER)
            pair.session.send(1, b"abc")
            pair.session.to_send()
    except Misbehaved as error:
        tail, found = error.last_words, b""
        while tail:
            frame, size = Frame.parse_frame_header(memoryview(tail[:9]))
            found, tail = type(frame).__name__.encode(), tail[9 + size :]
        assert found == b"GoAwayFrame"
