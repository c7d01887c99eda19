"""Streams over WebSocket on a router's port: messages in, answers out in their order, and all given back."""

from __future__ import annotations

import json
import struct

import pytest
from fleet_fakes import echo, failing, hang
from router_http import Http
from scripted_client import all_given_back
from tidy_router import X, tidy
from ws_client import STREAM, connected, infer, streaming

from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.protocol.tensors import Limits
from capamesh.router.http.limits import FrontLimits


def binary(name: str, *values: float) -> bytes:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 8},
    }
    asked = {"id": name, "inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(asked).encode()
    return struct.pack("<I", len(text)) + text + struct.pack("<2f", *values)


async def test_messages_are_answered_in_their_order_up_to_the_end(http: Http) -> None:
    link = http.node("A")
    path = "/v2/models/m/versions/1/stream?nodes=A&timeout=9000000"
    async with streaming(http, path) as client:
        for name in ("a", "b", "c"):
            client.send(infer(name))
        client.send('{"end": true}')
        assert await client.end() == (1000, "")
        assert [answer["id"] for answer in client.messages] == ["a", "b", "c"]
        assert client.messages[0]["outputs"] == [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
        ]
        told = {(each["model_name"], each["model_version"]) for each in client.messages}
        assert told == {("m", "1")}
    assert {ask.call.version for ask in link.asks} == {"1"}
    # also behind other requests of its connection
    response = await http.client.get(STREAM, headers={"Connection": "close"})
    assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
    assert "this is a WebSocket" in (await response.json())["error"]
    assert (await http.client.get("/v2/health/live")).status == 200
    async with http.client.session.ws_connect(STREAM) as stream:
        await stream.send_str(infer("a"))
        assert json.loads(await stream.receive_str())["id"] == "a"


async def test_binary_message_is_answered_with_one(http: Http) -> None:
    http.node("A")
    async with streaming(http) as client:
        client.send(binary("b", 3, 4))
        answer = await client.next()
        (json_bytes,) = struct.unpack("<I", answer[:4])
        said = json.loads(answer[4 : 4 + json_bytes])
        assert (said["id"], said["outputs"][0]["parameters"]) == ("b", {"binary_data_size": 8})
        assert struct.unpack("<2f", answer[4 + json_bytes :]) == (3.0, 4.0)


async def test_error_is_told_in_the_stream_which_goes_on(http: Http) -> None:
    full = failing(Overloaded("full", 2.5))
    http.node("A", echo, failing(InvalidRequest("not such rows")), echo, full)
    async with streaming(http) as client:
        for name in ("a", "b", "c", "d"):
            client.send(infer(name))
        first, second, third, last = await client.all(4)
        assert (first["id"], third["id"]) == ("a", "c")
        wrong = {"error": "not such rows", "code": "invalid_request", "answered": 1, "id": "b"}
        assert second == wrong
        assert (last["id"], last["code"], last["retry_after_s"]) == ("d", "overloaded", 3)


async def test_message_that_is_no_request_is_told_so(http: Http) -> None:
    http.node("A")
    async with streaming(http) as client:
        for broken in ("[]", "{", b"\xff\xff\xff\xff{}", b"\x01"):
            client.send(broken)
            told = await client.next()
            assert (told["code"], told["answered"]) == ("invalid_request", 0), told
        client.send(infer("d"))
        assert (await client.next())["id"] == "d"


@pytest.mark.parametrize("is_rude", [True, False])
async def test_client_that_closes_or_is_gone_takes_back_what_is_under_way(
    http: Http, is_rude: bool
) -> None:
    link = http.node("A", hang)
    async with streaming(http) as client:
        client.send(infer("a"))
        await link.asked.wait()
        if is_rude:
            client.send(infer("b"))
            client.leave()
            await all_given_back(http)
        else:
            client.close(1000)
            assert await client.end() == (1000, "")
    assert len(link.withdrawn) == len(link.asks) == 1


async def test_parts_of_a_message_and_pings_between_them(http: Http) -> None:
    http.node("A")
    rows = 20_000
    tensor = {**X, "shape": [rows, 2], "data": [1.5] * (2 * rows)}
    async with streaming(http) as client:
        text = infer("long", inputs=[tensor])  # it is read in slices, too
        client.send(text[:20], is_last=False)
        client.ping(b"are you there")
        client.send(text[20:])
        answer = await client.next()
        assert (answer["id"], answer["outputs"][0]["shape"]) == ("long", [rows, 2])
        assert client.pongs == [b"are you there"]


async def test_frames_in_the_same_breath_as_the_request_are_read(http: Http) -> None:
    http.node("A")
    masked = bytes([0x81, 0x80 | 13, 0, 0, 0, 0]) + b'{"end": true}'
    client = await connected(http, before=[masked])
    assert client.status == 101
    assert await client.end() == (1000, "")
    client.leave()


async def test_stream_is_closed_when_the_router_stops_and_behind_its_answer_when_it_drains(
    http: Http,
) -> None:
    link = http.node("A", hang, echo)
    async with streaming(http) as client:
        for name in ("a", "b"):
            client.send(infer(name))
        await link.asked.wait()
        http.front.requests.is_closing = True
        link.asks[0].echo()
        assert await client.end() == (1001, "the router stops")
        assert [answer["id"] for answer in client.messages] == ["a"]
    http.front.requests.is_closing = False
    async with streaming(http) as client:
        client.send(infer("a"))
        await client.next()
        http.front.close()
        assert await client.end() == (1001, "the router stops")


@pytest.mark.parametrize(
    ("path", "lines", "status", "said"),
    [
        ("/v2/models/nobody/stream", (), 404, "no node hosts model 'nobody'"),
        ("/v2/models/m/stream?speed=9", (), 400, "there are affinity, binary"),
        ("/v2/models/m/stream?messages=words", (), 400, "requests or samples"),
        ("/v2/models/m/stream?binary=yes", (), 400, "1 or 0"),
        ("/v2/models/m/stream?timeout=soon", (), 400, "a whole number"),
        ("/v2/models/m/stream?policy=p2c&policy=p2c", (), 400, "twice"),
        ("/v2/models/m/stream?max_price=-1", (), 400, "a number from 0"),
        (STREAM, ("X-Capamesh-Explain: 1",), 400, "not explained"),
        (STREAM, ("Sec-WebSocket-Version: 13",), 400, "13 is spoken here"),
        (STREAM, ("Content-Length: 5",), 400, "no body"),
        (STREAM, ("Host: other",), 400, "one Host"),
    ],
)
async def test_client_that_is_refused_is_told_why_before_there_is_a_stream(
    http: Http, path: str, lines: tuple[str, ...], status: int, said: str
) -> None:
    http.node("A")
    client = await connected(http, path, *lines)
    assert client.status == status
    assert said in client.answer.decode(), client.answer
    client.leave()
    await all_given_back(http)


async def test_message_over_the_limit_closes_before_it_is_here() -> None:
    async with tidy(limits=Limits(max_message_bytes=100_000, max_json_bytes=1000)) as http:
        http.node("A")
        for message, said in ((" " * 1001, "1000"), (bytes(100_001), "the limit is 100000")):
            async with streaming(http) as client:
                client.send(message, is_last=False)
                told = await client.next()
                assert (told["code"], said in told["error"]) == ("too_large", True), told
                assert (await client.end() or (0,))[0] == 1009


async def test_client_without_room_is_told_to_come_again() -> None:
    limits = FrontLimits(body_bytes=2 * 2**20, arriving_bytes=2**20)
    async with tidy(front_limits=limits) as http:
        http.node("A")
        assert http.front.budget.hold(2**20)
        assert http.front.budget.hold(2**20 - 100)
        client = await connected(http)
        client.send(infer("a"))
        told = await client.next()
        assert (told["code"], told["retry_after_s"]) == ("overloaded", 1)
        assert (await client.end() or (0,))[0] == 1013
        http.front.budget.let_go(2 * 2**20 - 100)
        client.leave()
        await all_given_back(http)
