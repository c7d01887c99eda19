"""Who the front bears, for how long, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest
from fleet_fakes import hang
from free_ports import free_port
from raw_http import LIVE, connected
from router_http import Http, serving
from tidy_router import infer

from capamesh.router.http.connection import FrontConnection


def connections(http: Http) -> set[FrontConnection]:
    return set(http.front._open())


async def test_front_that_nobody_uses_need_not_wait_when_it_stops(http: Http) -> None:
    http.front.stop_accepting()
    await http.front.wait_left()  # the end of the wait is not the clock's: nothing here advances it
    assert connections(http) == set()


async def test_client_that_asks_again_while_a_front_stops_is_answered_and_asked_to_leave(
    http: Http,
) -> None:
    http.node("A")
    async with connected(http.client.port) as client:
        await client.send(infer("first"))
        assert not (await client.answer()).is_last
        http.front.stop_accepting()
        http.front.requests.is_closing = True
        waiting = asyncio.create_task(http.front.wait_left())
        await client.send(infer("second"))
        answer = await client.answer()
        assert (answer.status, answer.is_last) == (200, True)
        assert await client.rest() == []
        await waiting
    assert connections(http) == set()


async def test_front_that_stops_accepts_nobody() -> None:
    # a port that nobody else is given once it is free
    async with serving(http_port=free_port()) as http:
        http.front.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", http.client.port)


async def test_idle_client_is_hung_up_on_and_one_that_waits_for_an_answer_is_not(
    http: Http,
) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as idle, connected(http.client.port) as busy:
        await idle.send(LIVE)
        assert (await idle.answer()).status == 200
        http.front._sweep()
        await idle.send(LIVE)  # idle for a moment, it has stayed
        assert (await idle.answer()).status == 200
        await busy.send(infer("runs"))
        await link.asked.wait()
        for connection in connections(http):
            connection.used_s = -math.inf
        http.front._sweep()
        assert await idle.rest() == []
        await http.settled()
        assert [connection.is_idle for connection in connections(http)] == [False]


async def test_head_that_does_not_arrive_is_a_408_that_says_how_much_came() -> None:
    async with serving(arrival_s=0.05) as http, connected(http.client.port) as client:
        await client.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n")
        answer = await client.answer()
        assert (answer.status, answer.is_last) == (408, True)
        assert answer.error.startswith("43 bytes of the request's head came within 0.05 s")
        assert await client.rest() == []
        assert http.front.requests.count == 0


async def test_junk_from_a_stranger_is_no_line_in_the_log(
    http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "capamesh")
    async with connected(http.client.port) as client:
        await client.send(b"\x16\x03\x01 junk\r\n\r\n")
        await client.ended()
    assert caplog.records == []
