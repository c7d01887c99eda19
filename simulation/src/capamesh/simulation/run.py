"""Builds a fleet out of a scenario, lets its time pass, and returns what came of it. Pure, seeded.

The same scenario, policy and seed give the same results, whatever the machine: each node, router and stream of
requests has a random source of its own. With another policy, the same requests come at the same moments.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.simulation.arrivals import Arrivals
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.events import Events
from capamesh.simulation.faults import Faults
from capamesh.simulation.network import Network
from capamesh.simulation.node import SimNode
from capamesh.simulation.results import Recorder, Results
from capamesh.simulation.router import SimRouter
from capamesh.simulation.rules import rules_of

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.simulation.scenario import Scenario

STEPS = 100
"""The number of times that progress is told."""
STEP_S = 0.1
"""Seconds to which the end of the last request is found."""


def simulate(
    scenario: Scenario,
    *,
    policy: str,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Results:
    """Return what comes of `scenario`; `progress` is told the part that is done, 1 at the end.

    Raises `ConfigError` for an unknown policy, `InvariantBroken` when something is left over at the end.
    """
    fleet = SimFleet(scenario, policy=policy, seed=seed)
    for step in range(1, STEPS + 1):
        fleet.events.run_until(scenario.duration_s * step / STEPS)
        if progress is not None:
            progress(step / STEPS)
    return fleet.finish()


class SimFleet:
    """Everything of one simulation."""

    def __init__(self, scenario: Scenario, *, policy: str, seed: int) -> None:
        self.scenario = scenario
        self.events = Events()
        self.recorder = Recorder(scenario, self.events)
        self._policy = policy
        self._seed = seed
        self.network = Network(scenario.network, self.events, self._rng("network"))
        self.nodes = [
            SimNode(
                index,
                group,
                scenario.models,
                self.events,
                self._rng(f"node {index}"),
                fleet_size=scenario.node_count,
                publish=self._published,
            )
            for index, group in enumerate(
                group for group in scenario.nodes for _ in range(group.count)
            )
        ]
        by_peer = {node.peer: node for node in self.nodes}
        rules = rules_of(scenario, policy)
        self.routers = [
            SimRouter(
                scenario.regions[index % len(scenario.regions)],
                by_peer,
                scenario.requests,
                rules,
                has_gate=scenario.has_gate,
                events=self.events,
                network=self.network,
                recorder=self.recorder,
                rng=self._rng(f"router {index}"),
            )
            for index in range(scenario.routers)
        ]
        adverts = [node.advert() for node in self.nodes]
        for node in self.nodes:
            node.advertise_later()
        self._arrivals: list[Arrivals] = []
        for index, router in enumerate(self.routers):
            router.start(adverts)
            arrivals = Arrivals(
                scenario.requests,
                scenario.arrivals_per_s / scenario.routers,
                scenario.duration_s,
                events=self.events,
                rng=self._rng(f"arrivals {index}"),
                arrive=router.request,
            )
            arrivals.start()
            self._arrivals.append(arrivals)
        faults = Faults(
            self.events,
            self.nodes,
            self.network,
            self._arrivals,
            until_s=scenario.duration_s,
        )
        faults.plan(scenario.faults)
        for node in self.nodes:
            if node.group.antagonist is not None:
                rng = self._rng(f"antagonist {node.index}")
                faults.plague(node, node.group.antagonist, rng)

    @override
    def __repr__(self) -> str:
        return f"SimFleet({self.scenario.name!r}, {self._policy!r}, seed {self._seed}, {self.events!r})"

    def finish(self) -> Results:
        """Let everything that is under way end, check that it has, and return the results."""
        last_s = self.scenario.duration_s + max(kind.deadline_s for kind in self.scenario.requests)
        while self.recorder.open and self.events.now_s <= last_s:
            self.events.run_until(self.events.now_s + STEP_S)
        for node in self.nodes:
            node.fall_mute()
        for router in self.routers:
            router.close()
        self.network.stop()
        self.events.run_until()
        self._check_over()
        return self.recorder.results(self._policy, self._seed, self.events.ran)

    def _check_over(self) -> None:
        """Raise `InvariantBroken` unless each request has its one outcome and nothing of any is left."""
        counters = {
            "requests without an outcome": self.recorder.open,
            "events to come": len(self.events),
            "requests pending at links": self.network.pending(),
        }
        for index, router in enumerate(self.routers):
            counters |= {f"{name}, router {index}": n for name, n in router.counters().items()}
        counters |= {f"in flight at {node!r}": node.device_in_flight() for node in self.nodes}
        left = [f"{name}: {count}" for name, count in counters.items() if count]
        if left:
            raise InvariantBroken(
                f"at the end there must be none, but there are {'; '.join(left[:8])}"
            )

    def _published(self, advert: NodeAdvert) -> None:
        due_s = self.events.now_s + self.scenario.network.gossip_s
        for router in self.routers:
            self.events.at(due_s, router.heard, advert)

    def _rng(self, of: str) -> random.Random:
        return random.Random(f"{self._seed}/{of}")  # noqa: S311 - a simulation has no secrets
