"""What RFC 9113 and RFC 7541 say of a server, section by section, of HTTP/2 by hand and of two libraries: the cases of h2spec.

A stream error may be a connection error as well (RFC 9113, 5.4.1), so that a case that names a stream takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from hyperframe.frame import PingFrame
from typing_extensions import override

from capamesh.router.grpc.http2 import MAX_STREAMS, Headers, Http2Session, Misbehaved, StreamEvents
from capamesh.router.grpc.http2_by_hand import SessionByHand


@dataclass(frozen=True)
class Case:
    """One case: what is sent, and how the server may take it."""

    section: str
    name: str
    frames: tuple[bytes, ...]
    codes: tuple[int, ...]
    """The codes of the error, of which one must come."""
    stream: int = 0
    """The stream whose error it is; 0: the connection's."""
    may_ignore: bool = False
    """The frames may be dropped instead, and all go on."""
    answered: int = 0
    """The stream that the server answers before the last frame; 0: it answers none."""


def connection(
    section: str, name: str, *frames: bytes, codes: tuple[int, ...] = (PROTOCOL,)
) -> Case:
    return Case(section, name, frames, codes)


def of_stream(
    section: str,
    name: str,
    *frames: bytes,
    codes: tuple[int, ...] = (PROTOCOL,),
    stream: int = 1,
    may_ignore: bool = False,
    answered: int = 0,
) -> Case:
    return Case(section, name, frames, codes, stream, may_ignore, answered)


def lenient(section: str, name: str, *frames: bytes, codes: tuple[int, ...] = (PROTOCOL,)) -> Case:
    """Return a case of the connection's that nghttp2 passes over, and never the router: nothing comes of the frames."""
    return Case(section, name, frames, codes, may_ignore=True)


def malformed(section: str, name: str, headers: Headers) -> Case:
    return of_stream(section, name, head(1, END_HEADERS | END_STREAM, headers))


OPENING = head(1)
WHOLE = head(1, END_HEADERS | END_STREAM)
BLOCK = block()
CANCEL = frame(RST, 0, 1, number(8))
CLOSED_CODES = (STREAM_CLOSED, PROTOCOL)

ERRORS = (
    # 4: frames
    of_stream(
        "4.2",
        "DATA over the largest frame",
        OPENING,
        frame(DATA, 0, 1, bytes(16_385)),
        codes=(FRAME_SIZE,),
    ),
    connection(
        "4.2",
        "HEADERS over the largest frame",
        frame(HEADERS, END_HEADERS, 1, bytes(16_385)),
        codes=(FRAME_SIZE,),
    ),
    connection(
        "4.3",
        "block that cannot be decoded",
        frame(HEADERS, END_HEADERS, 1, b"\x40\x01"),
        codes=(COMPRESSION, PROTOCOL),
    ),
    connection(
        "4.3",
        "PRIORITY within a block",
        frame(HEADERS, 0, 1, BLOCK),
        frame(PRIORITY, 0, 1, number(0) + b"\x10"),
    ),
    connection(
        "4.3", "HEADERS of another stream within a block", frame(HEADERS, 0, 1, BLOCK), head(3)
    ),
    # 5: streams
    connection("5.1", "DATA on an idle stream", frame(DATA, 0, 1, b"x")),
    connection("5.1", "RST_STREAM on an idle stream", CANCEL),
    connection("5.1", "WINDOW_UPDATE on an idle stream", frame(WINDOW, 0, 1, number(100))),
    connection("5.1", "CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, BLOCK)),
    of_stream("5.1", "DATA behind the end", WHOLE, frame(DATA, 0, 1, b"x"), codes=CLOSED_CODES),
    of_stream("5.1", "HEADERS behind the end", WHOLE, WHOLE, codes=CLOSED_CODES),
    connection(
        "5.1",
        "CONTINUATION behind the end",
        WHOLE,
        frame(CONTINUATION, END_HEADERS, 1, BLOCK),
        codes=CLOSED_CODES,
    ),
    of_stream(
        "5.1",
        "DATA on a stream that was reset",
        OPENING,
        CANCEL,
        frame(DATA, 0, 1, b"x"),
        codes=CLOSED_CODES,
        may_ignore=True,
    ),
    of_stream(
        "5.1",
        "HEADERS on a stream that was reset",
        OPENING,
        CANCEL,
        OPENING,
        codes=CLOSED_CODES,
        may_ignore=True,
    ),
    connection(
        "5.1",
        "CONTINUATION on a stream that was reset",
        OPENING,
        CANCEL,
        frame(CONTINUATION, END_HEADERS, 1, BLOCK),
        codes=CLOSED_CODES,
    ),
    of_stream(
        "5.1",
        "DATA on a stream that has ended",
        WHOLE,
        frame(DATA, 0, 1, b"x"),
        codes=CLOSED_CODES,
        may_ignore=True,
        answered=1,
    ),
    of_stream(
        "5.1",
        "HEADERS on a stream that has ended",
        WHOLE,
        WHOLE,
        codes=CLOSED_CODES,
        may_ignore=True,
        answered=1,
    ),
    connection(
        "5.1",
        "CONTINUATION on a stream that has ended",
        WHOLE,
        frame(CONTINUATION, END_HEADERS, 1, BLOCK),
        codes=CLOSED_CODES,
    ),
    connection("5.1.1", "even stream", head(2)),
    lenient("5.1.1", "stream below one before", head(5), head(3), codes=CLOSED_CODES),
    of_stream(
        "5.1.2",
        "more streams than agreed",
        *(head(1 + 2 * at) for at in range(MAX_STREAMS + 1)),
        codes=(PROTOCOL, REFUSED),
        stream=1 + 2 * MAX_STREAMS,
    ),
    connection(
        "5.5",
        "unknown frame within a block",
        frame(HEADERS, 0, 1, BLOCK),
        frame(UNKNOWN, 0, 0, b"12345678"),
    ),
    # 6.1: DATA
    connection("6.1", "DATA on stream 0", frame(DATA, 0, 0, b"x")),
    connection("6.1", "padding over the frame", OPENING, frame(DATA, PADDED, 1, b"\x06" + b"x")),
    # 6.2: HEADERS
    connection("6.2", "HEADERS on stream 0", head(0)),
    connection(
        "6.2",
        "padding over the frame",
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + BLOCK),
    ),
    # 6.3: PRIORITY
    lenient("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, number(0) + b"\x10")),
    of_stream(
        "6.3", "PRIORITY of 4 bytes", OPENING, frame(PRIORITY, 0, 1, number(0)), codes=(FRAME_SIZE,)
    ),
    # 6.4: RST_STREAM
    connection("6.4", "RST_STREAM on stream 0", frame(RST, 0, 0, number(8))),
    connection(
        "6.4", "RST_STREAM of 3 bytes", OPENING, frame(RST, 0, 1, b"abc"), codes=(FRAME_SIZE,)
    ),
    # 6.5: SETTINGS
    connection(
        "6.5",
        "acknowledgement with bytes",
        frame(SETTINGS, ACK, 0, b"x"),
        codes=(FRAME_SIZE, PROTOCOL),  # the second is h2's
    ),
    connection("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1)),
    connection("6.5", "SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, b"abc"), codes=(FRAME_SIZE,)),
    connection("6.5.2", "ENABLE_PUSH of 2", setting(2, 2)),
    connection("6.5.2", "too large a window", setting(4, 2**31), codes=(FLOW_CONTROL,)),
    connection("6.5.2", "too small a frame", setting(5, 16_383)),
    connection("6.5.2", "too large a frame", setting(5, 2**24)),
    # 6.6: PUSH_PROMISE
    connection(
        "6.6", "PUSH_PROMISE of a client", OPENING, frame(PUSH, END_HEADERS, 1, number(2) + BLOCK)
    ),
    # 6.7: PING
    connection("6.7", "PING on a stream", frame(PING, 0, 1, b"12345678")),
    connection("6.7", "PING of 6 bytes", frame(PING, 0, 0, b"123456"), codes=(FRAME_SIZE,)),
    # 6.8: GOAWAY
    connection("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8))),
    # 6.9: WINDOW_UPDATE
    connection("6.9", "no increment of the connection's", frame(WINDOW, 0, 0, number(0))),
    of_stream("6.9", "no increment of a stream's", OPENING, frame(WINDOW, 0, 1, number(0))),
    connection("6.9", "WINDOW_UPDATE of 3 bytes", frame(WINDOW, 0, 0, b"abc"), codes=(FRAME_SIZE,)),
    connection(
        "6.9.1",
        "connection's window over the largest",
        frame(WINDOW, 0, 0, number(MOST_WINDOW - 65_535)),
        frame(WINDOW, 0, 0, number(1)),
        codes=(FLOW_CONTROL,),
    ),
    of_stream(
        "6.9.1",
        "stream's window over the largest",
        OPENING,
        frame(WINDOW, 0, 1, number(MOST_WINDOW - 65_535)),
        frame(WINDOW, 0, 1, number(1)),
        codes=(FLOW_CONTROL,),
    ),
    connection(
        "6.9.2",
        "new first window that makes a stream's too large",
        OPENING,
        frame(WINDOW, 0, 1, number(MOST_WINDOW - 65_535)),
        setting(4, 65_536),
        codes=(FLOW_CONTROL,),
    ),
    # 6.10: CONTINUATION
    connection(
        "6.10",
        "other frame than CONTINUATION",
        frame(HEADERS, 0, 1, BLOCK),
        frame(CONTINUATION, 0, 1),
        frame(DATA, 0, 1, b"x"),
    ),
    connection(
        "6.10",
        "CONTINUATION on stream 0",
        frame(HEADERS, 0, 1, BLOCK[:5]),
        frame(CONTINUATION, END_HEADERS, 0, BLOCK[5:]),
    ),
    connection(
        "6.10", "CONTINUATION behind a whole block", OPENING, frame(CONTINUATION, END_HEADERS, 1)
    ),
    connection(
        "6.10",
        "CONTINUATION behind the last one",
        frame(HEADERS, 0, 1, BLOCK),
        frame(CONTINUATION, END_HEADERS, 1),
        frame(CONTINUATION, END_HEADERS, 1),
    ),
    connection(
        "6.10",
        "CONTINUATION behind DATA",
        OPENING,
        frame(DATA, 0, 1, b"x"),
        frame(CONTINUATION, END_HEADERS, 1),
    ),
    # 8: HTTP
    of_stream("8.1", "second HEADERS that do not end", OPENING, head(1, headers=[(b"x", b"y")])),
    malformed("8.2.1", "capital letters in a name", having(b"X-Capital", b"y")),
    malformed("8.2.1", "line feed in a value", having(b"x", b"a\nb")),
    malformed("8.2.1", "null in a value", having(b"x", b"a\0b")),
    malformed("8.2.1", "blank in a name", having(b"a b", b"y")),
    malformed("8.2.1", "colon in a name", having(b"a:b", b"y")),
    malformed("8.2.2", "header of the connection", having(b"connection", b"keep-alive")),
    malformed("8.2.2", "Transfer-Encoding", having(b"transfer-encoding", b"chunked")),
    malformed("8.2.2", "Upgrade", having(b"upgrade", b"websocket")),
    malformed("8.2.2", "TE other than trailers", changed(b"te", b"trailers, deflate")),
    malformed("8.3", "unknown pseudo-header", [(b":test", b"x"), *HEAD]),
    malformed("8.3", "pseudo-header of answers", [(b":status", b"200"), *HEAD]),
    malformed("8.3", "pseudo-header behind others", [*HEAD[1:], HEAD[0]]),
    of_stream(
        "8.3",
        "pseudo-header in trailers",
        OPENING,
        head(1, END_HEADERS | END_STREAM, [(b":method", b"POST")]),
    ),
    malformed("8.3.1", "empty path", changed(b":path", b"")),
    *(
        malformed("8.3.1", f"no {name.decode()}", without(name))
        for name in (b":method", b":scheme", b":path")
    ),
    *(
        malformed("8.3.1", f"two of {name.decode()}", twice(name))
        for name in (b":method", b":scheme", b":path")
    ),
    of_stream(
        "8.1.1",
        "Content-Length over the bytes",
        head(1, END_HEADERS, having(b"content-length", b"1")),
        frame(DATA, END_STREAM, 1, b"test"),
    ),
    of_stream(
        "8.1.1",
        "Content-Length over the bytes of two frames",
        head(1, END_HEADERS, having(b"content-length", b"3")),
        frame(DATA, 0, 1, b"te"),
        frame(DATA, END_STREAM, 1, b"st"),
    ),
    of_stream(
        "8.1.1",
        "fewer bytes than Content-Length",
        head(1, END_HEADERS, having(b"content-length", b"9")),
        frame(DATA, END_STREAM, 1, b"test"),
    ),
    # RFC 7541
    *(
        connection(
            section,
            name,
            frame(HEADERS, END_HEADERS | END_STREAM, 1, made),
            codes=(COMPRESSION, PROTOCOL),
        )
        for section, name, made in (
            ("HPACK 2.3.3", "index that nothing has", BLOCK + b"\xc6"),
            ("HPACK 4.2", "size of the table behind a field", BLOCK + b"\x20"),
            ("HPACK 5.1", "number without end", BLOCK + b"\xff" + b"\x80" * 12 + b"\x01"),
            (
                "HPACK 5.2",
                "more than 7 bits of padding",
                BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
            ),
            (
                "HPACK 5.2",
                "padding of zeros",
                BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",
            ),
            (
                "HPACK 5.2",
                "end of string within one",
                BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f",
            ),
            ("HPACK 6.1", "index 0", b"\x80" + BLOCK),
            ("HPACK 6.3", "size of the table over what is allowed", b"\x3f\xe2\x1f" + BLOCK),
        )
    ),
)

TAKEN = (
    ("4.1", "unknown frame", (frame(UNKNOWN, 0, 0, b"12345678"),)),
    ("4.1", "unknown flags", (frame(PING, 0x16 & ~ACK, 0, b"12345678"),)),
    ("4.1", "reserved bit", (frame(PING, 0, 0, b"12345678", reserved=1),)),
    ("5.3", "PRIORITY of a stream that is not there", (frame(PRIORITY, 0, 7, number(0) + b"\x10"),)),
    ("5.5", "unknown frame on a stream", (OPENING, frame(UNKNOWN, 0, 1, b"12345678"))),
    ("6.5.2", "unknown setting", (setting(0xFF, 1),)),
    ("6.7", "acknowledgement of a PING that was not sent", (frame(PING, ACK, 0, b"12345678"),)),
    ("6.9", "WINDOW_UPDATE of a stream that was reset", (OPENING, CANCEL, frame(WINDOW, 0, 1, number(1)))),
    ("6.4", "RST_STREAM of a stream that was reset", (OPENING, CANCEL, CANCEL)),
    ("6.2", "HEADERS with a priority", (frame(HEADERS, END_HEADERS | 0x20, 1, number(0) + b"\x10" + BLOCK),)),
    ("6.2", "HEADERS with padding", (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + BLOCK + bytes(3)),)),
    ("HPACK 6.3", "size of the table before a field", (frame(HEADERS, END_HEADERS, 1, b"\x20" + BLOCK),)),
)  # fmt: skip


ANSWER = ((b":status", b"200"),)
TRAILERS = ((b"x-end", b"1"),)


class Events(StreamEvents):
    def __init__(self) -> None:
        self.requests: list[int] = []
        self.data: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.gone: list[int] = []

    @override
    def on_request(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        self.requests.append(stream)
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
        pass


class Server:
    """A session, and a client that sends it frames and reads what comes."""

    def __init__(self, make: Callable[[], Http2Session]) -> None:
        self.session = make()
        self.events = Events()
        self.client = Http2Client()
        self.goaway_code: int | None = None
        self.sends(self.client.begin(), frame(SETTINGS, ACK, 0))

    def sends(self, *frames: bytes) -> None:
        for each in frames:
            if self.goaway_code is not None:
                return
            try:
                self.session.receive(each, self.events)
            except Misbehaved as error:
                self.client.take(error.last_words)
                goaway = self.client.goaway
                assert goaway is not None
                assert self.session.to_send() == b""
                self.goaway_code = goaway.error_code
            else:
                self.client.take(self.session.to_send())

    def answers(self, stream: int) -> None:
        """Answer a request whole."""
        self.session.start_answer(stream, ANSWER)
        self.session.end_answer(stream, TRAILERS)
        self.client.take(self.session.to_send())

    def is_alive(self) -> bool:
        """Return whether the connection goes on: a ping is answered, and so is a request."""
        before = len(self.client.frames)
        self.sends(frame(PING, 0, 0, b"are you?"))
        acknowledged = [
            each
            for each in self.client.frames[before:]
            if isinstance(each, PingFrame) and "ACK" in each.flags
        ]
        if self.goaway_code is not None or [each.opaque_data for each in acknowledged] != [
            b"are you?"
        ]:
            return False
        self.sends(head(999, END_HEADERS | END_STREAM))
        self.answers(999)
        return [*self.client.heads.get(999, [])] == [dict(ANSWER), dict(TRAILERS)]


@pytest.fixture(params=[SessionByHand, SessionByH2], ids=["hand", "h2"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(request.param)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case.section} {case.name}")
def test_frames_that_a_server_must_not_take(server: Server, case: Case) -> None:
    *before, last = case.frames
    server.sends(*before)
    assert server.goaway_code is None
    told = [*server.events.requests]
    if case.answered:
        server.answers(case.answered)
    server.sends(last)
    if server.goaway_code is not None:
        assert server.goaway_code in case.codes
    elif case.stream and server.client.resets:
        assert server.client.resets[0] == (case.stream, server.client.resets[0][1])
        assert server.client.resets[0][1] in case.codes
        assert server.is_alive()
        assert case.answered or case.stream in server.events.gone or case.stream not in told
    else:
        assert case.may_ignore
        assert case.stream or not isinstance(server.session, SessionByHand)
        assert server.is_alive()
    # nothing came of the frame: no request, and none that was whole
    assert [each for each in server.events.requests if each != 999] == told
    if not case.answered and WHOLE not in case.frames:
        assert [each for each in server.events.ended if each != 999] == []


@pytest.mark.parametrize(
    "frames", [each for *_, each in TAKEN], ids=[f"{section} {name}" for section, name, _ in TAKEN]
)
def test_frames_that_a_server_must_bear(server: Server, frames: tuple[bytes, ...]) -> None:
    server.sends(*frames)
    assert server.client.resets == []
    assert server.is_alive()


def test_block_may_come_in_any_number_of_frames(server: Server) -> None:
    first, *rest = (BLOCK[at : at + 7] for at in range(0, len(BLOCK), 7))
    *middle, last = rest
    server.sends(frame(HEADERS, END_STREAM, 1, first))
    server.sends(*(frame(CONTINUATION, 0, 1, each) for each in middle[:7]))
    server.sends(frame(CONTINUATION, END_HEADERS, 1, b"".join([*middle[7:], last])))
    assert (server.events.requests, server.events.ended) == ([1], [1])
    assert server.is_alive()


def test_trailers_end_a_request(server: Server) -> None:
    server.sends(
        OPENING, frame(DATA, 0, 1, b"x"), head(1, END_HEADERS | END_STREAM, [(b"x-t", b"1")])
    )
    assert (server.events.data, server.events.ended) == ({1: b"x"}, [1])
    assert server.is_alive()


def test_window_may_become_negative_and_grows_from_there(server: Server) -> None:
    server.sends(setting(4, 3), WHOLE)
    server.session.start_answer(1, ANSWER)
    server.session.send(1, b"abcdef")
    server.client.take(server.session.to_send())
    server.sends(setting(4, 1), frame(WINDOW, 0, 1, number(2)))
    assert server.client.bodies == {1: b"abc"}
    server.sends(frame(WINDOW, 0, 1, number(1)))
    assert server.client.bodies == {1: b"abcd"}


def test_window_of_the_connection_bounds_all_streams(server: Server) -> None:
    server.sends(setting(4, 2**20), WHOLE, head(3, END_HEADERS | END_STREAM))
    for stream in (1, 3):
        server.session.start_answer(stream, ANSWER)
        server.session.send(stream, bytes(60_000))
    server.client.take(server.session.to_send())
    assert sum(map(len, server.client.bodies.values())) == 65_535
    server.sends(frame(WINDOW, 0, 0, number(2**20)))
    assert {stream: len(body) for stream, body in server.client.bodies.items()} == {
        1: 60_000,
        3: 60_000,
    }


@pytest.mark.parametrize(
    "preface", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x00", b"INVALID CONNECTION PREFACE\r\n\r\n"]
)
def test_preface_that_is_none_ends_the_connection(preface: bytes, server: Server) -> None:
    session = type(server.session)()
    with pytest.raises(Misbehaved):
        session.receive(preface + bytes(20), Events())
