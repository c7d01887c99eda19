"""What one warm request costs in calls of the project's own code, from its bytes to the bytes for a node."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any, cast

from fleet_fakes import Fleet, NullLog, answer_of, fp32, in_virtual_time
from link_ends import Ends

from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.links.link import Link
from capamesh.protocol.tensors import Limits
from capamesh.router.http.application import OpenRequests
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.server import Front

BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}'
REQUEST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: router\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
ANSWER = answer_of("1", fp32("y", [1, 2]))
WARM = 50
"""Requests after which nothing is done for the first time."""
MOST_CALLS = 109
"""Measured; links, tensors and balancing have two thirds of them."""
MOST_FRAMES = 11
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
    """Counts calls of the project's code, and how deep they lie, until a request's bytes are queued on a link."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.frames: list[str] = []
        self._is_over = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self._is_over or not _is_ours(frame):
            return
        if event == "call":
            self.calls.append(code.co_name)
        elif event == "return" and code is Link.ask.__code__:
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

    def __init__(self) -> None:
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

    def ask(self, counter: CallCounter | None = None) -> None:
        """Let a request's bytes arrive."""
        self.connection.get_buffer(-1)[: len(REQUEST)] = REQUEST
        sys.setprofile(counter)
        try:
            self.connection.buffer_updated(len(REQUEST))
        finally:
            sys.setprofile(None)

    async def answer(self) -> None:
        """Let the nodes answer all that they were asked."""
        for ends in self.nodes:
            for event in await ends.reads():
                if isinstance(event, RequestReceived):
                    ends.peer.respond(event.stream, ANSWER.meta, [ANSWER.body])
                elif isinstance(event, ProbeReceived):
                    ends.peer.send_load(event.stream, encode_load(LoadReport(1, 0, 8, 9, 10, 0)))
            ends.deliver()


@in_virtual_time
async def test_warm_request_costs_few_calls_and_frames_until_it_is_on_its_link() -> None:
    world = World()
    for _ in range(WARM):
        world.ask()
        await world.answer()
    assert world.client.written.count(b"HTTP/1.1 200 OK") == WARM
    counter = CallCounter()
    world.ask(counter)
    assert (counter.frames[0], counter.frames[-1]) == ("buffer_updated", "ask")
    assert len(counter.frames) <= MOST_FRAMES, counter.frames
    assert len(counter.calls) <= MOST_CALLS, counter.calls
    await world.answer()
    assert world.client.written.count(b"HTTP/1.1 200 OK") == WARM + 1
    assert world.fleet.routing.under_way == 0
