"""Both clients' chats and continuations at a router whose nodes generate as a test says, and at servers that break off."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from chat_nodes import CHAT, asked_of, chatting, counting, words
from oip_servers import read_request
from router_http import serving

from capamesh.client import (
    CutOff,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RunFailed,
    TokenUsage,
    asks,
)

if TYPE_CHECKING:
    from conftest import Asking
    from oip_servers import ScriptedServer

Start = Callable[..., "ScriptedServer"]

TEXT = "1 2 3 4 5 "
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    data = b"data: %b\n\n" % json.dumps({"model": "m", "choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_chat_comes_whole_and_in_pieces(asking: Asking) -> None:
    async with serving() as http, asking(http) as client:
        node = http.node("a", counting(5), models=(CHAT,))
        whole = await client.call("chat", "chat", "Hi", seed=1)
        assert (whole.text, whole.finish, whole.usage) == (TEXT, "stop", TokenUsage(9, 5, 4))
        assert whole.nodes == ("a",)
        pieces = await client.read("chat_stream", "chat", "Hi", max_tokens=9)
        assert [piece.text for piece in pieces] == ["1 ", "2 ", "3 ", "4 ", "5 ", ""]
        assert pieces[-1].finish == "stop"
        assert client.stream.answer.text == TEXT
        assert client.stream.answer.usage == TokenUsage(9, 5, 4)
        timings = client.stream.answer.timings
        assert min(timings.wait_s, timings.receive_s) > 0
        hi = {"role": "user", "content": "Hi"}
        assert [asked_of(ask)["messages"] for ask in node.asks] == [[hi], [hi]]
        assert asked_of(node.asks[1])["max_tokens"] == 9
        # both answers came over one connection
        assert len(http.front.connections) == 1


async def test_texts_are_gone_on_with_also_over_a_node_that_is_lost(asking: Asking) -> None:
    async with serving() as http, asking(http) as client:
        http.node("a", counting(5), models=(CHAT,))
        found = await client.call("complete", "chat", ["a", "b"], n=1)
        assert [choice.text for choice in found.choices] == [TEXT, TEXT]
        http.endpoints[0].link = None
        reply = counting(5, dies_after=(2, None))
        for peer in "bc":
            http.node(peer, reply, models=(CHAT,))
        pieces = await client.read("complete_stream", "chat", "a")
        assert "".join([piece.text for piece in pieces]) == client.stream.answer.text == TEXT
        assert client.stream.answer.resumes == 1


async def test_errors_are_those_of_other_requests(asking: Asking) -> None:
    async with serving() as http, asking(http) as client:
        http.node("a", chatting(*words("a"), end=RunFailed("full")), models=(CHAT,))
        with pytest.raises(ModelNotFound):
            await client.call("chat", "nonesuch", "Hi")
        with pytest.raises(ModelNotFound):
            await client.read("chat_stream", "nonesuch", "Hi")
        with pytest.raises(InvalidRequest, match="temperature is 3"):
            await client.read("chat_stream", "chat", "Hi", temperature=3)
        with pytest.raises(InvalidRequest, match="did you mean temperature"):
            await client.read("chat_stream", "chat", "Hi", temprature=1)
        with pytest.raises(RunFailed, match="full"):
            await client.read("chat_stream", "chat", "Hi")


async def test_generation_ends_when_its_reader_stops(asking: Asking) -> None:
    async with serving() as http, asking(http) as client:
        node = http.node("a", counting(100_000), models=(CHAT,))
        pieces = await client.read("chat_stream", "chat", "Hi", most=3)
        assert [piece.text for piece in pieces] == ["1 ", "2 ", "3 "]
        await node.cancelled.wait()
        assert client.stream.answer.text == "1 2 3 "


def cut(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(HEAD + event("a"))


def ended(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(HEAD + event("a", "stop") + b"0\r\n\r\n")


@pytest.mark.parametrize("script", [cut, ended])
async def test_stream_that_ends_too_soon_keeps_what_came(
    scripted: Start, asking: Asking, script: Callable[[socket.socket], None]
) -> None:
    async with asking(scripted(script).url) as client:
        with pytest.raises(CutOff):
            await client.read("chat_stream", "m", "Hi")
        assert client.stream.answer.text == "a"


async def test_silence_and_deadlines_end_a_stream(
    scripted: Start, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(connection: socket.socket) -> None:
        cut(connection)
        connection.recv(1)  # until the client hangs up

    async with asking(scripted(silent, silent).url) as client:
        with pytest.raises(DeadlineExceeded):
            await client.read("chat_stream", "m", "Hi", timeout_s=0.01)
        monkeypatch.setattr(asks, "MOST_SILENCE_S", 0.5)
        with pytest.raises(CutOff, match=r"nothing came for 0.5 s"):
            await client.read("chat_stream", "m", "Hi")
