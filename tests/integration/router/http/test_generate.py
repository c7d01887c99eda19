"""Triton's generate extension at a router's port, with nodes that answer as a test says."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from fleet_fakes import Ask, FakeLink, Reply, answer_of, echo, failing, fp32, hang, offer, parting
from loading_nodes import LoadingLink
from patience import until
from router_http import Http
from tidy_router import tidy

from capamesh.protocol.errors import ModelUnavailable, RunFailed
from capamesh.protocol.tensors import Limits
from capamesh.router.requests.cold_starts import MAX_OF_MODEL
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

LOOP = replace(offer(), max_parts=1000)
GENERATE, STREAM = "/v2/models/m/generate", "/v2/models/m/generate_stream"


def node(http: Http, *script: Reply) -> FakeLink:
    return http.node("a", *script, models=(LOOP,))


async def events(http: Http, body: object = None, path: str = STREAM) -> list[Any]:
    """Return the data of all events."""
    answer = await http.infer(body or {"x": [1, 2]}, path=path)
    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    assert answer.headers["X-Capamesh-Node"] == "a"
    return read(await answer.text())


def read(text: str) -> list[Any]:
    *lines, end = text.split("\n\n")
    assert end == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines]


async def test_each_part_is_an_event_and_generate_answers_with_the_last(http: Http) -> None:
    link = node(http, parting(3), parting(2), parting(1))
    found = await events(http, {"x": [1, 2], "id": "7"})
    one = {"model_name": "m", "model_version": "1", "id": "7"}
    assert found == [{**one, "y": [value, value]} for value in (1.0, 2.0, 3.0)]
    found = await events(http, path="/v2/models/m/versions/1/generate_stream")
    assert [event["y"][0] for event in found] == [1, 2]
    answer = await http.infer({"x": [1, 2]}, path=GENERATE)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert (await answer.json())["y"] == [1.0, 1.0]
    assert [ask.call.takes_parts for ask in link.asks] == [True, True, False]


@pytest.mark.parametrize("name", ["generate", "generate_stream"])
async def test_errors_before_the_first_part_have_their_status(http: Http, name: str) -> None:
    node(http, failing(ModelUnavailable("leaving")))
    for model, body, status in (
        ("m", {"x": [1, 2]}, 503),
        ("gone", {"x": [1, 2]}, 404),
        ("m", {"z": 1}, 400),
        ("m", b"[", 400),
        ("m", io.BytesIO(b" " * 2**20 + b"{}"), 413),
    ):
        data = body if not isinstance(body, dict) else json.dumps(body).encode()
        answer = await http.client.post(f"/v2/models/{model}/{name}", data=data)
        assert (answer.status, "error" in await answer.json()) == (status, True)


async def test_answer_that_breaks_off_ends_with_an_error_and_the_number_of_parts(
    http: Http,
) -> None:
    node(http, parting(3, end=RunFailed("it fell over")))
    *parts, last = await events(http)
    assert [event["y"][0] for event in parts] == [1, 2]
    said = "the answer broke off after 2 parts: it fell over"
    assert last == {"error": said, "code": "run_failed", "parts": 2}


async def begun(http: Http, link: FakeLink, version: str) -> Any:
    """Return the ends of a connection on which one event of an answer has come, and the node is silent then."""
    reader, writer = await asyncio.open_connection(http.client.host, http.client.port)
    body = b'{"x": [1, 2]}'
    writer.write(
        f"POST {STREAM} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await link.asked.wait()
    link.asks[0].part(answer_of("1", fp32("y", [1, 1])))
    await reader.readuntil(b'"y":[1.0,1.0]}\n\n')
    return reader, writer


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("is_half", [True, False])
async def test_client_that_half_closes_gets_the_rest_and_one_that_leaves_stops_the_node(
    http: Http, version: str, is_half: bool
) -> None:
    link = node(http, hang)
    reader, writer = await begun(http, link, version)
    if not is_half:
        writer.close()
        await link.cancelled.wait()
        assert link.asks[0].ended == "withdrawn"
        return
    writer.write_eof()
    comment = b"3\r\n:\n\n\r\n" if version == "1.1" else b":\n\n"
    assert (await reader.readuntil(b":\n\n")).endswith(comment.removesuffix(b"\r\n"))
    link.asks[0].answer(answer_of("1", fp32("y", [2, 2])))
    assert b'"y":[2.0,2.0]' in await reader.read()
    writer.close()


async def test_client_that_does_not_read_stops_its_own_answer_alone(http: Http) -> None:
    link = node(http, parting(1000, rows=10_000), parting(20))
    slow = await http.infer({"x": [1, 2]}, path=STREAM)
    await slow.content.readany()
    before = -1
    while before < len(link.released):  # sockets and both sides' buffers hold some megabytes
        before = len(link.released)
        quick = await events(http)
        assert [event["y"][0] for event in quick] == [*range(1, 21)]
        before += 19
    assert not link.asks[0].ended
    assert len(link.released) < 900
    slow.close()


async def test_client_that_neither_reads_nor_leaves_is_hung_up_on() -> None:
    async with tidy(timeout_s=0.5, arrival_s=0.5) as http:
        node(http, parting(1000, rows=10_000))
        slow = await http.infer({"x": [1, 2]}, path=STREAM)
        await slow.content.readany()
        await until(lambda: not http.front.requests.count, "it is not hung up on")
        assert http.fleet.counts == {}
        slow.close()


async def test_part_that_json_cannot_hold_ends_the_events_and_the_node_s_work() -> None:
    def reply(ask: Ask) -> None:
        def send() -> None:
            for rows in (1, 2, 1000):
                ask.part(answer_of("1", fp32("y", *[[rows, rows]] * rows)))

        asyncio.get_running_loop().call_soon(send)

    async with tidy(limits=Limits(max_json_answer_bytes=1000)) as narrow:
        link = node(narrow, parting(1000, rows=1000), reply, parting(1, rows=1000))
        (last,) = await events(narrow)
        assert (last["code"], last["parts"]) == ("too_large", 0)
        await link.cancelled.wait()
        first, second, last = await events(narrow)  # those before it are sent
        assert (first["y"][0], second["y"][0]) == (1, 2)
        assert (last["code"], last["parts"]) == ("too_large", 2)
        assert (await narrow.infer({"x": [1, 2]}, path=GENERATE)).status == 413


async def test_old_client_gets_events_until_the_end_of_the_connection(http: Http) -> None:
    node(http, parting(3))
    session = aiohttp.ClientSession(version=aiohttp.HttpVersion10)
    url = f"http://{http.client.host}:{http.client.port}{STREAM}"
    async with session, session.post(url, json={"x": [1, 2]}) as answer:
        assert "Transfer-Encoding" not in answer.headers
        assert len(read(await answer.text())) == 3


async def test_generate_with_a_key_that_comes_again_is_not_run_again(http: Http) -> None:
    link = http.node("a", echo)
    seen: list[tuple[str | None, bool]] = []
    for key in ("k1", "k1", "k2"):
        headers = {"Idempotency-Key": key}
        answer = await http.infer({"x": [1, 2]}, path=GENERATE, headers=headers)
        assert (answer.status, (await answer.json())["y"]) == (200, [1.0, 2.0])
        seen.append((answer.headers.get("X-Capamesh-Cache"), "Age" in answer.headers))
    assert (seen, len(link.asks)) == ([(None, False), ("repeated", True), (None, False)], 2)
    other = await http.infer({"x": [3, 4]}, path=GENERATE, headers={"Idempotency-Key": "k1"})
    assert (other.status, other.headers["X-Capamesh-Error"]) == (409, "key_used")


async def test_answer_in_parts_takes_no_key(http: Http) -> None:
    link = node(http, parting(3))
    answer = await http.infer({"x": [1, 2]}, path=STREAM, headers={"Idempotency-Key": "k"})
    assert (answer.status, link.asks) == (400, [])
    assert "takes no Idempotency-Key" in (await answer.json())["error"]


@pytest.mark.parametrize("path", [GENERATE, STREAM])
async def test_kept_answer_is_given_to_generate_and_told_of(path: str) -> None:
    async with tidy(rules=RoutingRules(ModelRules(cache=CacheRule(60.0)))) as http:
        link = http.node("a", echo)
        found = [(await http.infer({"x": [1, 2]}, path=path)).headers for _ in range(2)]
        assert [each.get("X-Capamesh-Cache") for each in found] == [None, "hit"]
        assert found[1]["Age"] == "0"
        assert len(link.asks) == 1


@pytest.mark.parametrize("name", ["generate", "generate_stream"])
async def test_model_that_is_away_is_loaded_for_it(http: Http, name: str) -> None:
    link = LoadingLink(http.fleet, "a", LOOP, parting(1))
    assert await is_answered(await http.infer({"x": [1, 2]}, path=f"/v2/models/m/{name}"))
    assert (link.wants, len(link.asks)) == (1, 1)


async def test_body_that_is_none_loads_nothing_and_values_are_read_by_the_model_loaded(
    http: Http,
) -> None:
    link = LoadingLink(http.fleet, "a", LOOP)
    for body in (b"[", {"id": []}, {"x": [1, 2], "parameters": {"timeout": -1}}):
        assert (await http.infer(body, path=STREAM)).status == 400
    urgent = {"x": [1, 2], "parameters": {"priority": 1}}
    answer = await http.infer(urgent, path=STREAM, headers=http.bearer(max_priority=100))
    assert (answer.status, link.wants) == (403, 0)
    answer = await http.infer({"z": [1, 2]}, path=STREAM, headers=http.bearer())
    assert (answer.status, "'z' is no input" in await answer.text()) == (400, True)
    assert (link.wants, link.asks) == (1, [])


def waiting(http: Http) -> int:
    """Return how many wait for a load."""
    return int(repr(http.fleet.routing.pipeline.cold).split("(")[1].split()[0])


@pytest.fixture
def away(http: Http) -> LoadingLink:
    """A node that loads the model when a test says so."""
    link = LoadingLink(http.fleet, "a", LOOP, *[parting(1)] * (MAX_OF_MODEL + 10))
    link.is_ready_at_once = False
    return link


async def is_answered(answer: aiohttp.ClientResponse) -> bool:
    return (answer.status, b'"y":[1.0,1.0]' in await answer.read()) == (200, True)


async def test_client_that_leaves_while_a_model_is_loaded_waits_no_more(
    http: Http, away: LoadingLink
) -> None:
    asked = asyncio.create_task(http.infer({"x": [1, 2]}, path=STREAM))
    await away.wanted.wait()
    assert waiting(http) == 1
    asked.cancel()
    await until(lambda: waiting(http) == 0)
    away.load()
    await http.settled()
    assert away.asks == []


async def test_many_that_wait_for_one_load_are_bounded(http: Http, away: LoadingLink) -> None:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    url = f"http://{http.client.host}:{http.client.port}{STREAM}"

    async def ask() -> int:
        async with session.post(url, json={"x": [1, 2]}) as answer:
            return answer.status

    async with session:
        asked = [asyncio.create_task(ask()) for _ in range(MAX_OF_MODEL + 10)]
        await until(lambda: sum(task.done() for task in asked) >= 10, "none is refused")
        away.load()
        statuses = await asyncio.gather(*asked)
    assert (statuses.count(200), statuses.count(503)) == (MAX_OF_MODEL, 10)
    assert away.wants == 1


async def test_key_is_held_to_its_limits_while_a_model_is_loaded(
    http: Http, away: LoadingLink
) -> None:
    body, headers = {"x": [1, 2]}, http.bearer(concurrency=1)
    first = asyncio.create_task(http.infer(body, path=STREAM, headers=headers))
    await away.wanted.wait()
    other = await http.infer(body, path=STREAM, headers=headers)
    assert (other.status, "1 requests of the key" in await other.text()) == (429, True)
    away.load()
    assert await is_answered(await first)
    assert await is_answered(await http.infer(body, path=STREAM, headers=headers))
    ((place, used),) = http.quotas.unwritten().rows.items()
    assert (place.tenant, place.model, used) == ("lab", "m", (2, 2, 2 * 16))


async def test_request_that_waits_for_a_load_is_charged_once_with_what_it_is(http: Http) -> None:
    LoadingLink(http.fleet, "a", LOOP, parting(1))
    headers = http.bearer(requests_per_s=0.001, rows_per_s=0.001, bytes_per_s=8.0)
    assert await is_answered(await http.infer({"x": [1, 2]}, path=STREAM, headers=headers))
    ((_, used),) = http.quotas.unwritten().rows.items()
    assert used == (1, 1, 16)
    over = await http.infer({"x": [1, 2]}, path=STREAM, headers=headers)
    assert (over.status, http.quotas.over) == (429, {"requests": 1})


async def test_wait_for_a_load_that_fails_gives_its_place_back(
    http: Http, away: LoadingLink
) -> None:
    headers = http.bearer(concurrency=1)
    body = {"x": [1, 2], "parameters": {"timeout": 1_000_000}}
    for _ in range(2):
        answer = await http.infer(body, path=STREAM, headers=headers)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "takes longer than the request's time" in await answer.text()
    leaving = asyncio.create_task(http.infer({"x": [1, 2]}, path=STREAM, headers=headers))
    await until(lambda: waiting(http) == 1)
    leaving.cancel()
    await until(lambda: waiting(http) == 0)
    assert (await http.infer(body, path=STREAM, headers=headers)).status == 503
    assert http.quotas.unwritten().rows == {}
