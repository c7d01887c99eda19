"""Streams of a router that asks for keys: how one is sent, and that it counts for each message."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fleet_fakes import offer
from loading_nodes import LoadingLink
from router_http import Http
from scripted_client import all_given_back
from ws_client import STREAM, connected, infer, streaming

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.windows import Windows


@pytest.fixture
def http(http: Http) -> Http:
    http.node("A")
    return http


FORMS = (
    "Authorization: Bearer {}",
    "X-API-Key: {}",
    "Sec-WebSocket-Protocol: capamesh, capamesh.key.{}",
)


@pytest.mark.parametrize("line", FORMS)
async def test_key_opens_a_stream_in_each_of_its_forms(http: Http, line: str) -> None:
    text = http.key()
    async with streaming(http, STREAM, line.format(text)) as client:
        is_named = b"Sec-WebSocket-Protocol: capamesh\r\n" in client.answer
        assert (is_named, text.encode() in client.answer) == ("Protocol" in line, False)
        client.send(infer("a"))
        assert (await client.next())["id"] == "a"


async def test_key_that_is_revoked_ends_the_stream_at_its_next_message(http: Http) -> None:
    text = http.key()
    async with streaming(http, STREAM, f"Authorization: Bearer {text}") as client:
        client.send(infer("a"))
        await client.next()
        http.front.keys.ring.take([], 0.0, 0.0)
        client.send(infer("b"))
        told = await client.next()
        assert (told["code"], told["answered"]) == ("unauthenticated", 1)
        assert (await client.end() or (0,))[0] == 1008


@pytest.mark.parametrize(
    ("query", "line", "status"),
    [
        ("?tenant=other", "Authorization: Bearer {}", 403),
        ("", "Sec-WebSocket-Protocol: capamesh.key.", 401),
    ],
)
async def test_stream_is_its_tenants_and_of_a_key(
    http: Http, query: str, line: str, status: int
) -> None:
    client = await connected(http, STREAM + query, line.format(http.key()))
    assert client.status == status
    client.leave()
    await all_given_back(http)


async def test_model_that_remembers_gets_the_stream_as_one_sequence(http: Http) -> None:
    stateful = replace(offer("s"), scheduling=Scheduling.SEQUENCE)
    link = http.node("B", models=(stateful,))
    async with streaming(http, "/v2/models/s/stream") as client:
        for parameters in ({}, {}, {"sequence_end": True}, {}):
            client.send(infer(parameters=parameters))
            await client.next()
    found = [call.sequence for call in link.calls]
    marks = [(mark.is_start, mark.is_end) for mark in found if mark]
    assert marks == [(True, False), (False, False), (False, True), (True, False)]
    ids = [mark.id for mark in found if mark]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    async with streaming(http, "/v2/models/s/stream") as client:
        client.send(infer())
        await client.next()
    assert link.calls[-1].sequence is not None
    assert link.calls[-1].sequence.id not in ids


async def test_key_that_is_revoked_while_a_stream_waits_for_its_model_opens_none(
    http: Http,
) -> None:
    link = LoadingLink(http.fleet, "B", replace(offer("w"), windows=Windows("x", 1, 0, 0)))
    link.is_ready_at_once = False
    line = f"X-API-Key: {http.key()}"
    opening = asyncio.create_task(connected(http, "/v2/models/w/stream", line))
    await link.wanted.wait()
    http.front.keys.ring.take([], 0.0, 0.0)
    link.load()
    client = await opening
    assert client.status == 401
    client.leave()
    await all_given_back(http)
