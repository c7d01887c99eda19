"""The same scenario, once simulated and once on an event loop with real links: the attempts are the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import virtual_time
from fleet_fakes import advert, offer
from scripted_nodes import NodeScript, RealNode, RealRouter, ScriptedServer

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import encode_load
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.tensors import Datatype, TensorSpec
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.requests.call import Handle, Outcome, Responder
from capamesh.router.requests.pipeline import Pipeline
from capamesh.router.rules.model_rules import ModelRules, RoutingRules
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


def rules(policy: str) -> RoutingRules:
    return RoutingRules(ModelRules(policy=policy))


def adverts() -> list[NodeAdvert]:
    x, y = (TensorSpec(name, Datatype.UINT8, (-1, -1)) for name in "xy")
    model = replace(offer(), inputs=(x,), outputs=(y,))
    return [advert(name, f"{name}:1", models=(model,)) for name in NODES]


def scripts(seed: int) -> list[NodeScript]:
    """Return what the nodes do; the process of the last ends while it has its twentieth request."""
    return [NodeScript(f"{seed} {name}", ends_at=20 if name == NODES[-1] else 0) for name in NODES]


class SimScripted(NodeEnd):
    """A scripted node at a simulated link."""

    is_up = True
    is_frozen = False

    def __init__(self, index: int, script: NodeScript, events: Events) -> None:
        self.index = index
        self.group = NodeGroup(NODES[index], 1, region=NODES[index])
        self._script = script
        self._events = events
        self._server: ScriptedServer

    def link_up(self, link: SimLink) -> None:
        def end() -> None:
            self.is_up = False
            link.close_at_node("the process ended")

        self._server = ScriptedServer(
            self._script, self._events, respond=link.respond, fail=link.fail, end=end
        )

    def link_down(self, link: SimLink) -> None:
        raise AssertionError("no link is given up here")

    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        if link.is_open:
            self._server.requested(stream, meta, body)

    def withdrawn(self, link: SimLink, stream: int) -> None:
        if link.is_open:
            self._server.withdrawn(stream)

    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        if link.is_open:
            link.report(stream, encode_load(self._script.load()))


def simulated(policy: str, seed: int) -> Seen:
    """Return what becomes of the requests in a simulation."""
    events = Events()
    network = Network(NetworkSpec(jitter=0.0, pairs=PAIRS), events, random.Random(1))
    nodes = [SimScripted(index, script, events) for index, script in enumerate(scripts(seed))]
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
        rules(policy),
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
        pairs = zip(scripts(seed), PAIRS, strict=True)
        nodes = [RealNode(script, pair.one_way_s) for script, pair in pairs]
        router = RealRouter(rules(policy), random.Random(seed), adverts(), nodes)
        load = Load(seed)
        load.send_to(router.parts.routing.pipeline, loop.call_at, loop.time)
        await asyncio.sleep(END_S - loop.time())
        assert all(node.is_idle for node in nodes)
        router.parts.watch.close()
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
