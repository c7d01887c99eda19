"""Whose a prompt is, over each wire: a node is told the client's address by its hash, or its tenant where one is named."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from chat_nodes import CHAT, all_asked_of, chatting, words
from grpc_call import call
from router_http import Http
from ws_client import streaming

from capamesh.protocol.tensors import join_elements
from capamesh.router.grpc.messages import CLASSES

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
    answer = await http.client.post(INFER, json=body(), headers=headers, chunked=True)
    assert answer.status == 200, await answer.text()


async def by_grpc(http: Http, headers: dict[str, str]) -> None:
    called = await call(http, "ModelInfer", message(), headers)
    assert called.status == 0, called.said


async def by_grpc_stream(http: Http, headers: dict[str, str]) -> None:
    called = await call(http, "ModelStreamInfer", message(), headers)
    told = [CLASSES["ModelStreamInferResponse"].FromString(each) for each in called.messages]
    assert [each.error_message for each in told] == [""]


def by_websocket(query: str) -> Ask:
    async def ask(http: Http, headers: dict[str, str]) -> None:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        async with streaming(http, f"/v2/models/chat/stream{query}", *lines) as client:
            client.send(json.dumps(body()))
            answer = await client.next()
            assert "outputs" in answer, answer

    return ask


WIRES = pytest.mark.parametrize(
    "by_wire",
    [
        by_front,
        by_pages,
        by_grpc,
        by_grpc_stream,
        by_websocket(""),
        by_websocket("?parts=1"),
    ],
    ids=["front", "pages", "grpc", "grpc stream", "websocket", "websocket, in parts"],
)


@WIRES
async def test_client_has_one_share_over_all_wires(http: Http, by_wire: Ask) -> None:
    link = http.node("a", chatting(*words("1", finish="stop")), models=(CHAT,))
    await (await http.client.post("/v1/chat/completions", json={"model": "chat", **HI})).read()
    await by_wire(http, {})
    await by_wire(http, {"X-Capamesh-Tenant": "lab"})
    of_chat, of_wire, of_tenant = [all_asked_of(ask) for ask in link.asks]
    assert (of_wire["share"], of_wire["cache_salt"]) == (of_chat["share"], "")
    assert of_wire["share"]
    assert of_tenant["share"] == ""
    assert of_tenant["cache_salt"]
