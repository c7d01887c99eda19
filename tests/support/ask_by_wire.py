"""One request over each wire, as clients send it, and what they see of the answer."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from grpc_call import call
from router_http import INFER, Http

from capamesh.protocol.oip import RequestedOutput, encode_request
from capamesh.protocol.tensors import Tensor
from capamesh.router.grpc.messages import CLASSES

X = Tensor.from_numpy("x", np.array([[1, 2]], np.float32))
NO_ONE: dict[str, str] = {}
BY_GRPC = pytest.mark.real_loop("grpcio has sockets of its own")


@dataclass
class Seen:
    """The reply to one request: its outputs as text, and what its headers tell."""

    outputs: str
    cache: str
    age: str
    node: str


Ask = Callable[[Http, dict[str, str]], Awaitable[Seen]]


def seen(outputs: list[float], headers: Mapping[str, str]) -> Seen:
    told = {name.lower(): value for name, value in headers.items()}
    named = (told.get(name, "") for name in ("x-capamesh-cache", "age", "x-capamesh-node"))
    return Seen(json.dumps(outputs), *named)


async def by_json(
    http: Http, headers: dict[str, str], *, request_id: str = "", is_chunked: bool = False
) -> Seen:
    given = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    body = {"inputs": [given]} | ({"id": request_id} if request_id else {})
    reply = await http.client.post(INFER, json=body, headers=headers, chunked=is_chunked or None)
    text = await reply.text()
    assert reply.status == 200, text
    told = json.loads(text)
    assert told.get("id", "") == request_id
    return seen(told["outputs"][0]["data"], reply.headers)


by_pages: Ask = functools.partial(by_json, is_chunked=True)
"""Asks in a way that aiohttp serves."""


async def by_binary(http: Http, headers: dict[str, str]) -> Seen:
    buffers, json_bytes = encode_request((X,), outputs=(RequestedOutput("y"),))
    reply = await http.infer(b"".join(buffers), header_length=json_bytes, headers=headers)
    body = await reply.read()
    assert reply.status == 200, body
    raw = body[int(reply.headers["Inference-Header-Content-Length"]) :]
    return seen(np.frombuffer(raw, np.float32).tolist(), reply.headers)


async def by_grpc(http: Http, headers: dict[str, str]) -> Seen:
    message = CLASSES["ModelInferRequest"](
        model_name="m",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[bytes(X.data)],
    ).SerializeToString()
    called = await call(http, "ModelInfer", message, headers)
    assert called.status == 0, called.said
    (told,) = called.messages
    answer = CLASSES["ModelInferResponse"].FromString(told)
    return seen(np.frombuffer(answer.raw_output_contents[0], np.float32).tolist(), called.metadata)


OVER_ALL_WIRES = pytest.mark.parametrize(
    "ask", [by_json, by_binary, by_pages, by_grpc], ids=["json", "binary", "pages", "grpc"]
)
