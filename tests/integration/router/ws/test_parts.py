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
    (output,) = answer["outputs"]
    return float(output["data"][0])


async def whole(client: WsClient) -> list[Any]:
    """Return all messages of one answer."""
    found = [await client.next()]
    while "error" not in found[-1] and not is_final(found[-1]):
        found.append(await client.next())
    return found


async def test_each_part_is_a_message_and_the_last_one_says_so(http: Http) -> None:
    link = node(http, parting(3))
    async with streaming(http, PARTS) as client:
        for name in ("a", "b"):
            client.send(infer(name))
        for name in ("a", "b"):
            found = await whole(client)
            assert [(each["id"], value_of(each)) for each in found] == [
                (name, at) for at in (1, 2, 3)
            ]
            assert [is_final(each) for each in found] == [False, False, True]
    assert [ask.call.takes_parts for ask in link.asks] == [True, True]


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


async def test_model_that_answers_whole_has_one_message_that_is_the_last(http: Http) -> None:
    http.node("A")
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        (answer,) = await whole(client)
        assert (answer["id"], is_final(answer)) == ("a", True)


async def test_parts_come_to_none_who_has_not_asked_for_them(http: Http) -> None:
    link = node(http, echo)
    async with streaming(http) as client:
        client.send(infer("a"))
        assert "parameters" not in await client.next()
    assert [ask.call.takes_parts for ask in link.asks] == [False]


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
        assert last == {
            "error": "the answer broke off after 2 parts: it fell over",
            "code": "run_failed",
            "answered": 0,
            "id": "a",
            "parts": 2,
        }
        client.send(infer("b"))
        assert [value_of(each) for each in await whole(client)] == [1, 2]


async def test_request_that_is_refused_says_when_to_come_again(http: Http) -> None:
    node(http, failing(Overloaded("full", 0.2)))
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        (error,) = await whole(client)
        assert (error["code"], error["retry_after_s"], "parts" in error) == ("overloaded", 1, False)


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
    slow = await connected(http, PARTS)
    slow.send(infer("slow"))
    await slow.next()
    slow.transport.pause_reading()  # type: ignore[attr-defined]
    before = -1
    while before < large(link):  # sockets and both sides' buffers hold some megabytes
        before = large(link)
        async with streaming_beside(http) as quick:
            quick.send(infer("quick"))
            assert [value_of(each) for each in await whole(quick)] == [*range(1, 21)]
    assert not link.asks[0].ended
    assert before < 90
    slow.transport.resume_reading()  # type: ignore[attr-defined]
    assert [value_of(await slow.next()) for _ in range(99)] == [*range(2, 101)]
    slow.leave()


def large(link: FakeLink) -> int:
    """Return how many parts of the slow answer are released."""
    return sum(len(part.body) > 1000 for part in link.released)


class streaming_beside:  # noqa: N801 - used as `streaming`, where others are connected
    def __init__(self, http: Http) -> None:
        self._http = http

    async def __aenter__(self) -> WsClient:
        self._client = await connected(self._http, PARTS)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._client.leave()


async def test_part_that_json_cannot_hold_ends_the_answer_and_the_node_s_work() -> None:
    def reply(ask: Ask) -> None:
        def send() -> None:
            for rows in (1, 2, 1000):
                ask.part(answer_of("1", fp32("y", *[[rows, rows]] * rows)))

        asyncio.get_running_loop().call_soon(send)

    async with tidy(limits=Limits(max_json_answer_bytes=1000)) as narrow:
        link = node(narrow, reply, parting(1))
        async with streaming(narrow, PARTS) as client:
            client.send(infer("a"))
            first, second, last = await whole(client)
            assert (value_of(first), value_of(second)) == (1, 2)
            assert (last["code"], last["parts"]) == ("too_large", 2)
            assert link.asks[0].ended == "withdrawn"
            client.send(infer("b"))
            (answer,) = await whole(client)
            assert is_final(answer)
        told = narrow.telemetry.exposition()
        assert b'capamesh_requests_total{code="too_large",model="m"} 1.0' in told
        assert b'code="cancelled"' not in told


async def test_last_part_that_json_cannot_hold_is_an_error() -> None:
    def reply(ask: Ask) -> None:
        def send() -> None:
            ask.part(answer_of("1", fp32("y", [1, 1])))
            ask.answer(answer_of("1", fp32("y", *[[2, 2]] * 1000)))

        asyncio.get_running_loop().call_soon(send)

    async with tidy(limits=Limits(max_json_answer_bytes=1000)) as narrow:
        node(narrow, reply)
        async with streaming(narrow, PARTS) as client:
            client.send(infer("a"))
            first, last = await whole(client)
            assert (value_of(first), last["code"], last["parts"]) == (1, "too_large", 1)


async def test_long_parts_are_written_in_slices_and_keep_their_order(http: Http) -> None:
    rows = 200_000

    def reply(ask: Ask) -> None:
        def send() -> None:
            ask.part(answer_of("1", fp32("y", *[[1, 1]] * rows)))
            ask.part(answer_of("1", fp32("y", [2, 2])))
            ask.answer(answer_of("1", fp32("y", [3, 3])))

        asyncio.get_running_loop().call_soon(send)

    node(http, reply)
    async with streaming(http, PARTS) as client:
        client.send(infer("a"))
        assert [value_of(each) for each in await whole(client)] == [1, 2, 3]


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


async def test_flag_that_is_none_is_refused(http: Http) -> None:
    http.node("A")
    client = await connected(http, "/v2/models/m/stream?parts=maybe")
    assert client.status == 400
    assert b"parts is 'maybe'; 1 or 0 is expected" in client.answer
    client.leave()
