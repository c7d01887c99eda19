"""Whose a prompt is, over each wire: a node is told the client's address by its hash, or its tenant where one is named."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import grpc
import pytest
from chat_nodes import CHAT, all_asked_of, chatting, words
from fleet_fakes import FakeLink
from router_http import Http
from ws_client import streaming

from capamesh.protocol.tensors import join_elements
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HI = {"messages": [{"role": "user", "content": "Hi"}]}
INFER = "/v2/models/chat/infer"
Ask = Callable[[Http, dict[str, str]], Awaitable[None]]


def body() -> dict[str, object]:
    given = {"name": "generation", "datatype": "BYTES", "shape": [1], "data": [json.dumps(HI)]}
    return {"inputs": [given], "outputs": [{"name": "parts"}]}


def message() -> bytes:
    asked = CLASSES["ModelInferRequest"](
        model_name="chat",
        inputs=[{"name": "generation", "datatype": "BYTES", "shape": [1]}],
        outputs=[{"name": "parts"}],
        raw_input_contents=[bytes(join_elements([json.dumps(HI).encode()]))],
    )
    return bytes(asked.SerializeToString())


async def by_front(http: Http, headers: dict[str, str]) -> None:
    answer = await http.client.post(INFER, json=body(), headers=headers)
    assert answer.status == 200, await answer.text()


async def by_pages(http: Http, headers: dict[str, str]) -> None:
    sent = {**headers, "Connection": "close"}
    answer = await http.client.post(INFER, json=body(), headers=sent, chunked=True)
    assert answer.status == 200, await answer.text()


async def by_grpc(http: Http, headers: dict[str, str]) -> None:
    metadata = [(name.lower(), value) for name, value in headers.items()]
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        await channel.unary_unary(f"/{SERVICE}/ModelInfer")(message(), metadata=metadata)


async def by_grpc_stream(http: Http, headers: dict[str, str]) -> None:
    metadata = [(name.lower(), value) for name, value in headers.items()]
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=metadata)
        await call.write(message())
        await call.done_writing()
        told = [CLASSES["ModelStreamInferResponse"].FromString(each) async for each in call]
    assert [each.error_message for each in told] == [""]


def by_websocket(query: str) -> Ask:
    async def ask(http: Http, headers: dict[str, str]) -> None:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        async with streaming(http, f"/v2/models/chat/stream{query}", *lines) as client:
            client.send(json.dumps(body()))
            answer = await client.next()
            assert "outputs" in answer, answer

    return ask


WIRES: dict[str, Ask] = {
    "front": by_front,
    "pages": by_pages,
    "grpc": by_grpc,
    "grpc stream": by_grpc_stream,
    "websocket": by_websocket(""),
    "websocket, in parts": by_websocket("?parts=1"),
}


@pytest.fixture
def link(http: Http) -> FakeLink:
    return http.node("a", chatting(*words("1", finish="stop")), models=(CHAT,))


@pytest.mark.parametrize("wire", WIRES)
async def test_client_has_one_share_over_all_wires(http: Http, link: FakeLink, wire: str) -> None:
    chat = {"model": "chat", **HI}
    last = {"Connection": "close"}
    await (await http.client.post("/v1/chat/completions", json=chat, headers=last)).read()
    await WIRES[wire](http, {})
    await WIRES[wire](http, {"X-Capamesh-Tenant": "lab"})
    of_chat, of_wire, of_tenant = [all_asked_of(ask) for ask in link.asks]
    assert (of_wire["share"], of_wire["cache_salt"]) == (of_chat["share"], "")
    assert of_wire["share"]
    assert of_tenant["share"] == ""
    assert of_tenant["cache_salt"]
