"""A router's way of a request, from its bytes to a node's and back, on one event loop and without a socket."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, cast

from fleet_fakes import Fleet, NullLog, answer_of, fp32
from link_ends import Ends

from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.tensors import Limits
from capamesh.router.http.application import OpenRequests
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.server import Front

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
ANSWER = answer_of("1", fp32("y", [1, 2]))
WARM = 50
"""Requests after which nothing is done for the first time."""


class Client:
    """A client's transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.written = bytearray()

    def get_extra_info(self, name: str) -> Any:
        del name

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data


class World:
    """A front, a router's core and real links to nodes that answer at once; nothing has a socket."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.fleet = fleet = Fleet(policy="prequal")
        self.nodes: list[Ends] = []
        for peer in "ABC":
            fleet.node(peer)
            ends = Ends()
            fleet.endpoints[-1].link = ends.link
            self.nodes.append(ends)
        inference = Inference(
            fleet.view,
            fleet.routing,
            fleet.telemetry,
            30.0,
            Limits(),
            NullLog(),  # type: ignore[arg-type]
        )
        front = Front(inference, OpenRequests(), arrival_s=30.0)
        self.client = Client()
        self.connection = FrontConnection(front)
        self.connection.connection_made(cast(asyncio.Transport, self.client))

    def ask(self) -> None:
        """Let a request's bytes arrive."""
        missing = memoryview(self.request)
        while missing:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(missing))
            buffer[:count] = missing[:count]
            missing = missing[count:]
            self.connection.buffer_updated(count)

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


async def warm(request: bytes) -> World:
    """Return a world that has answered the request some times."""
    world = World(request)
    for _ in range(WARM):
        world.ask()
        await world.answer()
    assert world.client.written.count(b"HTTP/1.1 200 OK") == WARM
    return world
