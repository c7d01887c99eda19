"""Clients that half close, that say how they end in other words, that stop in a head, that are too many or hold too much."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
from typing import Any

import numpy as np
import pytest
from fleet_fakes import answer_of, answering, echo, fp32, hang
from loop_clock import LoopClock
from patience import until
from raw_http import GUARD_S, ask, chunked, connected, exchange, request, turns
from router_http import INFER, Http
from tidy_router import check, infer, json_body, of_kind, tidy

from capamesh.protocol.tensors import Limits
from capamesh.router.http import half_closed
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.http.half_closed import CONTINUE
from capamesh.router.http.limits import FrontLimits

MIB = 2**20
LARGE = fp32("y", *np.zeros((1 << 20, 2), np.float32))
WANT_RAW = request(INFER, json_body("one", parameters={"binary_data_output": True}))
SMALL = FrontLimits(body_bytes=4 * MIB, arriving_bytes=2 * MIB)


def packed(name: str) -> bytes:
    return request(INFER, gzip.compress(json_body(name)), b"Content-Encoding: gzip")


def of_old(name: str) -> bytes:
    return infer(name).replace(b"HTTP/1.1", b"HTTP/1.0", 1)


class Looks:
    """Half closed clients are looked after without a wait, and it is counted how often one was found to be there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = 0
        self._has_left = half_closed.has_left
        monkeypatch.setattr(half_closed, "_LOOKS_S", (0.0,))
        monkeypatch.setattr(half_closed, "has_left", self._look)

    def _look(self, sock: Any) -> bool:
        is_there = not self._has_left(sock)
        self.there += is_there
        return not is_there


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


OF_KINDS = pytest.mark.parametrize("kind", ["infer", "infer in chunks"])


@pytest.mark.parametrize(
    "data",
    [of_kind("infer in chunks", "one"), packed("one"), infer("one")],
    ids=["in chunks", "packed", "plain"],
)
async def test_client_that_half_closes_gets_an_answer_however_long_it_takes(
    http: Http, looks: Looks, data: bytes
) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(data)
        await link.asked.wait()
        client.finish()
        await until(lambda: looks.there >= 50)
        assert client.received == CONTINUE
        link.asks[0].echo()
        interim, answer = await client.rest()
    assert interim.status == 100
    check(answer, "infer", "one")


async def test_client_of_http_1_0_that_half_closes_is_sent_nothing_but_its_answer(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_closed, "_LOOKS_S", (0.0,))
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(of_old("one"))
        await link.asked.wait()
        client.finish()
        (served,) = http.front._open()
        await until(lambda: served._half_closed is not None)
        await turns(50)
        link.asks[0].echo()
        (answer,) = await client.rest()
    check(answer, "infer", "one")


@pytest.mark.parametrize("first", ["infer", "infer in chunks"])
async def test_client_that_half_closes_behind_a_row_of_requests_gets_all_answers(
    http: Http, looks: Looks, first: str
) -> None:
    """Whoever serves them: each of the row is asked of the node once the one before is answered."""
    link = http.node("A", hang)
    kinds = [first, "infer in chunks", "metadata", "infer", "infer in chunks"]
    async with connected(http.client.port) as client:
        await client.send(b"".join(of_kind(kind, f"n{at}") for at, kind in enumerate(kinds)))
        client.finish()
        for number in range(4):
            await until(lambda number=number: len(link.asks) > number)  # type: ignore[misc]
            there = looks.there
            await until(lambda there=there: looks.there > there)  # type: ignore[misc]
            link.asks[number].echo()
        answers = [answer for answer in await client.rest() if answer.status != 100]
    assert len(answers) == len(kinds)
    for at, kind in enumerate(kinds):
        check(answers[at], kind, f"n{at}")


@pytest.mark.parametrize("cut", [b"POST /v2/mo", of_kind("infer in chunks", "two")[:-3]])
@OF_KINDS
async def test_client_that_half_closes_within_a_second_request_gets_the_answer_to_the_first(
    http: Http, looks: Looks, kind: str, cut: bytes
) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(of_kind(kind, "one") + cut)
        await link.asked.wait()
        client.finish()
        await until(lambda: looks.there > 0)
        link.asks[0].echo()
        interim, answer = await client.rest()
    assert interim.status == 100
    check(answer, kind, "one")
    assert len(link.asks) == 1


@OF_KINDS
async def test_client_that_half_closed_and_leaves_later_withdraws_its_request(
    http: Http, looks: Looks, kind: str
) -> None:
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        await client.send(of_kind(kind, "one"))
        await link.asked.wait()
        client.finish()
        await until(lambda: looks.there > 0)
        client.reset()
        await until(lambda: not http.fleet.counts)
    assert link.asks[-1].ended == "withdrawn"


async def test_client_that_half_closes_within_a_request_gets_nothing(http: Http) -> None:
    link = http.node("A")
    chunks = of_kind("infer in chunks", "one")
    for data in (infer("one")[:20], infer("one")[:-1], chunks[:-1], chunks[:90], packed("o")[:-1]):
        async with connected(http.client.port) as client:
            await client.send(data)
            client.finish()
            await client.ended()
        assert client.received == b""
    assert link.asks == []


@pytest.mark.parametrize(
    "words", [b"close", b"CLOSE", b"close, keep-alive", b"keep-alive,close", b"Close , "]
)
@pytest.mark.parametrize("kind", ["infer", "no JSON", "unknown model", "metadata", "index"])
async def test_last_request_is_answered_whatever_stands_behind_it(
    http: Http, words: bytes, kind: str
) -> None:
    http.node("A")
    data = of_kind(kind, "one").replace(b"\r\n\r\n", b"\r\nConnection: " + words + b"\r\n\r\n", 1)
    for behind in (b"", b"junk\x00\r\n\r\n", infer("two"), b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"):
        (answer,) = await exchange(http.client.port, data + behind)
        check(answer, kind, "one")
        assert answer.is_last


async def test_head_that_stops_behind_a_hand_over_is_given_up() -> None:
    async with tidy(front_limits=FrontLimits(first_head_s=0.5, idle_s=0.8)) as http:
        half = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\nTransfer-Enc"
        for part in (half, b"GET / HTTP/1.0\r\n", b"OPTIONS * HTTP/1.1\r\nA:\x01"):
            async with connected(http.client.port) as client:
                await client.send(part)
                await client.ended()
        async with connected(http.client.port) as client:
            while not client.has_ended:  # bytes now and then do not help
                await client.send(b"A")
                await asyncio.sleep(0.02)
        http.node("A")
        # one that asks has the time for it of a machine that has other work
        http.front.limits = dataclasses.replace(http.front.limits, first_head_s=GUARD_S)
        async with connected(http.client.port) as client:  # also behind what aiohttp has answered
            await client.send(of_kind("infer in chunks", "one"))
            check(await client.answer(), "infer in chunks", "one")
            await client.send(of_kind("infer in chunks", "two")[:30])
            await client.ended()


async def test_client_that_says_nothing_is_hung_up_on_sooner_than_one_that_has_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = LoopClock(monkeypatch)
    for first_head_s, idle_s in ((20.0, 2 * GUARD_S), (2 * GUARD_S, 20.0)):
        limits = FrontLimits(first_head_s=first_head_s, idle_s=idle_s)
        async with tidy(front_limits=limits) as http:
            http.node("A")
            async with connected(http.client.port) as asker:
                await asker.send(infer("one"))
                check(await asker.answer(), "infer", "one")
                async with connected(http.client.port) as silent:
                    leaves, stays = (silent, asker) if first_head_s < idle_s else (asker, silent)
                    await until(lambda: len(http.front.connections) == 2)
                    clock.set_forward(21.0)
                    while not leaves.has_ended:
                        http.front._sweep()
                        await asyncio.sleep(0)
                    assert not stays.has_ended


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_that_stop_make_room_for_others_and_are_reported(
    caplog: pytest.LogCaptureFixture, is_chunked: bool
) -> None:
    async with tidy(front_limits=SMALL) as http:
        http.node("A")
        half = request(INFER, bytes(MIB), RAW, length=2 * MIB)
        if is_chunked:
            half = chunked(INFER, bytes(2 * MIB - 100_000))[:-5]
        async with connected(http.client.port) as first, connected(http.client.port) as second:
            for client in (first,) if is_chunked else (first, second):
                await client.send(half)
            await until(lambda: http.front.budget.arriving_bytes >= 2 * MIB - 128 * 1024)
            # there is no room for another of that size: who has stopped goes
            async with connected(http.client.port) as third:
                await third.send(request(INFER, bytes(MIB), RAW, length=2 * MIB))
                answer = await first.answer()
                assert (answer.status, answer.get("retry-after")) == (503, "1")
                assert "holds as many bytes of requests as it may" in answer.error
                assert http.front.budget.ended >= 1
                # small ones never wait
                async with connected(http.client.port) as small:
                    await small.send(infer("small"))
                    check(await small.answer(), "infer", "small")
    assert caplog.records == []  # whoever stops could else fill the disk


async def test_body_that_can_never_fit_is_a_413_and_one_that_does_not_now_a_503() -> None:
    async with tidy(front_limits=SMALL, limits=Limits(max_message_bytes=2 * MIB)) as http:
        assert http.front.budget.hold(3 * MIB)
        now, never = [
            await ask(http.client.port, request(INFER, b"", RAW, length=2 * MIB + more))
            for more in (0, 1)
        ]
        assert (now.status, now.get("retry-after"), now.is_last) == (503, "1", True)
        assert never.status == 413
        http.front.budget.let_go(3 * MIB)
    async with tidy(limits=Limits(max_json_bytes=1000)) as http:
        answer = await ask(http.client.port, request(INFER, length=1001))
        assert (answer.status, answer.is_last) == (413, True)
        assert "1001 bytes; the limit is 1000; send tensors as binary data" in answer.error


def stop_sweeping(http: Http) -> None:
    """Have nobody be ended for being slow: a sweep that comes late would find that of who just stops."""
    assert http.front._sweeper is not None
    http.front._sweeper.cancel()


def fill(budget: BodyBudget) -> int:
    """Take all room that there is; return how much."""
    held_bytes = 0
    while room := min(MIB, budget.most_bytes - budget.used_bytes):
        assert budget.hold(room)
        held_bytes += room
    return held_bytes


RAW = b"Inference-Header-Content-Length: 9"


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_body_that_the_router_did_not_read_for_want_of_room_is_no_client_s_fault(
    monkeypatch: pytest.MonkeyPatch, is_chunked: bool
) -> None:
    """503, to be sent again, where one that its client does not send is a 408."""
    clock = LoopClock(monkeypatch)
    body = bytes(MIB)
    data = chunked(INFER, body) if is_chunked else request(INFER, body, RAW)
    async with tidy(front_limits=SMALL, arrival_s=20.0) as http:
        stop_sweeping(http)
        budget = http.front.budget
        async with connected(http.client.port) as waits, connected(http.client.port) as stops:
            for client in (waits, stops):
                await client.send(data[:100_000])
            await until(lambda: budget.arriving_bytes >= 190_000)
            held_bytes = fill(budget)
            await waits.send(data[100_000:])
            await until(lambda: bool(budget._waiting))
            clock.set_forward(21.0)
            answer = await waits.answer()
            assert (answer.status, answer.get("retry-after")) == (503, "1")
            assert "holds as many bytes of requests as it may" in answer.error
            late = await stops.answer()
            assert late.status == 408
            if not is_chunked:
                assert (answer.is_last, late.is_last) == (True, True)
                assert "of 1048576 bytes of the request's body came" in late.error
        budget.let_go(held_bytes)


async def test_unpacked_body_is_within_the_budget_too() -> None:
    async with tidy(front_limits=SMALL) as http:
        http.node("A")
        assert http.front.budget.hold(3_500_000)
        packed = gzip.compress(b" " * 300_000 + b"{}", mtime=0)
        async with connected(http.client.port) as client:
            await client.send(request(INFER, packed, b"Content-Encoding: gzip"))
            await asyncio.sleep(0.1)
            assert client.received == b""
            http.front.budget.let_go(3_500_000)
            assert (await client.answer()).status == 400
        await until(lambda: http.front.budget.used_bytes == 0)


async def test_client_too_many_takes_the_place_of_the_longest_idle() -> None:
    async with tidy(front_limits=FrontLimits(connections=2, connections_per_site=2)) as http:
        link = http.node("A", hang, echo)
        async with connected(http.client.port) as busy, connected(http.client.port) as idle:
            await busy.send(infer("runs"))
            await link.asked.wait()
            async with connected(http.client.port) as new:
                await idle.ended()
                await new.send(infer("new"))
                check(await new.answer(), "infer", "new")
                assert not busy.has_ended
                link.asks[0].echo()
                check(await busy.answer(), "infer", "runs")


async def test_client_that_does_not_read_a_large_answer_is_charged_for_it() -> None:
    async with tidy(collects=True) as http:
        http.node("A", answering(answer_of("1", LARGE)))
        async with connected(http.client.port, receive_bytes=4096) as client:
            client.transport.pause_reading()
            await client.send(WANT_RAW)
            await until(lambda: http.front.budget.unread_bytes > MIB)
            client.reset()
        await until(lambda: http.front.budget.used_bytes == 0)


async def test_body_of_a_request_under_way_is_held_for_as_long_however_it_came() -> None:
    async with tidy(front_limits=SMALL) as http:
        link = http.node("A", hang)
        budget = http.front.budget
        body = json_body("one") + b" " * 100_000
        packed = request(INFER, gzip.compress(body, mtime=0), b"Content-Encoding: gzip")
        for data in (chunked(INFER, body), packed):
            link.asked.clear()
            async with connected(http.client.port) as client:
                await client.send(data)
                await link.asked.wait()
                assert (budget.used_bytes, budget.arriving_bytes) == (4 * len(body), 0)
                link.asks[-1].echo()
                check(await client.answer(), "infer", "one")
                await until(lambda: budget.used_bytes == 0)


async def test_request_that_is_here_whole_and_finds_no_room_may_stay_connected() -> None:
    async with tidy(front_limits=SMALL) as http:
        http.node("A")
        assert http.front.budget.hold(3 * MIB)
        large = json_body("one") + b" " * 300_000
        async with connected(http.client.port) as client:
            await client.send(request(INFER, large[:12_000]) + infer("two"))
            check(await client.answer(), "infer", "one")
            check(await client.answer(), "infer", "two")
            assert http.front.budget.hold(MIB - 1000)
            await client.send(request(INFER, large[:12_000]))
            answer = await client.answer()
            assert (answer.status, answer.get("retry-after"), answer.is_last) == (503, "1", False)
            http.front.budget.let_go(MIB - 1000)
            await client.send(infer("three"))
            check(await client.answer(), "infer", "three")
        http.front.budget.let_go(3 * MIB)
        assert http.front.requests.count == 0


async def test_client_that_half_closes_while_an_answer_is_unread_gets_the_next_too(
    http: Http,
) -> None:
    http.node("A", answering(answer_of("1", LARGE)), echo)
    async with connected(http.client.port, receive_bytes=4096) as client:
        client.transport.pause_reading()
        await client.send(WANT_RAW + infer("two"))
        await until(lambda: http.front.budget.unread_bytes > MIB)
        client.finish()
        await asyncio.sleep(0.05)
        client.transport.resume_reading()
        await client.ended()
    assert b'"id":"two"' in client.received[-2000:]
