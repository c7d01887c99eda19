"""When requests come and when things go wrong."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from capamesh.simulation.arrivals import Arrivals
from capamesh.simulation.events import Events
from capamesh.simulation.faults import Faults
from capamesh.simulation.scenario import Antagonist, Fault, FaultKind, RequestKind, Rhythm

KINDS = (
    RequestKind("a", "m", share=3.0),
    RequestKind("b", "m", keys=4),
    RequestKind("c", "m", share=0.0),
)


def arrived(seed: int, *, factor: float = 1.0) -> list[tuple[float, str, str]]:
    events, seen = Events(), []
    arrivals = Arrivals(
        KINDS,
        1000.0,
        5.0,
        events=events,
        rng=random.Random(seed),
        arrive=lambda kind, key: seen.append((events.now_s, kind.name, key)),
    )
    arrivals.factor = factor
    arrivals.start()
    events.run_until()
    return seen


def test_requests_come_at_the_rate_and_in_the_shares_that_were_asked_for() -> None:
    seen = arrived(1)
    assert 4800 < len(seen) < 5200  # a Poisson count of mean 5,000 has a deviation of 71
    names = Counter(name for _, name, _ in seen)
    assert 0.73 < names["a"] / len(seen) < 0.77
    assert "c" not in names
    assert {key for _, name, key in seen if name == "b"} == {"b-0", "b-1", "b-2", "b-3"}
    assert max(at_s for at_s, _, _ in seen) < 5.0
    assert 9_700 < len(arrived(1, factor=2.0)) < 10_300  # a surge is more of the same
    assert arrived(3) == arrived(3) != arrived(4)


class FakeNode(SimpleNamespace):
    """Writes down what befalls it."""

    def __init__(self, events: Events) -> None:
        super().__init__(antagonist_factor=1.0, slow_factor=1.0, error_share=0.0, log=[])
        self.events = events
        for what in ("freeze", "thaw", "kill", "start"):
            setattr(self, what, partial(self.note, what))

    def note(self, what: str) -> None:
        self.log.append((self.events.now_s, what))

    def drain(self, drained: Any) -> None:
        self.note("drain")
        self.events.at(self.events.now_s + 0.5, drained)

    def recover(self, kind: FaultKind) -> None:
        self.note(f"over {kind}")


def befallen(*faults: Fault, count: int = 2) -> list[FakeNode]:
    events = Events()
    nodes = [FakeNode(events) for _ in range(count)]
    Faults(events, nodes, None, [], until_s=100.0).plan(faults)  # type: ignore[arg-type]
    events.run_until()
    return nodes


def test_faults_begin_and_end_at_those_they_befall() -> None:
    first, second = befallen(
        Fault(FaultKind.FREEZE, 1.0, 2.0, nodes=(0,)),
        Fault(FaultKind.KILL, 5.0, 3.0, nodes=(1,)),
        Fault(FaultKind.ERRORS, 6.0, 1.0, nodes=(0,), share=0.25),
        Fault(FaultKind.KILL, 100.0, nodes=(0,)),  # too late
    )
    assert first.log == [(1.0, "freeze"), (3.0, "thaw"), (7.0, "over errors")]
    assert first.error_share == 0.25
    assert second.log == [(5.0, "kill"), (8.0, "start")]
    # one node after the other
    nodes = befallen(Fault(FaultKind.RESTART, 1.0, 2.0, nodes="all", stagger_s=4.0))
    for node, at_s in zip(nodes, (1.0, 5.0), strict=True):
        assert node.log == [(at_s, "drain"), (at_s + 0.5, "kill"), (at_s + 2.5, "start")]


@pytest.mark.parametrize("rhythm", list(Rhythm))
def test_antagonist_is_there_for_its_share_of_the_time_at_its_share_of_the_nodes(
    rhythm: Rhythm,
) -> None:
    events = Events()
    nodes = [FakeNode(events) for _ in range(200)]
    faults = Faults(events, nodes, None, [], until_s=50.0)  # type: ignore[arg-type]
    antagonist = Antagonist(rhythm=rhythm, factor=3.0, period_s=2.0, share=0.25, nodes_share=0.5)
    for number, node in enumerate(nodes):
        faults.plague(node, antagonist, random.Random(number))  # type: ignore[arg-type]
    slowed, met = 0, set()
    for step in range(200):
        events.run_until(step / 4)
        there = [n for n, node in enumerate(nodes) if node.antagonist_factor == 3.0]
        slowed += len(there)
        met |= set(there)
    events.run_until()
    assert len(events) == 0
    assert 80 < len(met) < 120
    assert 0.22 < slowed / 200 / len(met) < 0.28
