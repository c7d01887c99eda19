"""Clients of WebSocket that wear a router out or break the rules: each is told why and ended, and nothing is held after that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet_fakes import echo, hang
from loop_clock import LoopClock
from patience import until
from router_http import Http
from scripted_client import all_given_back
from tidy_router import tidy
from ws_client import WsClient, connected, frame, infer, streaming

from capamesh.router.http.calm import MOST
from capamesh.router.ws.connection import AHEAD_BYTES
from capamesh.router.ws.server import StreamServer


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    return LoopClock(monkeypatch)


@pytest.fixture
async def http(clock: LoopClock) -> AsyncIterator[Http]:
    async with tidy() as http:
        http.node("A")
        yield http


def misbehaved(http: Http) -> int:
    server = http.front.upgrades
    assert isinstance(server, StreamServer)
    return server.misbehaved


async def ended(http: Http, client: WsClient, code: int, said: str = "") -> None:
    """See that the stream is closed so, and counted."""
    closed = await client.end()
    assert closed is not None
    assert (closed[0], said in closed[1]) == (code, True), closed
    assert misbehaved(http) == 1


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (frame(0x81, b"{}", is_masked=False), 1002, "unmasked"),
        (frame(0x81, b"\xff\xfe{}"), 1007, "utf-8"),
        (frame(0x01, b'{"a": "\xc3') + frame(0x80, b'x"}'), 1007, "utf-8"),
        (frame(0x80, b"{}"), 1002, "unexpected CONTINUATION"),
        (frame(0x01, b"{") + frame(0x81, b"}"), 1002, "expected CONTINUATION"),
        (frame(0x83, b"{}"), 1002, "opcode"),
        (frame(0xC1, b"{}"), 1002, "Reserved bit"),
        (frame(0x89, b"p" * 126), 1002, ""),
        (frame(0x09, b"p"), 1002, "fragment control"),
        (frame(0x88, b"\x03"), 1002, "1 byte"),
        (frame(0x88, b"\x03\xed"), 1002, "local-only"),
        (frame(0x88, b"\x03\xe8\xff"), 1007, ""),
        (frame(0x82, size=2**63), 1002, ""),
        (b"GET / HTTP/1.1\r\n\r\n", 1002, ""),
    ],
)
async def test_broken_frames_are_refused(http: Http, sent: bytes, code: int, said: str) -> None:
    async with streaming(http) as client:
        client.raw(sent)
        await ended(http, client, code, said)


async def test_broken_frame_behind_a_request_withdraws_it() -> None:
    async with tidy() as http:
        link = http.node("A", hang)
        async with streaming(http) as client:
            client.send(infer("a"))
            await link.asked.wait()
            client.raw(frame(0x83))
            link.asks[0].echo()
            await ended(http, client, 1002)


@pytest.mark.parametrize(
    ("flood", "said"),
    [
        (b"".join(frame(0x89, b"x" * 125) for _ in range(2 * int(MOST))), "too many pings"),
        (frame(0x8A) * (2 * int(MOST)), "too many pings"),
        (frame(0x01) + frame(0x00) * (2 * int(MOST)), "parts of messages"),
    ],
    ids=["pings", "pongs", "empty parts"],
)
async def test_flood_of_frames_is_ended(
    clock: LoopClock, http: Http, flood: bytes, said: str
) -> None:
    async with streaming(http) as client:
        with clock.standing_still():  # time would give some back
            client.raw(flood)
            await client.read_until(lambda: client.closed or client.is_ended)
        await ended(http, client, 1008, said)
        assert flood[0] != 0x89 or len(client.pongs) >= int(MOST)


async def test_pings_of_a_client_that_asks_are_borne(http: Http) -> None:
    async with streaming(http) as client:
        for _ in range(int(MOST)):
            client.ping()
            client.ping()
            client.send(infer("a"))
            await client.next()
        assert misbehaved(http) == 0


async def test_parts_without_an_end_are_over_in_time() -> None:
    async with tidy(arrival_s=0.2) as http:
        http.node("A")
        async with streaming(http) as client:
            client.send('{"inputs": [', is_last=False)
            told = await client.next()
            assert told["code"] == "deadline_exceeded"
            assert "12 bytes of a message came within 0.2 s" in told["error"]
            assert (await client.end() or (0,))[0] == 1008


async def test_length_that_never_comes_holds_no_memory(http: Http) -> None:
    async with streaming(http) as client:
        client.raw(frame(0x82, b"abcd", size=2**40))
        client.ping(b"1")
        await until(lambda: http.front.budget.used_bytes, "the message is not begun")
        assert http.front.budget.used_bytes < 100


async def test_bytes_that_are_sent_ahead_are_bounded(http: Http) -> None:
    """A client that sends and sends while its request runs is not read beyond a bound."""
    async with tidy() as slow:
        link = slow.node("A", hang, echo)
        async with streaming(slow) as client:
            client.send(infer("a"))
            await link.asked.wait()
            client.raw(frame(0x81, infer("b").encode()) * 100_000)
            connection: Any = next(iter(slow.front.connections))
            await until(lambda: not connection.transport.is_reading(), "it is still read")
            guest = connection._guest
            assert AHEAD_BYTES < guest._backlog_bytes <= 2 * AHEAD_BYTES
            client.leave()
            link.asks[0].echo()


async def test_client_that_reads_nothing_is_ended_and_stalls_nobody() -> None:
    async with tidy(arrival_s=0.3) as http:
        http.node("A", echo)
        row = {"name": "x", "datatype": "FP32", "shape": [20_000, 2], "data": [0.5] * 40_000}
        client = await connected(http)
        client.transport.pause_reading()  # type: ignore[attr-defined]
        text = infer("large", inputs=[row])
        for _ in range(200):
            client.send(text)
        async with streaming(http) as other:
            for at in range(20):
                other.send(infer(str(at)))
                assert (await other.next())["id"] == str(at)
            await until(lambda: len(http.front.connections) == 1, "it is not hung up on")
        client.leave()


async def test_half_a_connection_is_none(http: Http) -> None:
    async with streaming(http) as client:
        client.transport.write_eof()
        await client.end()
        await all_given_back(http)
