"""The same scenario, once simulated and once on an event loop with real links: the attempts are the same."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import virtual_time
from fleet_fakes import Fleet, advert, offer
from link_ends import Ends, Transport
from link_wire import deliver

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.errors import CapameshError, Overloaded, RunFailed
from capamesh.protocol.links.call_decoder import CallDecoder
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.events import ProbeReceived, RequestCancelled, RequestReceived
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.process.health_watch import JUDGE_EVERY_S
from capamesh.router.requests.call import Handle, Outcome, Responder
from capamesh.router.requests.pipeline import Pipeline
from capamesh.router.rules.model_rules import ModelRules, RoutingRules
from capamesh.router.timers import Timer, Timers
from capamesh.simulation.events import Events
from capamesh.simulation.link import NodeEnd, SimLink
from capamesh.simulation.network import Network
from capamesh.simulation.request import CallForm
from capamesh.simulation.results import Recorder
from capamesh.simulation.router import SimRouter
from capamesh.simulation.scenario import (
    ModelSpec,
    NetworkSpec,
    NodeGroup,
    RegionPair,
    RequestKind,
    Scenario,
    service_profile,
)

REQUESTS = 150
GAP_S = 0.02
END_S = 6.0
KINDS = (
    RequestKind("online", "m", size_bytes=20),
    RequestKind("urgent", "m", priority=10),
    RequestKind("keyed", "m", keys=3),
)
NODES = ("a", "b", "c", "d")
"""By region: each at a distance of its own, so that nothing comes to two at the same moment."""
PAIRS = tuple(RegionPair("home", name, 0.001 + 0.000_37 * at) for at, name in enumerate(NODES))

Seen = list[tuple[str, float, list[tuple[str, int, float, str]]]]
"""Of each request: its outcome and when that came, and its attempts: the node, the number, when it was sent, its end."""


class Watched(Responder):
    """One request: notes its outcome, and then what became of its attempts."""

    handle: Handle | None = None
    outcome = ""
    ended_s = 0.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def complete(self, outcome: Outcome) -> None:
        self._end("ok")

    def fail(self, error: CapameshError) -> None:
        self._end(error.code)

    def _end(self, code: str) -> None:
        assert not self.outcome
        self.outcome, self.ended_s = code, self._clock()

    def told(self) -> tuple[str, float, list[tuple[str, int, float, str]]]:
        picker = self.handle.picker if self.handle is not None else None
        attempts = [] if picker is None else [_told(attempt) for attempt in picker.attempts]
        return self.outcome, round(self.ended_s, 6), attempts


def _told(attempt: Attempt) -> tuple[str, int, float, str]:
    end = attempt.record().outcome.partition(":")[0]
    return (attempt.replica.endpoint.peer, attempt.number, round(attempt.sent_s, 6), end)


class Load:
    """The requests of the scenario: the same, at the same moments, whoever takes them."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"load {seed}")
        self.moments: list[tuple[float, RequestKind, str]] = []
        at_s = 0.05
        for _ in range(REQUESTS):
            at_s += rng.expovariate(1 / GAP_S)
            kind = rng.choice(KINDS)
            key = f"key {rng.randrange(kind.keys)}" if kind.keys else ""
            self.moments.append((at_s, kind, key))
        self.watched: list[Watched] = []

    def send_to(
        self,
        pipeline: Pipeline,
        at: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
    ) -> None:
        for at_s, kind, key in self.moments:
            watched = Watched(clock)
            self.watched.append(watched)
            form = CallForm(kind)

            def come(watched: Watched = watched, form: CallForm = form, key: str = key) -> None:
                try:
                    watched.handle = pipeline.start(form.call(key, clock()), watched)
                except CapameshError as error:
                    watched.fail(error)

            at(at_s, come)

    def seen(self) -> Seen:
        return [watched.told() for watched in self.watched]


def adverts() -> list[NodeAdvert]:
    x, y = (TensorSpec(name, Datatype.UINT8, (-1, -1)) for name in "xy")
    model = replace(offer(), inputs=(x,), outputs=(y,))
    return [advert(name, f"{name}:1", models=(model,)) for name in NODES]


class ScriptedNode:
    """What one node does about its first request, its second, and so on, by a seed; and the load that it tells.

    No two times are the same, so that which of two things comes first hangs on nothing but them.
    """

    def __init__(
        self,
        seed: int,
        name: str,
        timers: Timers,
        *,
        respond: Callable[[int, bytes, Any], object],
        fail: Callable[[int, CapameshError], object],
        end: Callable[[], None],
    ) -> None:
        self._rng = random.Random(f"{seed} {name}")
        self._left = 20 if name == NODES[-1] else math.inf
        """The requests until its process ends."""
        self._timers = timers
        self._respond, self._fail, self._end = respond, fail, end
        self._calls = CallDecoder(Limits())
        self._under_way: dict[int, Timer | None] = {}

    def requested(self, stream: int, meta: bytes, body: Any) -> None:
        call, _ = self._calls.decode(meta, memoryview(body))
        assert isinstance(call, InferCall)
        draw, after_s = self._rng.random(), self._rng.uniform(0.005, 0.06)
        self._left -= 1
        self._under_way[stream] = None
        if self._left == 0:
            self._act(stream, after_s, self._ended)
        elif draw < 0.8:
            after_s *= 1 if draw < 0.7 else 10
            self._act(stream, after_s, lambda: self._answer(stream, call, after_s))
        elif draw < 0.88:
            self._act(stream, after_s / 10, lambda: self._fail(stream, Overloaded("full", 0.03)))
        elif draw < 0.95:
            error = RunFailed("it did not work")
            self._act(stream, after_s, lambda: self._fail(stream, error))

    def withdrawn(self, stream: int) -> None:
        timer = self._under_way.pop(stream, None)
        if timer is not None:
            timer.cancel()

    def load(self) -> LoadReport:
        run_us, in_flight = 20_000 + self._rng.randrange(5_000), len(self._under_way)
        return LoadReport(in_flight, 0, 8, 0, run_us, 1 << 30, run_us, in_flight)

    def _act(self, stream: int, after_s: float, act: Callable[[], object]) -> None:
        def now() -> None:
            del self._under_way[stream]
            act()

        self._under_way[stream] = self._timers.call_later(after_s, now)

    def _answer(self, stream: int, call: InferCall, after_s: float) -> None:
        (x,) = call.inputs
        y = Tensor("y", x.datatype, x.shape, bytes(x.data))
        run_us = round(after_s * 1e6)
        meta, (body,) = encode_answer(InferAnswer(call.version, (y,), 0, run_us, self.load()))
        self._respond(stream, meta, body)

    def _ended(self) -> None:
        for stream in list(self._under_way):
            self.withdrawn(stream)
        self._end()


class SimScripted(NodeEnd):
    """A scripted node at a simulated link."""

    process = b""

    def __init__(self, index: int, seed: int, events: Events) -> None:
        self.index = index
        self.group = NodeGroup(NODES[index], 1, region=NODES[index])
        self.is_up = True
        self.is_frozen = False
        self._seed = seed
        self._events = events

    def link_up(self, link: SimLink) -> None:
        def end() -> None:
            self.is_up = False
            link.close_at_node("the process ended")

        self._node = ScriptedNode(
            self._seed,
            self.group.name,
            self._events,
            respond=link.respond,
            fail=link.fail,
            end=end,
        )

    def link_down(self, link: SimLink) -> None:
        raise AssertionError("no link is given up here")

    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        if link.is_open:
            self._node.requested(stream, meta, body)

    def withdrawn(self, link: SimLink, stream: int) -> None:
        if link.is_open:
            self._node.withdrawn(stream)

    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        if link.is_open:
            link.report(stream, encode_load(self._node.load()))


class RealScripted(Ends):
    """A real link in memory to a scripted node, on the running loop; what either says takes a time to come."""

    def __init__(self, seed: int, pair: RegionPair) -> None:
        super().__init__()
        self._way_s = pair.one_way_s
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._node = ScriptedNode(
            seed,
            pair.b,
            self._loop,
            respond=lambda stream, meta, body: self._say(self.peer.respond(stream, meta, [body])),
            fail=lambda stream, error: self._say(self.peer.fail(stream, error)),
            end=self._end,
        )
        self.transport = Wire(self)
        self.link.connection_made(self.transport)  # type: ignore[arg-type]  # all that a link asks of it

    def carry(self, data: bytes) -> None:
        self._loop.call_later(self._way_s, self._arrived, data)

    def _arrived(self, data: bytes) -> None:
        if self._is_over:
            return
        self.transport.sent += data
        for event in self.read():
            match event:
                case RequestReceived(stream=stream, meta=meta, body=body):
                    self._node.requested(stream, meta, bytes(body))
                case RequestCancelled(stream=stream):
                    self._node.withdrawn(stream)
                case ProbeReceived(stream=stream):
                    self.peer.send_load(stream, encode_load(self._node.load()))
                case _:
                    pass
        self._say(True)

    def _say(self, _: object) -> None:
        data = b"".join(self.peer.take(1 << 20))
        if data:
            self._loop.call_later(self._way_s, self._told, data)

    def _told(self, data: bytes) -> None:
        if not self.transport.is_closed:
            deliver(self.link, data)

    def _end(self) -> None:
        self._is_over = True
        self._loop.call_later(self._way_s, self.lose)


class Wire(Transport):
    """Hands on what it is told to write."""

    def __init__(self, node: RealScripted) -> None:
        super().__init__()
        self._node = node

    def write(self, data: bytes) -> None:
        self._node.carry(bytes(data))

    def writelines(self, parts: list[bytes]) -> None:
        self._node.carry(b"".join(parts))


def simulated(policy: str, seed: int) -> Seen:
    """Return what becomes of the requests in a simulation."""
    events = Events()
    network = Network(NetworkSpec(jitter=0.0, pairs=PAIRS), events, random.Random(1))
    nodes = [SimScripted(index, seed, events) for index in range(len(NODES))]
    scenario = Scenario(
        name="scripted",
        title="Scripted nodes",
        duration_s=END_S,
        load=1.0,
        nodes=tuple(node.group for node in nodes),
        models=(ModelSpec("m", service_profile(((1, 0.02),))),),
        requests=KINDS,
    )
    by_peer: Any = dict(zip(NODES, nodes, strict=True))
    router = SimRouter(
        "home",
        by_peer,
        KINDS,
        RoutingRules(ModelRules(policy=policy)),
        has_gate=True,
        events=events,
        network=network,
        recorder=Recorder(scenario, events),
        rng=random.Random(seed),
    )
    router.start(adverts())
    load = Load(seed)
    load.send_to(router.parts.routing.pipeline, events.at, events.time)
    events.run_until(END_S)
    assert network.pending() == 0
    return load.seen()


def on_a_loop(policy: str, seed: int) -> Seen:
    """Return what becomes of them on an event loop, in virtual time, with real links."""

    async def scenario() -> Seen:
        loop = asyncio.get_running_loop()
        rng = random.Random(seed)
        fleet = Fleet(policy=policy, rng=rng)
        for told in adverts():
            fleet.hear(told)
        watch = fleet.core.watch
        nodes = [RealScripted(seed, pair) for pair in PAIRS]
        for endpoint, node in zip(fleet.endpoints, nodes, strict=True):

            def down(endpoint: Endpoint = endpoint) -> None:
                endpoint.link = None
                watch.unlinked(endpoint)

            endpoint.link = node.link
            node.owner.on_down = down
            watch.linked(endpoint)
        loop.call_later(JUDGE_EVERY_S * rng.random(), watch.start)
        rng.random()  # a simulated router draws when it looks for silent members, too
        load = Load(seed)
        load.send_to(fleet.routing.pipeline, loop.call_at, loop.time)
        await asyncio.sleep(END_S - loop.time())
        assert all(node.is_idle for node in nodes)
        watch.close()
        return load.seen()

    return virtual_time.run(scenario())


@pytest.mark.parametrize("seed", [2, 4])
@pytest.mark.parametrize("policy", ["prequal", "p2c", "peak-ewma"])
def test_scenario_has_the_same_attempts_simulated_and_on_an_event_loop(
    policy: str, seed: int
) -> None:
    one, other = simulated(policy, seed), on_a_loop(policy, seed)
    for number, (here, there) in enumerate(zip(one, other, strict=True)):
        assert here == there, f"request {number}"
    ends = {end for _, _, attempts in one for *_, end in attempts}
    assert {"answered", "withdrawn", "overloaded", "run_failed", "link_lost"} <= ends
    assert any(len(attempts) > 1 for _, _, attempts in one)
