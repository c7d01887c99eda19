"""The parts of one router that its requests go through, and how they hold together. Pure: links, time and chance are given."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.prober import Prober
from capamesh.router.policies import make_policy
from capamesh.router.process.health_watch import DoTurn, HealthWatch
from capamesh.router.requests.dispatch import Dispatch
from capamesh.router.requests.routing import Routing

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.tensors import Limits
    from capamesh.router.balancing.unhealthy import Verdict
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.rules.model_rules import RoutingRules
    from capamesh.router.telemetry import AttemptCounts
    from capamesh.router.timers import Timers


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The surroundings of the parts: a process has a real clock and an event loop, a simulation its own."""

    clock: Callable[[], float]
    """Returns the time in seconds; it never goes backwards."""
    timers: Timers
    """The timers, which go by the same clock."""
    rng: random.Random
    counts: AttemptCounts
    do: DoTurn
    """Does the turns of the watch over the nodes' health."""
    on_verdict: Callable[[Verdict], None]
    """Is told what becomes of the nodes' health."""


class RequestParts:
    """The parts with which one router sends requests to its nodes."""

    def __init__(
        self,
        fleet: FleetView,
        rules: RoutingRules,
        around: Surroundings,
        *,
        limits: Limits,
        invite_of: Callable[[PeerId], str] = lambda _: "",
        is_limited: bool = True,
    ) -> None:
        """`invite_of` tells which invite admitted a node. Not `is_limited`: requests are let in however full those are."""
        clock, timers, rng = around.clock, around.timers, around.rng
        self.balancer = Balancer(
            fleet,
            make_policy=make_policy,
            rng=rng,
            rules=rules,
            invite_of=invite_of,
            is_limited=is_limited,
        )
        self.prober = Prober(self.balancer, clock=clock, timers=timers)
        dispatch = Dispatch(
            self.prober, clock=clock, timers=timers, limits=limits, counts=around.counts
        )
        self.routing = Routing(
            fleet, self.balancer, dispatch, rules, rng=rng, clock=clock, timers=timers
        )
        self.watch = HealthWatch(
            fleet,
            self.balancer,
            self.prober,
            self.routing,
            do=around.do,
            on_verdict=around.on_verdict,
            clock=clock,
            timers=timers,
        )

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on."""
        self.balancer.take_rules(rules)
        self.routing.take_rules(rules)
