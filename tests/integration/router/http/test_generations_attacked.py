"""The routes for generation and those who mean harm: bodies beyond every limit, clients that never read, a thousand half-open streams."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import struct
from typing import Any

import pytest
from chat_nodes import CHAT, counting, part_of
from fleet_fakes import Ask
from patience import until
from raw_http import plain_socket
from router_http import Http, serving

GUARD_S = 60.0
HI = [{"role": "user", "content": "Hi"}]
DEEP = 100_000
STREAMS = 1000


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": HI, **fields}


def nested(inner: str) -> bytes:
    """Return a chat with a value that is nested a hundred thousand deep, which `json` itself cannot write."""
    text = json.dumps(body_of(x="DEEP")).replace('"DEEP"', inner)
    return text.encode()


ATTACKS: dict[str, tuple[object, int, str | None, str]] = {
    # what else may not be in a body is told by its reader's own tests
    "choices": (body_of(n=128), 400, "n", "n is 128, expected a whole number from 1 to 8"),
    "stop": (body_of(stop="a" * 257), 400, "stop", "256"),
    "tokens": (body_of(max_tokens=10**400), 400, "max_tokens", "number from 1 to 131072"),
    "size": (body_of(messages=[{**HI[0], "content": "x" * (10 * 2**20)}]), 413, None, "1048576"),
    "deep": (nested("[" * DEEP + "]" * DEEP), 400, None, "nested too deep"),
    "deep objects": (nested('{"a":' * DEEP + "1" + "}" * DEEP), 400, None, "nested too deep"),
    "no JSON": (nested("NaN"), 400, None, "not JSON"),
    "half a character": (body_of(messages=[{**HI[0], "content": "\ud800"}]), 400, None, "JSON"),
}


@pytest.mark.parametrize(("body", "status", "param", "said"), ATTACKS.values(), ids=ATTACKS)
async def test_body_beyond_a_limit_is_told_the_limit_and_reaches_no_node(
    http: Http, body: Any, status: int, param: str | None, said: str
) -> None:
    link = http.node("a", counting(3), models=(CHAT,))
    for is_streamed in (False, True):
        is_raw = isinstance(body, bytes)
        data = body if is_raw else json.dumps({**body, "stream": is_streamed}).encode()
        answer = await http.client.post("/v1/chat/completions", data=io.BytesIO(data))
        error = (await answer.json())["error"]
        assert (answer.status, error["code"] is not None) == (status, True), error
        assert said in error["message"]
        assert param in {None, error["param"]}
    assert link.asks == []
    answer = await http.client.post("/v1/chat/completions", json=body_of())
    assert answer.status == 200


def endless(size: int) -> Any:
    """Answer for ever, a part of so many characters whenever the one before is released."""

    def reply(ask: Ask) -> None:
        def send() -> None:
            if not ask.ended:
                ask.part(part_of([{"c": 0, "t": [1], "x": "x" * size}]))

        ask.link.on_release[ask.stream] = send
        asyncio.get_running_loop().call_soon(send)

    return reply


def begun(ask: Ask) -> None:
    """Answer one part, and then nothing."""
    asyncio.get_running_loop().call_soon(ask.part, part_of([{"c": 0, "t": [1], "x": "x"}]))


def request_of(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    return head % len(data) + data


async def connected(http: Http) -> socket.socket:
    """Return a connection with small buffers, of which a test reads nothing."""
    sock = plain_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(sock, (http.client.host, http.client.port))
    return sock


async def test_client_that_never_reads_holds_little_and_is_hung_up_on() -> None:
    async with serving(timeout_s=GUARD_S, arrival_s=0.5) as http:
        link = http.node("a", endless(20_000), models=(CHAT,))
        with contextlib.closing(await connected(http)) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, request_of(body_of(stream=True)))
            await link.cancelled.wait()  # its node is free, though it is there still
            assert link.asks[0].ended == "withdrawn"
            # what the sockets of both sides hold, and no more than that
            assert len(link.released) < 800
            while await loop.sock_recv(sock, 2**20):
                pass


async def test_thousand_half_open_streams_hold_up_nobody_and_leave_nothing() -> None:
    async with serving(timeout_s=GUARD_S) as http:
        link = http.node("a", begun, models=(CHAT,))
        socks = await _opened(http)
        other = http.node("b", counting(3), models=(CHAT,))
        answer = await http.client.post(
            "/v1/chat/completions", json=body_of(), headers={"X-Capamesh-Nodes": "b"}
        )
        assert (await answer.json())["choices"][0]["message"]["content"] == "1 2 3 "
        assert len(other.asks) == 1
        for number, sock in enumerate(socks):
            if number % 2:  # a half by a reset, the others in order
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await until(
            lambda: not (http.front.requests.count or http.fleet.counts), "a request is under way"
        )
        assert link.waiting == {}
        assert {ask.ended for ask in link.asks} == {"withdrawn"}


async def _opened(http: Http) -> list[socket.socket]:
    """Return the connections of streams that are under way, of which half have ended their own half."""
    loop = asyncio.get_running_loop()
    socks: list[socket.socket] = []
    for _ in range(STREAMS):
        sock = await connected(http)
        await loop.sock_sendall(sock, request_of(body_of(stream=True)))
        socks.append(sock)
    # as many as the model has room for are under way, and the others wait or were refused
    await until(lambda: len(http.front.connections) == STREAMS, "connections are not there")
    await until(lambda: http.fleet.counts, "no stream is under way")
    for sock in socks[::2]:
        sock.shutdown(socket.SHUT_WR)
    return socks
