"""Clients of HTTP/2 that wear a router out: each is ended with GOAWAY and counted, and nothing is held for it after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet_fakes import after, echo, hang
from grpc_attacker import Attacker, attacking, connected
from http2_client import HEAD
from hyperframe.frame import ContinuationFrame, Frame, PingFrame, SettingsFrame, WindowUpdateFrame
from loop_clock import LoopClock
from raw_http import turns
from router_http import Http
from tidy_router import tidy

from capamesh.protocol.tensors import Limits
from capamesh.router.grpc.http2 import MAX_STREAMS
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.calm import MOST
from capamesh.router.http.limits import FrontLimits

CALM, PROTOCOL = 0xB, 0x1
INFER, STREAM = (
    tuple(
        (name, f"/{SERVICE}/{of}".encode() if name == b":path" else value) for name, value in HEAD
    )
    for of in ("ModelInfer", "ModelStreamInfer")
)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    return LoopClock(monkeypatch)


@pytest.fixture
async def http(clock: LoopClock) -> AsyncIterator[Http]:
    async with tidy() as http:
        yield http


def message(rows: int = 1) -> bytes:
    described = {"name": "x", "datatype": "FP32", "shape": [rows, 2]}
    raw = [bytes(8 * rows)]
    request = CLASSES["ModelInferRequest"](
        model_name="m", inputs=[described], raw_input_contents=raw
    )
    built = request.SerializeToString()
    return b"\0" + len(built).to_bytes(4, "big") + bytes(built)


def call(attacker: Attacker, stream: int = 1, rows: int = 1) -> None:
    """Send a whole request."""
    whole = attacker.data(stream, message(rows), is_last=True)
    attacker.send(attacker.head(stream, INFER), whole)


async def is_answered(attacker: Attacker, stream: int) -> None:
    await attacker.read_until(lambda: len(attacker.heads.get(stream, [])) == 2)
    assert attacker.heads[stream][1] == {b"grpc-status": b"0"}


def misbehaved(http: Http) -> int:
    server = http.front.guests
    assert isinstance(server, GrpcServer)
    return server.misbehaved


async def ended(http: Http, attacker: Attacker, *codes: int) -> None:
    """See that the connection is ended with GOAWAY, and counted."""
    await attacker.read_all()
    assert attacker.goaway is not None
    assert attacker.goaway.error_code in codes
    assert misbehaved(http) == 1


async def test_rapid_reset_is_ended_and_each_request_withdrawn(
    clock: LoopClock, http: Http
) -> None:
    link = http.node("a", hang)
    async with attacking(http) as attacker:
        with clock.standing_still():  # time would give some back
            for stream in range(1, 4 * int(MOST), 2):
                call(attacker, stream)
                attacker.send(attacker.reset(stream))
            await ended(http, attacker, CALM)
    assert len(link.asks) == MOST
    assert len(link.withdrawn) == len(link.asks)


async def test_client_that_gives_up_some_of_its_requests_stays(http: Http) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        stream = 1
        for _ in range(2 * int(MOST)):
            attacker.send(attacker.head(stream, INFER), attacker.reset(stream))
            attacker.send(attacker.head(stream + 2, is_last=False))
            attacker.send(attacker.data(stream + 2, b"\0\0\0\0\0", is_last=True))
            stream += 4
            await attacker.read_until(lambda at=stream: len(attacker.heads.get(at - 2, [])) == 2)
    assert misbehaved(http) == 0


def flood_of(kind: str, attacker: Attacker) -> bytes:
    match kind:
        case "pings":
            ping = PingFrame(0)
            ping.opaque_data = b"12345678"
            return ping.serialize() * 3000
        case "settings":
            return SettingsFrame(0).serialize() * 3000
        case "window updates":
            return attacker.window(0, 1) * 3000
        case "continuations":
            frame = ContinuationFrame(1)
            frame.data = b""
            return attacker.head(1, INFER, is_whole=False) + frame.serialize() * 1000
        case _:
            return attacker.head(1, INFER + ((b"x-large", b"v" * 2000),) * 9)


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        *((kind, (CALM,)) for kind in ("pings", "settings", "window updates")),
        *((kind, (CALM, PROTOCOL)) for kind in ("continuations", "a head beyond its bound")),
    ],
)
async def test_flood_is_ended(http: Http, kind: str, codes: tuple[int, ...]) -> None:
    async with attacking(http) as attacker:
        attacker.send(flood_of(kind, attacker))
        await ended(http, attacker, *codes)


async def test_more_streams_than_agreed_are_ended(http: Http) -> None:
    link = http.node("a", hang)
    async with attacking(http) as attacker:
        for at in range(MAX_STREAMS + 1):
            call(attacker, 1 + 2 * at)
        await ended(http, attacker, PROTOCOL, CALM)
    assert len(link.asks) <= MAX_STREAMS
    assert len(link.withdrawn) == len(link.asks)


async def test_broken_frame_behind_requests_withdraws_them(http: Http) -> None:
    link = http.node("a", hang)
    async with attacking(http) as attacker:
        call(attacker)
        await link.asked.wait()
        attacker.send(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
        await attacker.read_all()
        assert misbehaved(http) == 1
    assert len(link.withdrawn) == 1


async def test_answer_that_is_not_read_ends_the_connection_in_time(clock: LoopClock) -> None:
    async with tidy(arrival_s=20.0) as http:
        http.node("a", echo)
        async with attacking(http, initial_window_size=10) as attacker:
            call(attacker)
            await attacker.read_until(lambda: 1 in attacker.bodies)
            assert http.front.budget.used_bytes > 0
            for _ in range(2):  # in the first of which there may have been some progress
                clock.set_forward(21.0)
                await turns()
            await ended(http, attacker, CALM)


async def test_answers_that_nobody_reads_are_within_the_budget() -> None:
    limits = FrontLimits(body_bytes=3 * 2**20, arriving_bytes=2**20)
    async with tidy(front_limits=limits) as http:
        http.node("a", echo)
        async with attacking(http, initial_window_size=10) as attacker:
            for at in range(60):
                call(attacker, 1 + 2 * at, 12_500)
                if at:
                    await asyncio.sleep(0)
            await attacker.read_until(lambda: len(attacker.heads) == 60)
            told = [head.get(b"grpc-status") for head, *_ in attacker.heads.values()]
            assert 20 < told.count(b"14") < 40
            assert 2 * 2**20 < http.front.budget.used_bytes <= 3 * 2**20


async def test_rest_of_refused_messages_does_not_shut_the_window(http: Http) -> None:
    http.node("a", echo)
    too_large = b"\0" + (2**31).to_bytes(4, "big") + bytes(60_000)
    async with attacking(http) as attacker:
        for at in range(100):  # more than the connection's window
            stream = 1 + 2 * at
            attacker.send(attacker.head(stream, INFER), attacker.data(stream, too_large))
            await attacker.read_until(lambda stream=stream: stream in attacker.heads)  # type: ignore[misc]
        call(attacker, 201)
        await is_answered(attacker, 201)
        updates = [each for each in attacker.frames if _opens(each, 0)]
        assert sum(each.window_increment for each in updates) > 100 * 60_000


async def test_stream_whose_answers_are_not_read_asks_for_no_more(http: Http) -> None:
    link = http.node("a", echo)
    async with attacking(http, initial_window_size=10) as attacker:
        attacker.send(attacker.head(1, STREAM))
        one = message(12_500)
        attacker.send(attacker.data(1, one * 10))
        await attacker.read_until(lambda: any(_opens(each, 1) for each in attacker.frames))
        attacker.send(attacker.data(1, one * 5))
        while http.front.budget.used_bytes < 2**20:
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        asked = len(link.asks)
        assert asked < 15
        attacker.send(attacker.window(1, 2**24), attacker.window(0, 2**24))
        await attacker.read_until(lambda: len(link.asks) == 15)
        await attacker.read_until(lambda: len(attacker.bodies[1]) > 15 * 100_000)


def _opens(each: Frame, stream: int) -> bool:
    return isinstance(each, WindowUpdateFrame) and each.stream_id == stream


async def test_message_that_does_not_come_is_refused_in_time() -> None:
    async with tidy(arrival_s=0.3) as http:
        http.node("a", echo)
        async with attacking(http) as attacker:
            whole = message(100)
            attacker.send(attacker.head(1, INFER))
            attacker.send(attacker.head(3, INFER), attacker.data(3, whole[:3]))
            attacker.send(attacker.head(5, INFER), attacker.data(5, whole[:100]))
            attacker.send(attacker.head(7, STREAM), attacker.data(7, whole[:100]))
            attacker.send(attacker.head(9, STREAM))  # this need not send one
            await attacker.read_until(lambda: {1, 3, 5, 7} <= set(attacker.heads))
            for stream in (1, 3, 5, 7):
                ((told),) = attacker.heads[stream]
                assert told[b"grpc-status"] == b"4"
                assert b"came within 0.3 s" in told[b"grpc-message"]
            assert 9 not in attacker.heads
        assert misbehaved(http) == 0


async def test_messages_that_arrive_are_within_the_budget() -> None:
    limits = FrontLimits(body_bytes=4 * 2**20, arriving_bytes=2**20)
    async with tidy(front_limits=limits, limits=Limits(max_message_bytes=2**20)) as http:
        http.node("a", after(0.05, echo))
        async with attacking(http) as attacker:
            other = await connected(http)
            whole = message(100_000)
            asked = [(client, stream) for client in (attacker, other) for stream in (1, 3, 5)]
            for client, stream in asked:
                client.send(client.head(stream, INFER), client.data(stream, whole[:600_000]))
            while http.front.budget.arriving_bytes < 2**19:
                await asyncio.sleep(0)
            for client, stream in asked:
                client.send(client.data(stream, whole[600_000:], is_last=True))
            for client in (attacker, other):
                await client.read_until(lambda at=client: set(at.heads) == {1, 3, 5})
            assert http.front.budget.arriving_bytes == 0
            other.leave()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (message()[:20], b"ended within a message"),
        (b"\0\0", b"ended within a message"),
        (b"", b"ended without a message"),
        (message() * 2, b"a second message came"),
        (b"\0\xff\xff\xff\xff", b"the limit is"),
    ],
)
async def test_malformed_bodies_are_refused_and_the_connection_goes_on(
    http: Http, data: bytes, text: bytes
) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        attacker.send(attacker.head(1, INFER), attacker.data(1, data, is_last=True))
        await attacker.read_until(lambda: 1 in attacker.heads)
        assert text in attacker.heads[1][0][b"grpc-message"]
        call(attacker, 3)
        await is_answered(attacker, 3)
        # nor is what is no call
        attacker.send(attacker.head(5, ((b":method", b"GET"), *HEAD[1:]), is_last=True))
        await attacker.read_until(lambda: 5 in attacker.heads)
        assert attacker.heads[5][0][b":status"] == b"415"


async def test_bytes_one_at_a_time_are_a_request(http: Http) -> None:
    http.node("a", echo)
    async with attacking(http) as attacker:
        sent = attacker.head(1, INFER) + attacker.data(1, message(), is_last=True)
        for at in range(len(sent)):
            attacker.send(sent[at : at + 1])
            await asyncio.sleep(0)
        await is_answered(attacker, 1)
