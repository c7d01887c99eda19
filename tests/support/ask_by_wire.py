"""One request over each wire, as clients send it, and what they see of the answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from router_http import INFER, Http

from capamesh.protocol.oip import RequestedOutput, encode_request
from capamesh.protocol.tensors import Tensor
from capamesh.router.grpc.messages import CLASSES

X = Tensor.from_numpy("x", np.array([[1, 2]], np.float32))
NOBODY: dict[str, str] = {}


class Seen:
    """The reply to one request: its outputs as text, and what its headers tell."""

    def __init__(self, outputs: str, headers: dict[str, str]) -> None:
        self.outputs = outputs
        self.cache = headers.get("x-capamesh-cache", "")
        self.age = headers.get("age", "")
        self.node = headers.get("x-capamesh-node", "")


Ask = Callable[[Http, dict[str, str]], Awaitable[Seen]]


async def by_json(
    http: Http, headers: dict[str, str], *, request_id: str = "", is_chunked: bool = False
) -> Seen:
    body: dict[str, object] = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]
    }
    body |= {"id": request_id} if request_id else {}
    reply = await http.client.post(INFER, json=body, headers=headers, chunked=is_chunked or None)
    told = {name.lower(): value for name, value in reply.headers.items()}
    text = await reply.text()
    assert reply.status == 200, text
    if request_id:
        assert json.loads(text)["id"] == request_id
    return Seen(json.dumps(json.loads(text)["outputs"][0]["data"]), told)


async def by_pages(http: Http, headers: dict[str, str]) -> Seen:
    """Ask in a way that aiohttp serves."""
    return await by_json(http, {**headers, "Connection": "close"}, is_chunked=True)


async def by_binary(http: Http, headers: dict[str, str]) -> Seen:
    buffers, json_bytes = encode_request((X,), outputs=(RequestedOutput("y"),))
    reply = await http.infer(b"".join(buffers), header_length=json_bytes, headers=headers)
    told = {name.lower(): value for name, value in reply.headers.items()}
    body = await reply.read()
    assert reply.status == 200, body
    raw = body[int(told["inference-header-content-length"]) :]
    return Seen(json.dumps(np.frombuffer(raw, np.float32).tolist()), told)


async def by_grpc(http: Http, headers: dict[str, str]) -> Seen:
    message = CLASSES["ModelInferRequest"](
        model_name="m",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[bytes(X.data)],
    ).SerializeToString()
    path = "/inference.GRPCInferenceService/ModelInfer"
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        metadata = [(name.lower(), value) for name, value in headers.items()]
        call = channel.unary_unary(path)(message, metadata=metadata)
        answer = CLASSES["ModelInferResponse"].FromString(await call)
        told = {str(name): str(value) for name, value in await call.initial_metadata()}
    values = np.frombuffer(answer.raw_output_contents[0], np.float32)
    return Seen(json.dumps(values.tolist()), told)


WIRES: dict[str, Ask] = {"json": by_json, "binary": by_binary, "pages": by_pages, "grpc": by_grpc}
