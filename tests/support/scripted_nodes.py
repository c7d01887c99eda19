"""What nodes do by a script, whatever brings requests to them, and a router that drives real links to such nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet_fakes import NullLog
from link_ends import Ends, Transport
from typing_extensions import override

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.errors import CapameshError, Overloaded, RunFailed
from capamesh.protocol.fleet import FleetMembership
from capamesh.protocol.links.call_decoder import CallDecoder
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.events import ProbeReceived, RequestCancelled, RequestReceived
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits, Tensor
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.updates import Dialler, FleetUpdates
from capamesh.router.fleet.view import FleetView
from capamesh.router.process.health_watch import JUDGE_EVERY_S
from capamesh.router.process.request_parts import RequestParts
from capamesh.router.rules.model_rules import RoutingRules
from capamesh.router.telemetry import Telemetry
from capamesh.router.timers import Timer, Timers


@dataclass(frozen=True)
class Move:
    """What a node does about one request."""

    after_s: float
    error: Callable[[], CapameshError] | None = None
    """None: it answers."""
    is_silent: bool = False
    """It does nothing."""
    is_end: bool = False
    """Its process ends."""


class NodeScript:
    """What one node does about its first request, its second, and so on, by a seed; and the load that it tells.

    No two times are the same, so that which of two things comes first hangs on nothing but them.
    """

    def __init__(self, seed: str, *, ends_at: int = 0) -> None:
        """Let the process end at its request of that number; 0: never."""
        self._rng = random.Random(seed)
        self._ends_at = ends_at
        self._came = 0
        self.in_flight = 0

    def move(self) -> Move:
        """Return what to do about the next request."""
        self._came += 1
        draw, after_s = self._rng.random(), self._rng.uniform(0.005, 0.06)
        if self._came == self._ends_at:
            return Move(after_s, is_end=True)
        if draw < 0.7:
            return Move(after_s)
        if draw < 0.8:
            return Move(after_s * 10)
        if draw < 0.88:
            return Move(after_s / 10, lambda: Overloaded("full", 0.03))
        if draw < 0.95:
            return Move(after_s, lambda: RunFailed("it did not work"))
        return Move(0.0, is_silent=True)

    def load(self) -> LoadReport:
        """Return the load of now."""
        run_us = 20_000 + self._rng.randrange(5_000)
        return LoadReport(self.in_flight, 0, 8, 0, run_us, 1 << 30, run_us, self.in_flight)


class ScriptedServer:
    """One node that acts by a script: what both worlds have at the end of a link."""

    def __init__(
        self,
        script: NodeScript,
        timers: Timers,
        *,
        respond: Callable[[int, bytes, Any], None],
        fail: Callable[[int, CapameshError], None],
        end: Callable[[], None],
    ) -> None:
        self.script = script
        self._timers = timers
        self._respond = respond
        self._fail = fail
        self._end = end
        self._calls = CallDecoder(Limits())
        self._under_way: dict[int, Timer | None] = {}

    def requested(self, stream: int, meta: bytes, body: Any) -> None:
        call, _ = self._calls.decode(meta, memoryview(body))
        assert isinstance(call, InferCall)
        move = self.script.move()
        self.script.in_flight += 1
        self._under_way[stream] = (
            None
            if move.is_silent
            else self._timers.call_later(move.after_s, lambda: self._act(stream, call, move))
        )

    def withdrawn(self, stream: int) -> None:
        if stream in self._under_way:
            self.script.in_flight -= 1
            timer = self._under_way.pop(stream)
            if timer is not None:
                timer.cancel()

    def stop(self) -> None:
        for stream in list(self._under_way):
            self.withdrawn(stream)

    def _act(self, stream: int, call: InferCall, move: Move) -> None:
        if move.is_end:
            self.stop()
            self._end()
            return
        del self._under_way[stream]
        self.script.in_flight -= 1
        if move.error is not None:
            self._fail(stream, move.error())
            return
        (x,) = call.inputs
        y = Tensor("y", x.datatype, x.shape, bytes(x.data))
        run_us = round(move.after_s * 1e6)
        answer = InferAnswer(call.version, (y,), 0, run_us, self.script.load())
        meta, (body,) = encode_answer(answer)
        self._respond(stream, meta, body)


class RealNode(Ends):
    """A real link in memory to a scripted node, on the running loop; what either says takes a time to come."""

    def __init__(self, script: NodeScript, way_s: float) -> None:
        super().__init__()
        self._way_s = way_s
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self.server = ScriptedServer(
            script,
            self._loop,
            respond=lambda stream, meta, body: self._say(self.peer.respond(stream, meta, [body])),
            fail=lambda stream, error: self._say(self.peer.fail(stream, error)),
            end=self._end,
        )
        self.transport = _Wire(self._carry)
        self.link.connection_made(self.transport)  # type: ignore[arg-type]  # all that a link asks of it

    def _carry(self, data: bytes) -> None:
        self._loop.call_later(self._way_s, self._arrived, data)

    def _arrived(self, data: bytes) -> None:
        if self._is_over:
            return
        self.transport.sent += data
        for event in self.read():
            match event:
                case RequestReceived(stream=stream, meta=meta, body=body):
                    self.server.requested(stream, meta, bytes(body))
                case RequestCancelled(stream=stream):
                    self.server.withdrawn(stream)
                case ProbeReceived(stream=stream):
                    self.peer.send_load(stream, encode_load(self.server.script.load()))
                case _:
                    pass
        self._say(True)

    def _say(self, _: object) -> None:
        data = b"".join(self.peer.take(1 << 20))
        if data:
            self._loop.call_later(self._way_s, self._told, data)

    def _told(self, data: bytes) -> None:
        while data and not self.transport.is_closed:
            buffer = self.link.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            data = data[count:]
            self.link.buffer_updated(count)

    def _end(self) -> None:
        self._is_over = True
        self._loop.call_later(self._way_s, self.lose)


class _Wire(Transport):
    """A transport that hands on what it is told to write."""

    def __init__(self, carry: Callable[[bytes], None]) -> None:
        super().__init__()
        self._carry = carry

    def write(self, data: bytes) -> None:
        self._carry(bytes(data))

    def writelines(self, parts: list[bytes]) -> None:
        self._carry(b"".join(parts))


class RealRouter(Dialler):
    """A router's parts on the running loop, with real links to scripted nodes. Made as a simulated router is."""

    def __init__(
        self,
        rules: RoutingRules,
        rng: random.Random,
        adverts: list[NodeAdvert],
        nodes: list[RealNode],
    ) -> None:
        loop = asyncio.get_running_loop()
        endpoints: list[Endpoint] = []
        fleet = FleetView(on_new=endpoints.append, on_gone=lambda _: None)
        self.telemetry = Telemetry()
        self.parts = parts = RequestParts(
            fleet,
            rules,
            clock=loop.time,
            timers=loop,
            rng=rng,
            counts=self.telemetry,
            do=lambda _, turn: turn(),
            on_verdict=lambda _: None,
            limits=DEFAULT_LIMITS,
        )
        log: Any = NullLog()
        updates = FleetUpdates(
            fleet,
            Overrides(),
            self,
            take=fleet.apply,
            on_changes=parts.routing.heard,
            clock=loop.time,
            log=log,
        )
        members = FleetMembership()
        for advert in adverts:
            updates.apply(members.heard(advert, loop.time()))
        for endpoint, node in zip(endpoints, nodes, strict=True):
            endpoint.link = node.link
            node.owner.on_down = lambda endpoint=endpoint: self._down(endpoint)  # type: ignore[misc]
            parts.watch.linked(endpoint)
        loop.call_later(JUDGE_EVERY_S * rng.random(), parts.watch.start)
        rng.random()  # a simulated router draws when it looks for silent members, too

    @override
    def hurry(self, endpoint: Endpoint, *, is_changed: bool) -> None: ...

    def _down(self, endpoint: Endpoint) -> None:
        endpoint.link = None
        self.parts.watch.unlinked(endpoint)
