"""What one warm request costs in calls of the project's own code: from its bytes to a node's, and from the answer back."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any, cast

import pytest
from fleet_fakes import Fleet, NullLog, answer_of, fp32, in_virtual_time
from link_ends import Ends

from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.links.link import Link
from capamesh.protocol.tensors import Limits
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.http.application import OpenRequests
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.server import Front

JSON_BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
DESCRIPTION = json.dumps(
    {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            }
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
).encode()


def request_of(body: bytes, *fields: bytes) -> bytes:
    head = [b"POST /v2/models/m/infer HTTP/1.1", b"Host: router", *fields]
    return b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body))


JSON = request_of(JSON_BODY)
BINARY = request_of(
    DESCRIPTION + struct.pack("<2f", 1.0, 2.0),
    b"Inference-Header-Content-Length: %d" % len(DESCRIPTION),
)
ANSWER = answer_of("1", fp32("y", [1, 2]))
WARM = 50
"""Requests after which nothing is done for the first time."""
ALIVE = sorted(
    (
        # what lives: the wire's side of the request, the request, its attempt, and what each owes to others
        *("Exchange", "InFlightCall", "Attempt", "RequestPicker", "Permit"),
        # values
        *("InferRequest", "Tensor", "InferCall", "Call", "RequestShape", "Eligibility"),
    )
)
"""All objects of the project that a request under way has, of which none is made twice."""
MOST_FRAMES = 9
"""Measured, from `buffer_updated` to `Link.ask`."""


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


class CallCounter:
    """Counts calls of the project's code from one function's beginning to another's end, and how deep they lie."""

    def __init__(self, first: FunctionType, last: FunctionType) -> None:
        self._first, self._last = first.__code__, last.__code__
        self.calls: list[str] = []
        self.frames: list[str] = []
        """The functions that are under way when the last one ends, outermost first."""
        self._is_over = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self._is_over or not _is_ours(frame):
            return
        if event == "call":
            if self.calls or code is self._first:
                self.calls.append(code.co_name)
        elif event == "return" and code is self._last:
            self._is_over = True
            at: FrameType | None = frame
            while at is not None:
                if _is_ours(at):
                    self.frames.insert(0, at.f_code.co_name)
                at = at.f_back


def _is_ours(frame: FrameType) -> bool:
    return "/src/capamesh/" in frame.f_code.co_filename


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
        self.connection.get_buffer(-1)[: len(self.request)] = self.request
        self.connection.buffer_updated(len(self.request))

    async def answer(self) -> None:
        """Let the nodes answer all that they were asked."""
        for ends in self.nodes:
            for event in await ends.reads():
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


@contextmanager
def counted(first: FunctionType, last: FunctionType) -> Iterator[CallCounter]:
    """Count the calls in the block."""
    counter = CallCounter(first, last)
    sys.setprofile(counter)
    try:
        yield counter
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    ("request_", "most_there", "most_back"), [(JSON, 73, 46), (BINARY, 73, 43)]
)
@in_virtual_time
async def test_warm_request_costs_few_calls_and_frames_there_and_back(
    request_: bytes, most_there: int, most_back: int
) -> None:
    world = await warm(request_)
    with counted(FrontConnection.buffer_updated, Link.ask) as there:
        world.ask()
    assert (there.frames[0], there.frames[-1]) == ("buffer_updated", "ask")
    assert len(there.frames) <= MOST_FRAMES, there.frames
    assert len(there.calls) <= most_there, there.calls
    with counted(Attempt.answered, FrontConnection._go_on) as back:
        await world.answer()
    assert (back.calls[0], back.calls[-1]) == ("answered", "_go_on")
    assert len(back.calls) <= most_back, back.calls
    assert world.client.written.count(b"HTTP/1.1 200 OK") == WARM + 1
    assert world.fleet.balancer.under_way == 0


@in_virtual_time
async def test_request_under_way_is_one_object_and_each_attempt_another() -> None:
    world = await warm(BINARY)
    before = objects()  # holds them, so that none of other tests ends meanwhile
    world.ask()
    known = set(map(id, before))
    assert sorted(type(each).__name__ for each in objects() if id(each) not in known) == ALIVE
    await world.answer()


def objects() -> list[object]:
    """Return all objects of the project's classes."""
    gc.collect()
    return [
        each for each in gc.get_objects() if f"{type(each).__module__}.".startswith("capamesh.")
    ]
