"""HTTP/2 by hand and by two libraries, behind one interface: the same bytes, and the same is told; and what the RFCs say of a server.

The cases of RFC 9113 and RFC 7541 are those of h2spec, section by section. A stream error may be a connection error as well (RFC 9113,
5.4.1), so that a case that names a stream takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from http2_by_h2 import SessionByH2
from http2_client import HEAD, Http2Client
from http2_frames import (
    ACK,
    COMPRESSION,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    FRAME_SIZE,
    GOAWAY,
    HEADERS,
    MOST_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL,
    PUSH,
    REFUSED,
    RST,
    SETTINGS,
    STREAM_CLOSED,
    UNKNOWN,
    WINDOW,
    block,
    changed,
    frame,
    having,
    head,
    number,
    setting,
    twice,
    without,
)
from hyperframe.frame import Frame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

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
TRAILERS = ((b"grpc-status", b"0"),)


class Events(StreamEvents):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: dict[int, tuple[Headers, bool]] = {}
        self.data: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.gone: list[int] = []
        self.noise = 0

    @override
    def on_request(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        self.requests[stream] = (tuple(headers), is_whole)
        if is_whole:
            self.ended.append(stream)

    @override
    def on_data(self, stream: int, pieces: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        self.data[stream] = b"".join((self.data.get(stream, b""), *pieces))
        if is_last:
            self.ended.append(stream)

    @override
    def on_gone(self, stream: int) -> None:
        self.gone.append(stream)

    @override
    def on_noise(self) -> None:
        self.noise += 1


class Pair:
    """A session and its client."""

    def __init__(self, make: Callable[[], Http2Session], **client_settings: int) -> None:
        self.session = make()
        self.events = Events()
        self.client = Http2Client()
        self.sends(self.client.begin(**client_settings), frame(SETTINGS, ACK, 0))
        self.events.noise = 0

    def sends(self, *frames: bytes) -> None:
        self.session.receive(b"".join(frames), self.events)
        self.flush()

    def flush(self) -> None:
        self.client.take(self.session.to_send())

    def tries(self, *frames: bytes) -> int | None:
        """Send them one by one; return the code of the GOAWAY in which that ends."""
        ended: Misbehaved | None = None
        try:
            for each in frames:
                self.sends(each)
        except Misbehaved as error:
            ended = error
        if ended is None:
            return None
        self.client.take(ended.last_words)
        goaway = self.client.goaway
        assert goaway is not None
        assert (bool(ended.reason), self.session.to_send()) == (True, b"")
        code: int = goaway.error_code
        return code

    def answers(self, stream: int) -> None:
        """Answer a request whole."""
        self.session.start_answer(stream, ANSWER)
        self.session.end_answer(stream, TRAILERS)
        self.flush()

    def is_alive(self) -> bool:
        """Return whether the connection goes on: a ping is answered, and so is a request."""
        before = len(self.client.frames)
        if self.tries(frame(PING, 0, 0, b"are you?"), head(999, END_HEADERS | END_STREAM)):
            return False
        self.answers(999)
        acknowledged = [
            each.opaque_data
            for each in self.client.frames[before:]
            if isinstance(each, PingFrame) and "ACK" in each.flags
        ]
        told = self.client.heads.get(999, [])
        return (acknowledged, told) == ([b"are you?"], [dict(ANSWER), dict(TRAILERS)])


@pytest.fixture(params=[SessionByHand, SessionByH2], ids=["hand", "h2"])
def make(request: pytest.FixtureRequest) -> Callable[[], Http2Session]:
    made: Callable[[], Http2Session] = request.param
    return made


@pytest.fixture
def pair(make: Callable[[], Http2Session]) -> Pair:
    return Pair(make)


def test_client_is_told_the_bounds_at_once(pair: Pair) -> None:
    settings_frame, *_ = pair.client.frames
    assert isinstance(settings_frame, SettingsFrame)
    told = settings_frame.settings
    assert told[SettingsFrame.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert told[SettingsFrame.INITIAL_WINDOW_SIZE] == STREAM_WINDOW_BYTES
    assert told[SettingsFrame.MAX_HEADER_LIST_SIZE] == MAX_HEADER_BYTES


def test_bytes_one_at_a_time_tell_the_same(pair: Pair) -> None:
    sent = pair.client.head(1) + pair.client.data(1, b"hello", is_last=True)
    for at in range(len(sent)):
        pair.session.receive(memoryview(sent)[at : at + 1], pair.events)
    assert pair.events.requests == {1: (HEAD, False)}
    assert pair.events.data == {1: b"hello"}
    assert pair.events.ended == [1]


def test_answer_has_head_bytes_and_trailers(pair: Pair) -> None:
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
def test_refusal_is_a_head_alone_and_stops_who_still_sends(pair: Pair, is_all_here: bool) -> None:
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


@pytest.mark.parametrize("is_here", [True, False])
def test_reset_of_either_side_drops_what_was_to_be_sent(
    make: Callable[[], Http2Session], is_here: bool
) -> None:
    pair = Pair(make, initial_window_size=100)
    pair.sends(pair.client.head(1, is_last=True))
    pair.session.start_answer(1, ANSWER)
    pair.session.send(1, b"x" * 250)
    pair.flush()
    if is_here:
        pair.session.reset(1, ErrorCode.CANCEL)
        pair.flush()
    else:
        pair.sends(pair.client.reset(1))
        assert (pair.events.gone, pair.events.noise) == ([1], 1)
    assert (pair.client.resets, pair.session.unsent_bytes) == ([(1, 8)] if is_here else [], 0)


def test_window_is_opened_only_for_what_was_taken(pair: Pair) -> None:
    pair.sends(pair.client.head(1))
    before = len(pair.client.frames)
    pair.sends(pair.client.data(1, b"x" * STREAM_WINDOW_BYTES))
    assert len(pair.client.frames) == before
    pair.session.taken(1, STREAM_WINDOW_BYTES)
    pair.flush()
    opened = {f.stream_id: f.window_increment for f in pair.client.frames[before:]}  # type: ignore[attr-defined]
    assert opened[1] == STREAM_WINDOW_BYTES


def test_client_that_sends_beyond_its_window_is_stopped(pair: Pair) -> None:
    pair.sends(pair.client.head(1), pair.client.data(1, b"x" * STREAM_WINDOW_BYTES))
    if pair.tries(pair.client.data(1, b"x")) is None:
        assert pair.client.resets == [(1, 3)]
    assert len(pair.events.data[1]) == STREAM_WINDOW_BYTES


def test_padding_is_no_part_of_the_bytes_and_costs_no_window(pair: Pair) -> None:
    padded = frame(DATA, PADDED, 1, b"\xfa" + b"abc" + bytes(250))
    pair.sends(pair.client.head(1))
    for _ in range(3 * STREAM_WINDOW_BYTES // 250):
        pair.sends(padded)
        pair.session.taken(1, 3)
    assert set(pair.events.data[1]) == set(b"abc")


def test_goaway_lets_open_streams_end(pair: Pair) -> None:
    pair.sends(pair.client.head(1))
    pair.session.go_away()
    pair.flush()
    assert pair.client.goaway is not None
    assert (pair.client.goaway.error_code, pair.client.goaway.last_stream_id) == (0, 1)
    pair.sends(pair.client.data(1, b"abc", is_last=True))
    assert pair.events.ended == [1]
    pair.answers(1)
    assert pair.client.heads == {1: [dict(ANSWER), dict(TRAILERS)]}


ATTACKS = {
    "continuations": [head(1, 0), *[frame(CONTINUATION, 0, 1)] * 100],
    "large list": [head(1, headers=HEAD + ((b"x-large", b"v" * 2000),) * 9)],  # of the table
    "HTTP/1.1": [b"GET / HTTP/1.1\r\n\r\n" * 2],
    "large frame": [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"],
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_broken_or_endless_frames_end_the_connection_with_goaway(
    pair: Pair, attack: list[bytes]
) -> None:
    assert pair.tries(*attack)
    assert pair.events.requests == {}


def test_floods_of_frames_are_noise(pair: Pair) -> None:
    pair.sends(*[frame(PING, 0, 0, b"12345678")] * 20, *[frame(SETTINGS, 0, 0)] * 20)
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
                frame,
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
            last, size = Frame.parse_frame_header(memoryview(tail[:9]))
            found, tail = type(last).__name__.encode(), tail[9 + size :]
        assert found == b"GoAwayFrame"


# what the RFCs say


@dataclass(frozen=True)
class Case:
    """One case: what is sent, and how the server may take it."""

    name: str
    """The section, and what is wrong."""
    frames: tuple[bytes, ...]
    codes: tuple[int, ...] = (PROTOCOL,)
    """The codes of the error, of which one must come."""
    stream: int = 0
    """The stream whose error it is; 0: the connection's."""
    may_ignore: bool = False
    """The frames may be dropped instead, and all go on."""
    answered: int = 0
    """The stream that the server answers before the last frame; 0: it answers none."""


def connection(name: str, *frames: bytes, codes: tuple[int, ...] = (PROTOCOL,)) -> Case:
    return Case(name, frames, codes)


def of_stream(name: str, *frames: bytes, stream: int = 1, **how: Any) -> Case:
    return Case(name, frames, stream=stream, **how)


def lenient(name: str, *frames: bytes, codes: tuple[int, ...] = (PROTOCOL,)) -> Case:
    """Return a case of the connection's that nghttp2 passes over, and never the router: nothing comes of the frames."""
    return Case(name, frames, codes, may_ignore=True)


def malformed(name: str, headers: Headers) -> Case:
    return of_stream(name, head(1, END_HEADERS | END_STREAM, headers))


OPENING = head(1)
WHOLE = head(1, END_HEADERS | END_STREAM)
BLOCK = block()
CANCEL = frame(RST, 0, 1, number(8))
INCREMENT = frame(WINDOW, 0, 1, number(100))
BEHIND = {
    "DATA": frame(DATA, 0, 1, b"x"),
    "HEADERS": WHOLE,
    "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1, BLOCK),
}

CUT, LAST = frame(HEADERS, 0, 1, BLOCK), frame(CONTINUATION, END_HEADERS, 1)
"""A block that goes on, and its end."""
LARGEST = frame(WINDOW, 0, 1, number(MOST_WINDOW - 65_535))
TEXT = BLOCK + b"\x00\x85\xf2\xb2\x4a\x84"
"""A block whose last field has a value in Huffman's code."""

ERRORS = (
    # 4: frames
    of_stream(
        "4.2 DATA over the largest frame",
        *(OPENING, frame(DATA, 0, 1, bytes(16_385))),
        codes=(FRAME_SIZE,),
    ),
    connection(
        "4.2 HEADERS over the largest frame",
        frame(HEADERS, END_HEADERS, 1, bytes(16_385)),
        codes=(FRAME_SIZE,),
    ),
    connection(
        "4.3 block that cannot be decoded",
        frame(HEADERS, END_HEADERS, 1, b"\x40\x01"),
        codes=(COMPRESSION, PROTOCOL),
    ),
    connection("4.3 PRIORITY within a block", CUT, frame(PRIORITY, 0, 1, number(0) + b"\x10")),
    connection("4.3 HEADERS of another stream within a block", CUT, head(3)),
    # 5: streams
    *(
        connection(f"5.1 {name} on an idle stream", each)
        for name, each in (*BEHIND.items(), ("RST_STREAM", CANCEL), ("WINDOW_UPDATE", INCREMENT))
        if name != "HEADERS"
    ),
    *(
        of_stream(
            f"5.1 {name} on a stream that {state}",
            *(*before, each),
            codes=(STREAM_CLOSED, PROTOCOL),
            stream=0 if name == "CONTINUATION" else 1,
            may_ignore=name != "CONTINUATION" and state != "has ended its half",
            answered=1 if state == "has ended" and name != "CONTINUATION" else 0,
        )
        for state, before in (
            ("has ended its half", (WHOLE,)),
            ("was reset", (OPENING, CANCEL)),
            ("has ended", (WHOLE,)),
        )
        for name, each in BEHIND.items()
    ),
    connection("5.1.1 even stream", head(2)),
    lenient("5.1.1 stream below one before", head(5), head(3), codes=(STREAM_CLOSED, PROTOCOL)),
    of_stream(
        "5.1.2 more streams than agreed",
        *(head(1 + 2 * at) for at in range(MAX_STREAMS + 1)),
        codes=(PROTOCOL, REFUSED),
        stream=1 + 2 * MAX_STREAMS,
    ),
    connection("5.5 unknown frame within a block", CUT, frame(UNKNOWN, 0, 0, b"12345678")),
    # 6: frames of each kind
    *(
        of_stream(name, OPENING, each, codes=(FRAME_SIZE,), stream=stream)
        for name, each, stream in (
            ("6.3 PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, number(0)), 1),
            ("6.4 RST_STREAM of 3 bytes", frame(RST, 0, 1, b"abc"), 0),
            ("6.5 SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, b"abc"), 0),
            ("6.7 PING of 6 bytes", frame(PING, 0, 0, b"123456"), 0),
            ("6.9 WINDOW_UPDATE of 3 bytes", frame(WINDOW, 0, 0, b"abc"), 0),
        )
    ),
    connection("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x")),
    connection("6.2 HEADERS on stream 0", head(0)),
    connection("6.4 RST_STREAM on stream 0", frame(RST, 0, 0, number(8))),
    connection("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1)),
    connection("6.7 PING on a stream", frame(PING, 0, 1, b"12345678")),
    connection("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8))),
    connection("6.1 padding over the frame", OPENING, frame(DATA, PADDED, 1, b"\x06" + b"x")),
    connection(
        "6.2 padding over the frame", frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + BLOCK)
    ),
    lenient("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, number(0) + b"\x10")),
    # 6.5: SETTINGS
    connection(
        "6.5 acknowledgement with bytes",
        frame(SETTINGS, ACK, 0, b"x"),
        codes=(FRAME_SIZE, PROTOCOL),  # the second is h2's
    ),
    connection("6.5.2 ENABLE_PUSH of 2", setting(2, 2)),
    connection("6.5.2 too large a window", setting(4, 2**31), codes=(FLOW_CONTROL,)),
    connection("6.5.2 too small a frame", setting(5, 16_383)),
    connection("6.5.2 too large a frame", setting(5, 2**24)),
    connection(
        "6.6 PUSH_PROMISE of a client", OPENING, frame(PUSH, END_HEADERS, 1, number(2) + BLOCK)
    ),
    # 6.9: WINDOW_UPDATE
    connection("6.9 no increment of the connection's", frame(WINDOW, 0, 0, number(0))),
    of_stream("6.9 no increment of a stream's", OPENING, frame(WINDOW, 0, 1, number(0))),
    connection(
        "6.9.1 connection's window over the largest",
        *(frame(WINDOW, 0, 0, number(each)) for each in (MOST_WINDOW - 65_535, 1)),
        codes=(FLOW_CONTROL,),
    ),
    of_stream(
        "6.9.1 stream's window over the largest",
        *(OPENING, LARGEST, frame(WINDOW, 0, 1, number(1))),
        codes=(FLOW_CONTROL,),
    ),
    connection(
        "6.9.2 new first window that makes a stream's too large",
        *(OPENING, LARGEST, setting(4, 65_536)),
        codes=(FLOW_CONTROL,),
    ),
    # 6.10: CONTINUATION
    connection(
        "6.10 other frame than CONTINUATION",
        *(CUT, frame(CONTINUATION, 0, 1), frame(DATA, 0, 1, b"x")),
    ),
    connection(
        "6.10 CONTINUATION on stream 0",
        *(frame(HEADERS, 0, 1, BLOCK[:5]), frame(CONTINUATION, END_HEADERS, 0, BLOCK[5:])),
    ),
    connection("6.10 CONTINUATION behind a whole block", OPENING, LAST),
    connection("6.10 CONTINUATION behind the last one", CUT, LAST, LAST),
    connection("6.10 CONTINUATION behind DATA", OPENING, frame(DATA, 0, 1, b"x"), LAST),
    # 8: HTTP
    of_stream("8.1 second HEADERS that do not end", OPENING, head(1, headers=[(b"x", b"y")])),
    malformed("8.2.1 capital letters in a name", having(b"X-Capital", b"y")),
    malformed("8.2.1 line feed in a value", having(b"x", b"a\nb")),
    malformed("8.2.1 null in a value", having(b"x", b"a\0b")),
    malformed("8.2.1 blank in a name", having(b"a b", b"y")),
    malformed("8.2.1 colon in a name", having(b"a:b", b"y")),
    malformed("8.2.2 header of the connection", having(b"connection", b"keep-alive")),
    malformed("8.2.2 Transfer-Encoding", having(b"transfer-encoding", b"chunked")),
    malformed("8.2.2 Upgrade", having(b"upgrade", b"websocket")),
    malformed("8.2.2 TE other than trailers", changed(b"te", b"trailers, deflate")),
    malformed("8.3 unknown pseudo-header", [(b":test", b"x"), *HEAD]),
    malformed("8.3 pseudo-header of answers", [(b":status", b"200"), *HEAD]),
    malformed("8.3 pseudo-header behind others", [*HEAD[1:], HEAD[0]]),
    of_stream(
        "8.3 pseudo-header in trailers",
        *(OPENING, head(1, END_HEADERS | END_STREAM, [(b":method", b"POST")])),
    ),
    malformed("8.3.1 empty path", changed(b":path", b"")),
    *(
        malformed(f"8.3.1 {how} {name.decode()}", headers(name))
        for how, headers in (("no", without), ("two of", twice))
        for name in (b":method", b":scheme", b":path")
    ),
    *(
        of_stream(
            f"8.1.1 {length} bytes of Content-Length and those of {len(data)} frames",
            head(1, END_HEADERS, having(b"content-length", b"%d" % length)),
            *(frame(DATA, 0, 1, each) for each in data[:-1]),
            frame(DATA, END_STREAM, 1, data[-1]),
        )
        for length, data in ((1, [b"test"]), (3, [b"te", b"st"]), (9, [b"test"]))
    ),
    # RFC 7541
    *(
        connection(
            f"HPACK {name}",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, made),
            codes=(COMPRESSION, PROTOCOL),
        )
        for name, made in (
            ("2.3.3 index that nothing has", BLOCK + b"\xc6"),
            ("4.2 size of the table behind a field", BLOCK + b"\x20"),
            ("5.1 number without end", BLOCK + b"\xff" + b"\x80" * 12 + b"\x01"),
            ("5.2 more than 7 bits of padding", TEXT + b"\xff\x84\x49\x50\x9f\xff"),
            ("5.2 padding of zeros", TEXT + b"\xff\x83\x49\x50\x90"),
            ("5.2 end of string within one", TEXT + b"\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
            ("6.1 index 0", b"\x80" + BLOCK),
            ("6.3 size of the table over what is allowed", b"\x3f\xe2\x1f" + BLOCK),
        )
    ),
)

TAKEN = {
    "4.1 unknown frame": [frame(UNKNOWN, 0, 0, b"12345678")],
    "4.1 unknown flags": [frame(PING, 0x16 & ~ACK, 0, b"12345678")],
    "4.1 reserved bit": [frame(PING, 0, 0, b"12345678", reserved=1)],
    "5.3 PRIORITY of a stream that is not there": [frame(PRIORITY, 0, 7, number(0) + b"\x10")],
    "5.5 unknown frame on a stream": [OPENING, frame(UNKNOWN, 0, 1, b"12345678")],
    "6.5.2 unknown setting": [setting(0xFF, 1)],
    "6.7 acknowledgement of a PING that was not sent": [frame(PING, ACK, 0, b"12345678")],
    "6.9 WINDOW_UPDATE of a stream that was reset": [OPENING, CANCEL, INCREMENT],
    "6.4 RST_STREAM of a stream that was reset": [OPENING, CANCEL, CANCEL],
    "6.2 HEADERS with a priority": [
        frame(HEADERS, END_HEADERS | 0x20, 1, number(0) + b"\x10" + BLOCK)
    ],
    "6.2 HEADERS with padding": [
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + BLOCK + bytes(3))
    ],
    "HPACK 6.3 size of the table before a field": [frame(HEADERS, END_HEADERS, 1, b"\x20" + BLOCK)],
}


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.name)
def test_frames_that_a_server_must_not_take(pair: Pair, case: Case) -> None:
    *before, last = case.frames
    assert pair.tries(*before) is None
    told = [*pair.events.requests]
    if case.answered:
        pair.answers(case.answered)
    code = pair.tries(last)
    if code is not None:
        assert code in case.codes
    elif case.stream and pair.client.resets:
        ((stream, code), *_) = pair.client.resets
        assert stream == case.stream
        assert code in case.codes
        assert pair.is_alive()
        assert case.answered or case.stream in pair.events.gone or case.stream not in told
    else:
        assert case.may_ignore
        assert case.stream or not isinstance(pair.session, SessionByHand)
        assert pair.is_alive()
    # nothing came of the frame: no request, and none that was whole
    assert [each for each in pair.events.requests if each != 999] == told
    if not case.answered and WHOLE not in case.frames:
        assert [each for each in pair.events.ended if each != 999] == []


@pytest.mark.parametrize("frames", TAKEN.values(), ids=TAKEN)
def test_frames_that_a_server_must_bear(pair: Pair, frames: list[bytes]) -> None:
    pair.sends(*frames)
    assert pair.client.resets == []
    assert pair.is_alive()


def test_block_may_come_in_any_number_of_frames(pair: Pair) -> None:
    first, *rest = (BLOCK[at : at + 7] for at in range(0, len(BLOCK), 7))
    *middle, last = rest
    pair.sends(frame(HEADERS, END_STREAM, 1, first))
    pair.sends(*(frame(CONTINUATION, 0, 1, each) for each in middle[:7]))
    pair.sends(frame(CONTINUATION, END_HEADERS, 1, b"".join([*middle[7:], last])))
    assert ([*pair.events.requests], pair.events.ended) == ([1], [1])
    assert pair.is_alive()


def test_trailers_end_a_request(pair: Pair) -> None:
    pair.sends(
        OPENING, frame(DATA, 0, 1, b"x"), head(1, END_HEADERS | END_STREAM, [(b"x-t", b"1")])
    )
    assert (pair.events.data, pair.events.ended) == ({1: b"x"}, [1])
    assert pair.is_alive()


def test_window_may_become_negative_and_grows_from_there(pair: Pair) -> None:
    pair.sends(setting(4, 3), WHOLE)
    pair.session.start_answer(1, ANSWER)
    pair.session.send(1, b"abcdef")
    pair.flush()
    pair.sends(setting(4, 1), frame(WINDOW, 0, 1, number(2)))
    assert pair.client.bodies == {1: b"abc"}
    pair.sends(frame(WINDOW, 0, 1, number(1)))
    assert pair.client.bodies == {1: b"abcd"}


def test_window_of_the_connection_bounds_all_streams(pair: Pair) -> None:
    pair.sends(setting(4, 2**20), WHOLE, head(3, END_HEADERS | END_STREAM))
    for stream in (1, 3):
        pair.session.start_answer(stream, ANSWER)
        pair.session.send(stream, bytes(60_000))
    pair.flush()
    assert sum(map(len, pair.client.bodies.values())) == 65_535
    pair.sends(frame(WINDOW, 0, 0, number(2**20)))
    assert {stream: len(body) for stream, body in pair.client.bodies.items()} == {
        1: 60_000,
        3: 60_000,
    }


@pytest.mark.parametrize(
    "preface", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x00", b"INVALID CONNECTION PREFACE\r\n\r\n"]
)
def test_preface_that_is_none_ends_the_connection(preface: bytes, pair: Pair) -> None:
    session = type(pair.session)()
    with pytest.raises(Misbehaved):
        session.receive(preface + bytes(20), Events())
