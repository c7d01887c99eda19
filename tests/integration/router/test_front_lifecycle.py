"""Clients that leave, stall or never read cost nobody else anything, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from fleet_fakes import FakeLink, answer_of, answering, echo, fp32, hang
from patience import until
from raw_http import LAST, LIVE, RawClient, ask, connected, exchange, request, statuses, turns
from router_http import INFER, Http, serving
from tidy_router import KINDS, check, infer, json_body, of_kind, tidy

LEAVE: dict[str, Callable[[RawClient], None]] = {"FIN": RawClient.leave, "RST": RawClient.reset}
LARGE = fp32("y", *np.zeros((1 << 20, 2), np.float32))
"""8 MiB, more than two sockets hold of which one is small."""
WANT_LARGE = request(INFER, json_body("large", parameters={"binary_data_output": True}))


@pytest.fixture
async def http(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Http]:
    """A router that is also looked at for garbage, and whose server may log no error."""
    with caplog.at_level(logging.WARNING):
        async with tidy(collects=True) as http:
            yield http
    assert [record.getMessage() for record in caplog.records] == []


def is_withdrawn(link: FakeLink) -> bool:
    return bool(link.asks) and all(asked.ended == "withdrawn" for asked in link.asks)


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("kind", ["infer", "infer in chunks", "index"])
async def test_client_that_leaves_anywhere_in_its_request_disturbs_nobody(
    http: Http, leave: str, kind: str
) -> None:
    link = http.node("A")
    data = of_kind(kind, "half")
    for at in [0, 1, 3, 5, 20, *range(40, len(data), 7), len(data) - 1]:
        async with connected(http.client.port) as client:
            await client.send(data[:at])
            LEAVE[leave](client)
            await turns()
    assert link.asks == []
    check(await ask(http.client.port, infer("whole")), "infer", "whole")


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("kind", ["infer", "infer of a version", "infer in chunks"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_client_that_leaves_while_the_node_runs_withdraws_its_request(
    http: Http, leave: str, kind: str, is_first: bool
) -> None:
    link = http.node("A", *([] if is_first else [echo]), hang)
    async with connected(http.client.port) as client:
        if not is_first:
            await client.send(infer("first"))
            check(await client.answer(), "infer", "first")
            link.asks.clear()
        await client.send(of_kind(kind, "one"))
        await until(lambda: len(link.asks) == 1)
        assert http.fleet.counts
        LEAVE[leave](client)
        await until(lambda: is_withdrawn(link))
        await client.ended()
    await until(lambda: not http.fleet.counts)
    assert not link.asks[0].echo()


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("is_closing", [True, False])
async def test_requests_behind_one_whose_client_left_are_not_run(
    http: Http, leave: str, is_closing: bool
) -> None:
    link = http.node("A", hang)
    kinds = ["infer", "metadata", "infer", "infer in chunks", "no JSON", "infer"]
    row = b"".join(of_kind(kind, "n") for kind in kinds)
    async with connected(http.client.port) as client:
        await client.send(infer("one", b"Connection: close") if is_closing else row)
        await link.asked.wait()
        LEAVE[leave](client)
        await until(lambda: is_withdrawn(link))
        await turns(50)
    assert len(link.asks) == 1


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("behind", [b"", infer("behind") + LIVE], ids=["alone", "with more behind"])
async def test_client_that_leaves_while_its_answer_is_written(
    http: Http, leave: str, behind: bytes
) -> None:
    link = http.node("A", answering(answer_of("1", LARGE)), echo)
    async with connected(http.client.port, receive_bytes=4096) as client:
        client.transport.pause_reading()
        await client.send(WANT_LARGE + behind)
        await until(lambda: bool(link.asks) and not http.fleet.counts)
        await turns(50)
        for kind in KINDS:
            check(await ask(http.client.port, of_kind(kind, "other")), kind, "other")
        LEAVE[leave](client)
        await turns(50)


async def test_client_that_reads_late_gets_all_of_a_large_answer(http: Http) -> None:
    link = http.node("A", answering(answer_of("1", LARGE)), echo)
    async with connected(http.client.port, receive_bytes=4096) as client:
        client.transport.pause_reading()
        await client.send(WANT_LARGE + infer("behind") + LAST)
        await until(lambda: bool(link.asks) and not http.fleet.counts)
        await turns(50)
        check(await ask(http.client.port, infer("other")), "infer", "other")
        client.transport.resume_reading()
        large, behind, last = await client.rest()
    assert large.status == 200
    assert large.body.endswith(bytes(LARGE.data))
    check(behind, "infer", "behind")
    assert last.status == 200


async def test_client_that_sends_and_never_reads_is_not_answered_without_end(http: Http) -> None:
    link = http.node("A", answering(answer_of("1", LARGE)))
    async with connected(http.client.port, receive_bytes=4096) as client:
        client.transport.pause_reading()
        await client.send(*[WANT_LARGE] * 6)
        await until(lambda: bool(link.asks) and not http.fleet.counts)
        await turns(200)
        assert 1 <= len(link.asks) <= 3
        client.transport.resume_reading()
        assert statuses(await client.answers(6)) == [200] * 6
    assert len(link.asks) == 6


async def test_client_that_sends_without_end_and_never_reads_is_not_read_without_end(
    http: Http,
) -> None:
    """Its requests wait in its own buffers, not in the router's."""
    link = http.node("A", hang)
    async with connected(http.client.port) as client:
        client.transport.pause_reading()
        await client.send(infer("slow"))
        await link.asked.wait()
        bytes_sent = 64 << 20
        data = infer("more", b"X-Filler: " + b"a" * 6000)
        client.transport.write(data * (bytes_sent // len(data)))
        await turns(1000)
        left = client.transport.get_write_buffer_size()
        assert left > bytes_sent // 2
        assert len(link.asks) == 1
        client.reset()
        await turns(50)
        link.asks[0].echo()  # who is not read may be known to be gone only by writing to it
        await until(lambda: not http.fleet.counts)


async def test_many_clients_that_leave_at_once_leave_nothing(http: Http) -> None:
    link = http.node("A", hang)
    one = infer("n")
    stages = [b"", LIVE[:9], one[:60], one[:-9], one, of_kind("infer in chunks", "n")]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(http.client.port)) for _ in range(90)]
        for number, client in enumerate(clients):
            client.transport.write(stages[number % len(stages)])
        await until(lambda: len(link.asks) == 30)
        for number, client in enumerate(clients):
            LEAVE["FIN" if number // 6 % 2 else "RST"](client)
        await until(lambda: is_withdrawn(link))
    check(await ask(http.client.port, of_kind("metadata", "")), "metadata", "")


async def test_deadline_in_a_row_of_requests_is_a_504_and_the_row_goes_on(http: Http) -> None:
    link = http.node("A", echo, hang, echo)
    slow = request(INFER, json_body("slow", parameters={"timeout": 500_000}))
    answers = await exchange(http.client.port, infer("one") + slow + infer("two") + LAST)
    assert statuses(answers) == [200, 504, 200, 200]
    assert [asked.ended for asked in link.asks] == ["answered", "withdrawn", "answered"]


async def test_router_that_stops_hangs_up_on_the_idle() -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack, serving() as http:
        http.node("A")
        clients = [await stack.enter_async_context(connected(http.client.port)) for _ in range(3)]
        await clients[1].send(infer("one"))
        check(await clients[1].answer(), "infer", "one")
        await clients[2].send(LIVE)
        assert (await clients[2].answer()).status == 200
    for client in clients:
        await client.ended()
        assert (client.received, client.error) == (b"", None)
    await turns()
    gc.collect()
    assert asyncio.all_tasks() == before
    assert complaints == []
