"""Samples on a stream: cut into windows however they come, answered in order, and gone on with when a node is lost."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_fakes import Ask, FakeLink, after, echo, failing, hang, offer
from loading_nodes import LoadingLink
from patience import until
from router_http import Http
from scripted_client import all_given_back
from tidy_router import tidy
from ws_client import WsClient, connected, frame, head, infer, streaming

from capamesh.protocol.adverts import ModelOffer, Scheduling
from capamesh.protocol.errors import CapameshError, LinkLost, NoEndpoint, Overloaded
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.protocol.windows import Windows

PATH = "/v2/models/vad/stream"
SAMPLES, CONTEXT = 4, 2


def detector() -> ModelOffer:
    """Return a model that takes windows of four samples behind two of context, and a rate."""
    sound, rate, y = (
        TensorSpec(name, datatype, shape)
        for name, datatype, shape in (
            ("sound", Datatype.FP32, (-1, -1)),
            ("rate", Datatype.INT64, ()),
            ("y", Datatype.FP32, (-1, -1)),
        )
    )
    windows = Windows("sound", SAMPLES, CONTEXT, 8000, (("rate", 8000),))
    return replace(
        offer("vad"),
        inputs=(sound, rate),
        outputs=(y,),
        scheduling=Scheduling.SEQUENCE,
        windows=windows,
    )


def node(http: Http, name: str = "A", *script: Callable[[Ask], None]) -> FakeLink:
    return http.node(name, *script, models=(detector(),))


def sound(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def windows_of(calls: Sequence[InferCall]) -> list[list[float]]:
    return [call.inputs[0].to_numpy()[0].tolist() for call in calls]


def marks_of(calls: Sequence[InferCall]) -> list[tuple[bool, bool]]:
    return [(call.sequence.is_start, call.sequence.is_end) for call in calls if call.sequence]


async def all_of(client: WsClient, count: int) -> list[str]:
    return [answer["id"] for answer in await client.all(count)]


async def test_samples_become_windows_with_context_in_one_sequence(http: Http) -> None:
    link = node(http)
    async with streaming(http, PATH) as client:
        client.send(sound(*range(1, 10)))
        first, second = await client.all(2)
        assert (first["id"], second["id"]) == ("0", "1")
        assert first["outputs"][0]["data"] == [0, 0, 1, 2, 3, 4]
        client.send('{"end": true}')
        assert await client.end() == (1000, "")
        assert [answer["id"] for answer in client.messages] == ["2"]
    windows = [[0, 0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 8], [7, 8, 9, 0, 0, 0]]
    assert windows_of(link.calls) == windows
    assert marks_of(link.calls) == [(True, False), (False, False), (False, True)]
    assert len({call.sequence.id for call in link.calls if call.sequence}) == 1
    rates = {call.inputs[1].to_numpy().item() for call in link.calls}
    assert (rates, link.calls[0].inputs[1].shape) == ({8000}, ())


@pytest.mark.parametrize("sizes", [[1] * 48, [7, 9, 1, 15, 16], [48], [33, 0, 15]])
async def test_messages_of_any_length_come_to_the_same_windows(
    http: Http, sizes: list[int]
) -> None:
    link = node(http)
    data = sound(*range(12))
    async with streaming(http, PATH) as client:
        at = 0
        for size in sizes:
            client.send(data[at : at + size])
            at += size
        assert await all_of(client, 3) == ["0", "1", "2"]
    samples = [at for window in windows_of(link.calls) for at in window[CONTEXT:]]
    assert samples == [*range(12)]


async def test_sequence_is_ended_by_silence_where_no_samples_are_left(http: Http) -> None:
    link = node(http)
    for samples, ids in (((), []), ((1, 2, 3, 4), ["0"])):
        async with streaming(http, PATH) as client:
            if samples:
                client.send(sound(*samples))
            client.send('{"end": true}')
            assert await client.end() == (1000, "")
            assert [answer["id"] for answer in client.messages] == ids
    assert marks_of(link.calls) == [(True, False), (False, True)]
    assert windows_of(link.calls)[1][CONTEXT:] == [0, 0, 0, 0]


async def test_node_that_dies_is_told_and_another_goes_on_anew(http: Http) -> None:
    first = node(http, "A", echo, echo, hang)
    async with streaming(http, PATH) as client:
        client.send(sound(*range(1, 17)))
        assert await all_of(client, 2) == ["0", "1"]
        await until(lambda: len(first.asks) == 3, "the third window is not asked for")
        second = node(http, "B")
        first.end(is_sudden=True)
        told, answer = await client.all(2)
        assert (told["id"], told["answered"], told["code"]) == ("2", 2, "link_lost")
        assert (answer["id"], answer["outputs"][0]["data"]) == ("3", [0, 0, 13, 14, 15, 16])
    assert marks_of(second.calls) == [(True, False)]
    ids = {call.sequence.id for call in (*first.calls, *second.calls) if call.sequence}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("error", "code"), [(Overloaded("full", 1.0), 1013), (LinkLost("gone"), 1011)]
)
async def test_windows_in_a_row_that_no_one_answers_close_the_stream(
    http: Http, error: CapameshError, code: int
) -> None:
    lost = failing(error)
    link = node(http, "A", echo, lost, echo, lost, echo, lost)
    async with streaming(http, PATH) as client:
        client.send(sound(*range(20)))
        answers = await client.all(5)
        assert ["error" in answer for answer in answers] == [False, True, False, True, False]
        assert [mark[0] for mark in marks_of(link.calls)] == [True, False, True, False, True]
        client.send(sound(*range(8)))
        told = await client.all(2)
        assert [(each["id"], each["answered"]) for each in told] == [("5", 3), ("6", 3)]
        assert await client.end() == (code, "2 windows in a row were not answered")


async def test_whole_requests_go_on_with_the_same_sequence(http: Http) -> None:
    link = node(http)
    inputs = [
        {"name": "sound", "datatype": "FP32", "shape": [1, 6], "data": [1] * 6},
        {"name": "rate", "datatype": "INT64", "shape": [], "data": [8000]},
    ]
    async with streaming(http, PATH) as client:
        client.send(sound(1, 2, 3, 4))
        client.send(infer("own", inputs=inputs))
        assert await all_of(client, 2) == ["0", "own"]
    async with streaming(http, f"{PATH}?messages=requests") as client:
        client.send(b"\2\0\0\0{}")
        assert (await client.next())["code"] == "invalid_request"
    assert marks_of(link.calls) == [(True, False), (False, False)]


async def test_windows_are_told_and_samples_refused_where_there_are_none(http: Http) -> None:
    http.node("A")
    for path, status, said in (
        ("/v2/models/m/stream?messages=samples", 400, b"declares no window"),
        ("/v2/models/vad/stream?messages=samples", 404, b"no node hosts model"),
    ):
        client = await connected(http, path)
        assert (client.status, said in client.answer) == (status, True), client.answer
        client.leave()
    node(http, "B")
    response = await http.client.get("/v2/models/vad")
    windows = {
        "input": "sound",
        "samples": SAMPLES,
        "context": CONTEXT,
        "rate_hz": 8000,
        "constants": {"rate": 8000},
    }
    assert (await response.json())["window"] == windows
    client = await connected(http, f"{PATH}?binary=1&priority=7&timeout=5000000")
    client.send(sound(1, 2, 3, 4))
    assert np.frombuffer((await client.next())[-24:], "<f4").tolist() == [0, 0, 1, 2, 3, 4]
    client.leave()


async def test_client_that_sends_faster_than_it_is_answered_is_not_read(http: Http) -> None:
    link = node(http, "A", after(0.05, echo), echo)
    async with streaming(http, PATH) as client:
        client.send(sound(*[0.5] * 12_000))
        await link.asked.wait()
        connection: Any
        (connection,) = http.front.connections
        await until(lambda: not connection.transport.is_reading(), "it is still read")
        assert http.front.budget.used_bytes < 1000
        assert (await all_of(client, 3000))[-1] == "2999"


async def test_model_that_no_node_can_be_asked_for_closes_with_try_later(http: Http) -> None:
    link = node(http)
    async with streaming(http, PATH) as client:
        link.refusal = NoEndpoint("none")
        http.endpoints[0].link = None
        client.send(sound(*range(8)))
        told = await client.all(2)
        assert {each["code"] for each in told} <= {"no_endpoint", "model_not_found"}
        closed = await client.end()
        assert closed is not None
        assert closed[0] in {1013, 1011}


class Early:
    """A client that asks for a stream of a model that is away, sends something, and waits for no answer."""

    def __init__(self, http: Http, link: LoadingLink) -> None:
        self.http, self.link = http, link
        self.client: WsClient

    async def ask(self, path: str = PATH, *sent: bytes) -> None:
        at = self.http.client
        self.client = WsClient(*await asyncio.open_connection(at.host, at.port))
        self.client.raw(head(path) + b"".join(sent))
        await self.link.wanted.wait()

    async def status(self) -> int:
        await self.client.open(b"")
        return self.client.status

    async def leave(self) -> None:
        self.client.leave()
        await all_given_back(self.http)


@pytest.fixture
def early(http: Http) -> Early:
    link = LoadingLink(http.fleet, "A", detector())
    link.is_ready_at_once = False
    return Early(http, link)


def waiting(http: Http) -> int:
    """Return how many wait for a load."""
    return int(repr(http.fleet.routing.pipeline.cold).split("(")[1].split()[0])


@pytest.mark.parametrize("query", ["", "?messages=samples"])
async def test_model_that_is_away_is_loaded_for_samples(
    http: Http, early: Early, query: str
) -> None:
    await early.ask(PATH + query, frame(0x82, sound(1, 2, 3, 4, 5)))
    assert http.front.requests.count == 1
    early.link.load()
    assert await early.status() == 101
    assert (await early.client.next())["id"] == "0"
    early.client.send(sound(6, 7, 8))
    assert (await early.client.next())["outputs"][0]["data"] == [3, 4, 5, 6, 7, 8]
    await early.leave()
    assert (early.link.wants, marks_of(early.link.calls)) == (1, [(True, False), (False, False)])


async def test_much_that_is_sent_before_the_model_is_loaded_is_not_read_and_not_lost(
    http: Http, early: Early
) -> None:
    sent = [frame(0x82, sound(*range(at, at + SAMPLES))) for at in range(0, 40_000, SAMPLES)]
    await early.ask(PATH, *sent)
    (connection,) = http.front.connections
    await until(lambda: connection._guest._is_reading_paused, "it is read on")
    early.link.load()
    assert await early.status() == 101
    assert await all_of(early.client, len(sent)) == [str(at) for at in range(len(sent))]
    await early.leave()


async def test_load_that_fails_is_the_answer_to_whoever_wants_a_stream() -> None:
    async with tidy(timeout_s=1.0) as slow:
        link = LoadingLink(slow.fleet, "A", detector())
        link.is_ready_at_once = False
        early = Early(slow, link)
        await early.ask()
        assert await early.status() == 503
        assert b"takes longer than the request's time" in early.client.answer
        assert (link.wants, slow.front.requests.count) == (1, 0)
        await early.leave()


async def test_client_that_leaves_while_its_model_is_loaded_waits_no_more(
    http: Http, early: Early
) -> None:
    await early.ask()
    assert waiting(http) == 1
    await early.leave()
    assert waiting(http) == 0
    early.link.load()
    await http.settled()
    assert early.link.asks == []


async def test_router_that_stops_answers_who_waits_for_a_load(http: Http, early: Early) -> None:
    await early.ask()
    (connection,) = http.front.connections
    connection.close()
    assert await early.status() == 503
    assert b"the router stops" in early.client.answer
    assert waiting(http) == 0
    await early.leave()


async def test_model_that_was_loaded_and_takes_no_samples_is_told(http: Http) -> None:
    early = Early(http, LoadingLink(http.fleet, "A", offer("vad")))
    await early.ask(f"{PATH}?messages=samples")
    assert await early.status() == 400
    assert b"takes no samples" in early.client.answer
    assert early.link.wants == 1
    await early.leave()
