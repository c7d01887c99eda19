"""A stream that is silent: pinged, given up, closed when idle, and what it is told while it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from fleet_fakes import Fleet, NullLog
from ws_client import head
from ws_mischief import Mischief
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from capamesh.protocol.oip import InferRequest
from capamesh.protocol.tensors import Limits
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.http.exchange import Inference
from capamesh.router.http.key_check import KeyCheck
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.replies import Reply
from capamesh.router.ws.connection import IDLE_S, LINGER_S, PING_S, StreamConnection
from capamesh.router.ws.context import StreamContext
from capamesh.router.ws.handshake import read_head
from capamesh.router.ws.sequence import StreamSequence


class FakeFront:
    """A front on the virtual loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        fleet = Fleet()
        self.now_s, self.after = loop.time, loop.call_later
        self.inference = Inference(
            fleet.view,
            fleet.routing,
            fleet.telemetry,
            30.0,
            Limits(),
            NullLog(),  # type: ignore[arg-type]
            repeated=fleet.core.repeated,
        )
        self.keys = KeyCheck(self.inference.ring)
        self.requests = OpenRequests()
        self.budget = BodyBudget(2**24, 2**23, clock=loop.time)
        self.arrival_s = 30.0


def timers() -> int:
    """Return how many timers run."""
    loop: Any = asyncio.get_running_loop()
    return sum(not each.cancelled() for each in loop._scheduled)


class FakeTransport:
    """A socket that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.end = ""

    def write(self, data: bytes) -> None:
        assert not self.end
        self.written += data

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = self.end or "aborted"

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class Talk:
    """A stream and its client."""

    def __init__(self) -> None:
        self.front = FakeFront()
        self.transport = FakeTransport()
        self.used_s = 0.0
        self.site = "127.0.0.1"
        self.context = StreamContext(self.front)  # type: ignore[arg-type]
        asked = read_head(head(), OriginCheck((ANY_HOST,)))
        assert asked is not None
        self.connection = StreamConnection(self.context, self, asked, None)  # type: ignore[arg-type]
        assert self.transport.written == asked.accepted
        self.transport.written = b""
        self._client = Connection(ConnectionType.CLIENT)

    def send(self, *events: Event) -> None:
        for event in events:
            self.connection.received(memoryview(self._client.send(event)))

    def heard(self) -> list[Event]:
        """Return what the client has got since."""
        data, self.transport.written = self.transport.written, b""
        if data:
            self._client.receive_data(data)
        return list(self._client.events())


@pytest.fixture
async def talk() -> Talk:
    return Talk()


def closed(talk: Talk) -> tuple[int, str | None]:
    (event,) = talk.heard()
    assert isinstance(event, CloseConnection)
    return event.code, event.reason


async def test_client_that_is_silent_is_pinged_and_then_given_up(talk: Talk) -> None:
    await asyncio.sleep(PING_S)
    assert [type(event) for event in talk.heard()] == [Ping]
    await asyncio.sleep(PING_S)
    assert talk.transport.end == "aborted"
    talk.connection.lost()
    assert talk.context.open == 0
    assert timers() == 0


async def test_client_that_answers_pings_stays_until_it_is_idle(talk: Talk) -> None:
    pings = 0
    while talk.front.now_s() < IDLE_S - PING_S:
        await asyncio.sleep(PING_S)
        pings += sum(isinstance(event, Ping) for event in talk.heard())
        talk.send(Pong())
    assert pings >= 4
    await asyncio.sleep(PING_S)
    assert closed(talk) == (1001, f"no message came for {IDLE_S:g} s")


async def test_message_begins_the_time_anew(talk: Talk) -> None:
    for _ in range(3):
        await asyncio.sleep(PING_S - 1)
        talk.send(TextMessage("["))
    kinds = [type(event) for event in talk.heard()]
    assert kinds == [TextMessage] * 3
    assert talk.used_s == talk.front.now_s()


async def test_slow_reader_is_not_read_and_goes_on_once_it_has_read(talk: Talk) -> None:
    talk.connection.paused()
    talk.send(*[TextMessage("[" + " " * 3000)] * 8)
    assert talk.heard() == []
    assert not talk.transport.is_reading
    talk.connection.resumed()
    assert len(talk.heard()) == 8
    assert talk.transport.is_reading


async def test_client_that_is_closed_has_a_moment_to_read_why(talk: Talk) -> None:
    talk.connection.leave()
    assert closed(talk) == (1001, "the router stops")
    talk.connection.received(memoryview(b"\x81\x80\0\0\0\0" * 10))
    assert talk.heard() == []
    await asyncio.sleep(LINGER_S)
    assert (talk.transport.end, talk.context.open) == ("closed", 0)


async def test_parts_that_never_end_are_told_so(talk: Talk) -> None:
    talk.send(BytesMessage(b"abc", message_finished=False))
    assert talk.front.budget.used_bytes == 3
    for _ in range(3):
        await asyncio.sleep(10)
        talk.send(Pong())
    await asyncio.sleep(10)
    said, end = (event for event in talk.heard() if not isinstance(event, Ping))
    assert "3 bytes of a message came within 30 s" in said.data  # type: ignore[union-attr]
    assert end.code == 1008  # type: ignore[union-attr]
    assert talk.front.budget.used_bytes == 0


async def test_stream_that_waits_for_nothing_leaves_when_it_is_asked_to(talk: Talk) -> None:
    assert (talk.connection.is_dispensable, talk.connection.is_idle) == (True, False)
    talk.send(BytesMessage(b"abc", message_finished=False))
    assert not talk.connection.is_dispensable
    talk.connection.ask_to_leave()
    assert talk.heard() == []
    talk.send(BytesMessage(b"", message_finished=True))
    talk.heard()
    talk.connection.ask_to_leave()
    assert closed(talk) == (1001, "the router stops")


@pytest.mark.parametrize("first", range(0, 400, 100))
async def test_any_bytes_come_to_an_end_that_holds_nothing(first: int) -> None:
    for seed in range(first, first + 100):
        talk = Talk()
        drawn = Mischief(seed)
        for step in drawn.steps():
            for piece in drawn.cut(step):
                if not talk.transport.end:
                    talk.connection.received(memoryview(piece))
            if drawn.rng.random() < 0.3:
                await asyncio.sleep(drawn.rng.choice((0.1, PING_S, IDLE_S)))
            if drawn.rng.random() < 0.2:
                drawn.rng.choice((talk.connection.paused, talk.connection.resumed))()
            assert talk.front.budget.used_bytes <= 2**24
        talk.connection.lost()
        front = talk.front
        assert (front.budget.used_bytes, front.budget.arriving_bytes) == (0, 0), seed
        assert (front.requests.count, talk.context.open) == (0, 0), seed
        await asyncio.sleep(2 * IDLE_S)
        assert timers() == 0, seed


OK = Reply(200, {}, ())


@pytest.fixture
def sequence() -> StreamSequence:
    ids = count(1)
    return StreamSequence(lambda _: f"id{next(ids)}")


def marks(sequence: StreamSequence, **parameters: str | int | bool) -> dict[str, object]:
    return dict(sequence.marked(InferRequest("m", "", "", (), parameters=parameters)).parameters)


def failed(status: int, code: str = "") -> Reply:
    return Reply(status, {"X-Capamesh-Error": code}, ())


def test_request_may_end_it_or_name_its_own_and_the_next_begins_another(
    sequence: StreamSequence,
) -> None:
    assert marks(sequence, sequence_id=7) == {"sequence_id": 7}
    marks(sequence)
    sequence.replied(OK)
    assert marks(sequence, sequence_end=True)["sequence_end"] is True
    sequence.replied(OK)
    assert marks(sequence) == {"sequence_id": "id2", "sequence_start": True}


@pytest.mark.parametrize("status", [400, 413, 429, 503])
def test_request_that_was_not_run_leaves_it_as_it_is(sequence: StreamSequence, status: int) -> None:
    marks(sequence)
    sequence.replied(failed(status))
    assert marks(sequence)["sequence_start"] is True
    sequence.replied(OK)
    marks(sequence)
    sequence.replied(failed(status, "invalid_request"))
    assert marks(sequence) == {"sequence_id": "id1", "sequence_start": False}


@pytest.mark.parametrize(
    ("reply", "may_go_on"),
    [
        *((failed(*each), True) for each in ((410, "sequence_lost"), (502, "link_lost"))),
        *((failed(*each), True) for each in ((504, "late"), (400, "sequence_unknown"))),
        (failed(503), False),  # where no gap may be
    ],
)
def test_state_that_is_gone_begins_anew(
    sequence: StreamSequence, reply: Reply, may_go_on: bool
) -> None:
    marks(sequence)
    sequence.replied(OK)
    marks(sequence)
    sequence.replied(reply, may_go_on=may_go_on)
    assert marks(sequence)["sequence_start"] is True
