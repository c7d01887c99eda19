"""A router's way of a request, from its bytes to a node's and back, on one event loop and without a socket."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from typing import ClassVar

from front_world import World
from http2_client import HEAD, Http2Client
from link_wire import deliver
from typing_extensions import override

from capamesh.router.access.keys import Key
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.telemetry.ended import EndedRequests

JSON_BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'


def request_of(body: bytes, *fields: bytes) -> bytes:
    head = [b"POST /v2/models/m/infer HTTP/1.1", b"Host: router", *fields]
    return b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body))


JSON = request_of(JSON_BODY)


def binary_of(rows: int) -> bytes:
    """Return a request for `rows` rows of two numbers, as binary tensors."""
    described = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [rows, 2],
                "parameters": {"binary_data_size": 8 * rows},
            }
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    description = json.dumps(described).encode()
    return request_of(
        description + struct.pack("<2f", 1.0, 2.0) * rows,
        b"Inference-Header-Content-Length: %d" % len(description),
    )


BINARY = binary_of(1)


def message_of(rows: int) -> bytes:
    """Return a message of gRPC with a request for `rows` rows of two numbers."""
    described = {"name": "x", "datatype": "FP32", "shape": [rows, 2]}
    message = CLASSES["ModelInferRequest"](
        model_name="m",
        inputs=[described],
        raw_input_contents=[struct.pack("<2f", 1.0, 2.0) * rows],
    ).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + bytes(message)


MOST_WINDOW_BYTES = 2**31 - 1
WARM = 50
"""Requests after which nothing is done for the first time."""


class WarmWorld(World):
    """The world with a client that sends one request again and again."""

    answered: ClassVar[bytes] = b"HTTP/1.1 200 OK"
    """The bytes that stand once in each answer."""

    def __init__(
        self, request: bytes, ended: EndedRequests | None = None, keys: Sequence[Key] = ()
    ) -> None:
        super().__init__(ended, keys)
        self.request = request

    def ask(self) -> None:
        """Let a request's bytes arrive."""
        deliver(self.connection, self.request)


class GrpcWorld(WarmWorld):
    """The same with a client of gRPC, which sends a message again and again."""

    answered: ClassVar[bytes] = b"\x12\x04FP32"

    def __init__(self, message: bytes) -> None:
        super().__init__(message)
        client = Http2Client()
        deliver(self.connection, client.begin(initial_window_size=MOST_WINDOW_BYTES))
        deliver(self.connection, client.window(0, MOST_WINDOW_BYTES - 65_535))
        # none of it goes into the header table, so that each call has the same
        head = tuple(
            (name, f"/{SERVICE}/ModelInfer".encode() if name == b":path" else value, True)
            for name, value in HEAD
        )
        self._call = client.head(1, head) + client.data(1, message, is_last=True)
        self._stream = 1

    @override
    def ask(self) -> None:
        call = bytearray(self._call)
        stream, self._stream = self._stream.to_bytes(4, "big"), self._stream + 2
        at = 0
        while at < len(call):  # each frame begins with its length, and has its stream behind that
            call[at + 5 : at + 9] = stream
            at += 9 + int.from_bytes(call[at : at + 3], "big")
        deliver(self.connection, bytes(call))

    @override
    async def answer(self) -> None:
        await super().answer()
        await asyncio.sleep(0)  # the connection has written


async def warm(request: bytes) -> WarmWorld:
    """Return a world that has answered the request some times: one over HTTP, or a message of gRPC."""
    return await warmed(WarmWorld(request) if request.startswith(b"POST") else GrpcWorld(request))


async def warmed(world: WarmWorld) -> WarmWorld:
    """Return a world once it has answered its request some times."""
    for _ in range(WARM):
        world.ask()
        await world.answer()
    if world.client.sent.count(world.answered) != WARM:
        raise SystemExit("some requests were not answered")
    return world
