"""A refusal never outlives its cause: fleets in virtual time, after what once filled them is over, for every policy.

All wires end in one pipeline, which is what is asked here: nothing of a wire takes part in a refusal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.policies import POLICIES
from capamesh.router.requests.call import Handle, Outcome, Responder
from capamesh.simulation.request import CallForm
from capamesh.simulation.run import SimFleet
from capamesh.simulation.scenario import (
    ModelSpec,
    NodeGroup,
    RequestKind,
    Scenario,
    service_profile,
)

RUN_S = 0.02
HEALED_S = 1.0
"""Within this a model that nothing is wrong with answers again."""
ENDS_S = 6.0
EVERY_S = 0.05
SHORT_S, LONG_S = 0.25, 600.0
"""The time that callers allow: twelve runs, and that of a language model's callers."""
QUIET = Scenario(
    name="quiet",
    title="Nobody asks but the test",
    duration_s=100.0,
    load=1e-9,
    nodes=(NodeGroup("n", 1, noise=0.0),),
    models=(ModelSpec("m", service_profile(((1, RUN_S),))),),
    requests=(RequestKind("r", "m", deadline_s=1.0),),
)


class Caller(Responder):
    """One request, as whoever sent it sees it."""

    def __init__(self, fleet: Fleet, allowed_s: float) -> None:
        self.ended = ""
        self.ended_s = 0.0
        self._fleet = fleet
        self._handle: Handle | None = None
        now_s = fleet.now_s
        kind = RequestKind("r", "m", deadline_s=allowed_s)
        try:
            self._handle = fleet.router._pipeline.start(CallForm(kind).call("", now_s), self)
        except CapameshError as error:
            self.fail(error)

    def complete(self, outcome: Outcome) -> None:
        self._end("ok")

    def fail(self, error: CapameshError) -> None:
        self._end(error.code)

    def leave(self) -> None:
        if not self.ended and self._handle is not None:
            self._handle.cancel()

    def _end(self, how: str) -> None:
        self.ended, self.ended_s = how, self._fleet.now_s


class Fleet:
    """One router and its nodes, of which nothing is asked but by the test."""

    def __init__(self, policy: str, nodes: int, run_s: float = RUN_S) -> None:
        groups = (NodeGroup("n", nodes, noise=0.0),)
        models = (ModelSpec("m", service_profile(((1, run_s),))),)
        self._sim = SimFleet(replace(QUIET, nodes=groups, models=models), policy=policy, seed=1)
        self.router = self._sim.routers[0]
        self.nodes = self._sim.nodes
        self.until(0.1)
        for _ in range(3 * nodes):  # they have all answered, and told their load
            Caller(self, 1.0)
        self.until(2.0)

    @property
    def now_s(self) -> float:
        return self._sim.events.now_s

    def until(self, at_s: float) -> None:
        self._sim.events.run_until(at_s)

    def ask(self, allowed_s: float) -> Caller:
        return Caller(self, allowed_s)

    def ask_until(self, end_s: float, allowed_s: float, every_s: float = EVERY_S) -> list[Caller]:
        callers = []
        while self.now_s < end_s:
            callers.append(self.ask(allowed_s))
            self.until(self.now_s + every_s)
        return callers

    def end(self) -> None:
        """Let all end: nothing may be left of anybody."""
        self.until(self.now_s + 30.0)
        self._sim.finish()


def crowd_that_leaves(fleet: Fleet) -> None:
    """Callers for more than the nodes let in, with all the time in the world, who leave when it ends."""
    callers = [fleet.ask(LONG_S) for _ in range(300 * len(fleet.nodes))]
    fleet.until(ENDS_S)
    for caller in callers:
        caller.leave()


def overload(fleet: Fleet) -> None:
    """Four times what the nodes can do, whose callers allow little time, until it ends."""
    fleet.ask_until(ENDS_S, SHORT_S, RUN_S / len(fleet.nodes) / 4)


def freeze(fleet: Fleet) -> None:
    """All nodes stand still while callers come."""
    for node in fleet.nodes:
        node.freeze()
    fleet.ask_until(ENDS_S, SHORT_S)
    for node in fleet.nodes:
        node.thaw()


def lie(fleet: Fleet) -> None:
    """All nodes say that a request would wait for minutes, as those do whose answers may be long."""

    def full(load: LoadReport) -> LoadReport:
        return load._replace(in_flight=66, queue_us=472_858_000, latency_us=472_858_000)

    for node in fleet.nodes:
        node._said = full  # type: ignore[method-assign]
    fleet.ask_until(ENDS_S, LONG_S)
    for node in fleet.nodes:
        del node._said


def lie_that_nobody_heard_the_end_of(fleet: Fleet) -> None:
    """As `lie`, but the last caller comes long before it ends."""
    lie(fleet)
    fleet.until(ENDS_S + 20.0)


CAUSES = (crowd_that_leaves, overload, freeze, lie, lie_that_nobody_heard_the_end_of)


@pytest.mark.seeds
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_model_is_answered_within_a_second_after_what_filled_it_is_over(
    policy: str, cause: Callable[[Fleet], None], nodes: int
) -> None:
    for allowed_s in (SHORT_S, LONG_S):
        fleet = Fleet(policy, nodes)
        cause(fleet)
        ended_s = fleet.now_s
        callers = fleet.ask_until(ended_s + HEALED_S, allowed_s)
        answered_s = [each.ended_s - ended_s for each in callers if each.ended == "ok"]
        assert answered_s, {each.ended for each in callers}
        assert min(answered_s) <= HEALED_S
        # and from then on
        fleet.until(ended_s + HEALED_S + 1.0)
        last = [fleet.ask(allowed_s) for _ in range(3)]
        fleet.end()
        assert [each.ended for each in last] == ["ok"] * 3


@pytest.mark.parametrize(("run_s", "answered"), [(0.000_03, 1500), (0.02, 100)])
def test_burst_is_answered_as_far_as_it_is_done_in_time(run_s: float, answered: int) -> None:
    fleet = Fleet("p2c", 1, run_s)
    callers = [fleet.ask(2.0) for _ in range(1500)]
    fleet.end()
    ended = Counter(each.ended for each in callers)
    assert answered * 0.9 <= ended["ok"] <= answered
    assert ended["overloaded"] >= 0.99 * (1500 - answered)  # and early


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_first_request_that_comes_a_moment_after_that_is_answered(
    policy: str, cause: Callable[[Fleet], None]
) -> None:
    fleet = Fleet(policy, nodes=2)
    cause(fleet)
    fleet.until(fleet.now_s + 0.25)
    first = fleet.ask(LONG_S)
    fleet.end()
    assert first.ended == "ok"
