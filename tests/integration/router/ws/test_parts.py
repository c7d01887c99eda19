"""Answers of many parts to one message of a stream: each part a message, as fast as the client reads, and an end that says what came."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import Ask, FakeLink, Reply, answer_of, echo, failing, fp32, hang, offer, parting
from router_http import Http
from tidy_router import tidy
from ws_client import WsClient, connected, infer, streaming

from capamesh.protocol.errors import Overloaded, RunFailed
from capamesh.protocol.tensors import Limits

LOOP = replace(offer(), max_parts=1000)
PARTS = "/v2/models/m/stream?parts=1"


def node(http: Http, *script: Reply) -> FakeLink:
    return http.node("A", *script, models=(LOOP,))


def is_final(answer: Any) -> bool:
    value = answer["parameters"]["triton_final_response"]
    assert isinstance(value, bool)
    return value


def value_of(answer: Any) -> float:
    return float(answer["outputs"][0]["data"][0])


async def values(client: WsClient) -> list[float]:
    """Return the values of all messages of one answer."""
    return [value_of(each) for each in await whole(client)]


async def whole(client: WsClient) -> list[Any]:
    """Return all messages of one answer."""
    found = [await client.next()]
    while "error" not in found[-1] and not is_final(found[-1]):
        found.append(await client.next())
    return found


async def test_each_part_is_a_message_and_the_last_one_says_so(http: Http) -> None:
    full = failing(Overloaded("full", 0.2))
    link = node(http, parting(3), parting(3), parting(1), full)
    async with streaming(http, PARTS) as client:
        for name in ("a", "b", "whole", "c"):
            client.send(infer(name))
        for name in ("a", "b"):
            found = await whole(client)
            told = [(each["id"], value_of(each)) for each in found]
            assert told == [(name, at) for at in (1, 2, 3)]
            assert [is_final(each) for each in found] == [False, False, True]
        (answer,) = await whole(client)
        assert (answer["id"], is_final(answer)) == ("whole", True)
        (error,) = await whole(client)
        assert (error["code"], error["retry_after_s"], "parts" in error) == ("overloaded", 1, False)
    assert [ask.call.takes_parts for ask in link.asks] == [True] * 4
    # they come to none who has not asked for them
    plain = http.node("B", echo, models=(offer("n"),))
    async with streaming(http, "/v2/models/n/stream") as client:
        client.send(infer("a"))
        assert "parameters" not in await client.next()
    assert [ask.call.takes_parts for ask in plain.asks] == [False]
    refused = await connected(http, "/v2/models/m/stream?parts=maybe")
    assert (refused.status, b"parts is 'maybe'; 1 or 0 is" in refused.answer) == (400, True)
    refused.leave()


async def test_next_message_waits_for_the_last_part(http: Http) -> None:
    link = node(http, hang, echo)
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        client.send(infer("b"))
        await link.asked.wait()
        for value in (1, 2):
            link.asks[0].part(answer_of("1", fp32("y", [value, value])))
            assert value_of(await client.next()) == value
            assert len(link.asks) == 1
        link.asks[0].echo()
        assert [(await client.next())["id"] for _ in range(2)] == ["a", "b"]


async def test_raw_tensors_come_in_binary_messages(http: Http) -> None:
    node(http, parting(2))
    async with streaming(http, PARTS) as client:
        client.send(infer("a", parameters={"binary_data_output": True}))
        for value, last in ((1.0, False), (2.0, True)):
            message = await client.next()
            (json_bytes,) = struct.unpack("<I", message[:4])
            assert is_final(json.loads(message[4 : 4 + json_bytes])) is last
            assert struct.unpack("<2f", message[4 + json_bytes :]) == (value, value)


async def test_answer_that_breaks_off_tells_how_many_parts_came_and_the_stream_goes_on(
    http: Http,
) -> None:
    node(http, parting(3, end=RunFailed("it fell over")), parting(2))
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        *parts, last = await whole(client)
        assert [value_of(each) for each in parts] == [1, 2]
        said = "the answer broke off after 2 parts: it fell over"
        assert last == {"error": said, "code": "run_failed", "answered": 0, "id": "a", "parts": 2}
        client.send(infer("b"))
        assert await values(client) == [1, 2]


@pytest.mark.parametrize("is_rude", [True, False])
async def test_client_that_leaves_stops_the_node(http: Http, is_rude: bool) -> None:
    link = node(http, parting(1000))
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        await client.next()
        if is_rude:
            client.leave()
        else:
            client.close()
        await link.cancelled.wait()
    assert link.asks[0].ended == "withdrawn"


async def test_client_that_does_not_read_stops_its_own_answer_alone(http: Http) -> None:
    link = node(http, parting(100, rows=20_000), parting(20))
    slow, quick = [await connected(http, PARTS) for _ in range(2)]
    slow.send(infer("slow"))
    await slow.next()
    slow.transport.pause_reading()  # type: ignore[attr-defined]
    before = -1
    while before < large(link):  # sockets and both sides' buffers hold some megabytes
        before = large(link)
        quick.send(infer("quick"))
        assert await values(quick) == [*range(1, 21)]
    assert not link.asks[0].ended
    assert before < 90
    slow.transport.resume_reading()  # type: ignore[attr-defined]
    assert [value_of(await slow.next()) for _ in range(99)] == [*range(2, 101)]
    for client in (slow, quick):
        client.leave()


def large(link: FakeLink) -> int:
    """Return how many parts of the slow answer are released."""
    return sum(len(part.body) > 1000 for part in link.released)


def sending(*rows: int, is_whole: bool = False) -> Reply:
    """Answer at once in parts of so many rows, whose values are that number too; the last ends it if `is_whole`."""

    def reply(ask: Ask) -> None:
        def send() -> None:
            parts = [answer_of("1", fp32("y", *[[count, count]] * count)) for count in rows]
            for part in parts[:-1] if is_whole else parts:
                ask.part(part)
            if is_whole:
                ask.answer(parts[-1])

        asyncio.get_running_loop().call_soon(send)

    return reply


async def test_part_that_json_cannot_hold_ends_the_answer_and_the_node_s_work() -> None:
    async with tidy(limits=Limits(max_json_answer_bytes=1000)) as narrow:
        link = node(narrow, sending(1, 2, 1000), sending(1, 1000, is_whole=True), parting(1))
        async with streaming(narrow, PARTS) as client:
            client.send(infer("a"))
            first, second, last = await whole(client)
            assert (value_of(first), value_of(second)) == (1, 2)
            assert (last["code"], last["parts"]) == ("too_large", 2)
            assert link.asks[0].ended == "withdrawn"
            told = narrow.telemetry.exposition()
            assert b'capamesh_requests_total{code="too_large",model="m"} 1.0' in told
            assert b'code="cancelled"' not in told
            client.send(infer("b"))
            first, last = await whole(client)
            assert (value_of(first), last["code"], last["parts"]) == (1, "too_large", 1)
            client.send(infer("c"))
            (answer,) = await whole(client)
            assert is_final(answer)


async def test_long_parts_are_written_in_slices_and_keep_their_order(http: Http) -> None:
    node(http, sending(200_000, 2, 3, is_whole=True))
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        assert await values(client) == [200_000, 2, 3]


async def test_client_that_leaves_while_a_part_is_written_leaves_nothing_behind(http: Http) -> None:
    def reply(ask: Ask) -> None:
        def send() -> None:
            ask.part(answer_of("1", fp32("y", *[[1, 1]] * 400_000)))
            client.leave()

        asyncio.get_running_loop().call_soon(send)

    link = node(http, reply)
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        await link.cancelled.wait()
    assert link.asks[0].ended == "withdrawn"
