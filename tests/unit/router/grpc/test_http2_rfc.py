"""What RFC 9113 and RFC 7541 say of a server, section by section, of HTTP/2 by hand and of two libraries: the cases of h2spec.

A stream error may be a connection error as well (RFC 9113, 5.4.1), so that a case that names a stream takes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from http2_by_h2 import SessionByH2
from http2_by_ngh2 import SessionByNgh2
from http2_cases import BLOCK, ERRORS, OPENING, TAKEN, WHOLE, Case
from http2_client import Http2Client
from http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    SETTINGS,
    WINDOW,
    frame,
    head,
    number,
    setting,
)
from hyperframe.frame import PingFrame
from typing_extensions import override

from capamesh.router.grpc.http2 import Headers, Http2Session, Misbehaved, StreamEvents
from capamesh.router.grpc.http2_by_hand import SessionByHand

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


@pytest.fixture(params=[SessionByHand, SessionByNgh2, SessionByH2], ids=["hand", "ngh2", "h2"])
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


def test_last_of_several_first_windows_counts(server: Server) -> None:
    pair = b"".join((4).to_bytes(2, "big") + number(size) for size in (100, 1))
    server.sends(frame(SETTINGS, 0, 0, pair), WHOLE)
    server.session.start_answer(1, ANSWER)
    server.session.send(1, b"abc")
    server.client.take(server.session.to_send())
    assert server.client.bodies == {1: b"a"}


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
