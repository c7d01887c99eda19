"""A router's way of a request, from its bytes to a node's and back, on one event loop and without a socket."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

from fleet_fakes import Fleet, NullLog, answer_of, fp32, keys_of, offer
from http2_client import HEAD, Http2Client
from link_ends import Ends, Transport
from link_wire import deliver
from origins import ANYWHERE
from typing_extensions import override

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits
from capamesh.router.access.keys import Key
from capamesh.router.access.quotas import Quotas
from capamesh.router.grpc.http2 import Http2Session
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.server import Front
from capamesh.router.requests.metered import Meter
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.requests.repository import RepositoryControl
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


ANSWER = answer_of("1", fp32("y", [1, 2]))
MOST_WINDOW_BYTES = 2**31 - 1
WARM = 50
"""Requests after which nothing is done for the first time."""


class World:
    """A front, a router's core and real links to nodes that answer at once; nothing has a socket."""

    answered: ClassVar[bytes] = b"HTTP/1.1 200 OK"
    """The bytes that stand once in each answer."""

    def __init__(
        self,
        request: bytes = b"",
        ended: EndedRequests | None = None,
        keys: Sequence[Key] = (),
        make_session: Callable[[], Http2Session] | None = None,
        *,
        models: Sequence[ModelOffer] = (offer(),),
        limits: Limits = DEFAULT_LIMITS,
        seed: int = 0,
    ) -> None:
        """`ended` is told of requests; with `keys` the router asks for one, and holds it to its limits.

        `make_session` makes what speaks HTTP/2; None: the library that is there.
        """
        self.request = request
        self.fleet = fleet = Fleet(policy="prequal", limits=limits, seed=seed)
        self.nodes: list[Ends] = []
        for peer in "ABC":
            fleet.node(peer, models=models)
            ends = Ends()
            fleet.endpoints[-1].link = ends.link
            self.nodes.append(ends)
        self.log = NullLog()
        inference = Inference(
            fleet.view,
            fleet.routing,
            fleet.telemetry,
            30.0,
            limits,
            self.log,  # type: ignore[arg-type]
            ended=ended,
            meter=Meter(Quotas(), fleet.routing.pipeline, fleet.view, clock=fleet.clock),
            repeated=keys_of(fleet),
        )
        if keys:
            inference.ring.take(keys, 0.0, 0.0)
        self.front = front = Front(inference, OpenRequests(), arrival_s=30.0, origin_check=ANYWHERE)
        descriptions = ModelDescriptions(inference, is_ready=lambda: True, wall_clock=lambda: 0.0)
        repository = RepositoryControl(fleet.view, inference.log)
        self.grpc = GrpcServer(inference, descriptions, front, repository, make_session)
        front.guests = self.grpc
        self.connect()

    def connect(self) -> None:
        """Let a new client connect."""
        self.client = Transport()
        self.connection = FrontConnection(self.front)
        self.connection.connection_made(cast("asyncio.Transport", self.client))

    def ask(self) -> None:
        """Let a request's bytes arrive."""
        deliver(self.connection, self.request)

    async def answer(self) -> None:
        """Let the nodes answer all that they were asked."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the links have written
        for ends in self.nodes:
            if not ends.transport.sent:
                continue
            for event in ends.read():
                if isinstance(event, RequestReceived):
                    ends.peer.respond(event.stream, ANSWER.meta, [ANSWER.body])
                elif isinstance(event, ProbeReceived):
                    ends.peer.send_load(event.stream, encode_load(LoadReport(1, 0, 8, 9, 10, 0)))
            ends.deliver()


class GrpcWorld(World):
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


async def warm(request: bytes) -> World:
    """Return a world that has answered the request some times: one over HTTP, or a message of gRPC."""
    return await warmed(World(request) if request.startswith(b"POST") else GrpcWorld(request))


async def warmed(world: World) -> World:
    """Return a world once it has answered its request some times."""
    for _ in range(WARM):
        world.ask()
        await world.answer()
    assert world.client.sent.count(world.answered) == WARM
    return world
