"""The parts of one router that its requests go through, and how they hold together. Pure: links, time and chance are given."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.prober import Prober
from capamesh.router.cache.store import DEFAULT_CACHE_BYTES
from capamesh.router.policies import make_policy
from capamesh.router.process.health_watch import DoTurn, HealthWatch
from capamesh.router.requests.dispatch import Dispatch
from capamesh.router.requests.repeated_calls import MOST_BYTES, RepeatedCalls
from capamesh.router.requests.routing import Routing

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.tensors import Limits
    from capamesh.router.balancing.unhealthy import Verdict
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.policies.policy import MakePolicy
    from capamesh.router.rules.model_rules import RoutingRules
    from capamesh.router.telemetry import AttemptCounts
    from capamesh.router.timers import Timers


class RequestParts:
    """The parts with which one router sends requests to its nodes."""

    def __init__(
        self,
        fleet: FleetView,
        rules: RoutingRules,
        *,
        clock: Callable[[], float],
        timers: Timers,
        rng: random.Random,
        counts: AttemptCounts,
        do: DoTurn,
        on_verdict: Callable[[Verdict], None],
        limits: Limits,
        invite_of: Callable[[PeerId], str] = lambda _: "",
        is_limited: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        workers: int = 1,
        make_policy: MakePolicy = make_policy,
    ) -> None:
        """`clock` returns seconds and never goes backwards; `timers` go by it, those of a process or of a simulation.

        `do` does the turns of the watch over the nodes' health, and `on_verdict` is told what becomes of that.
        `invite_of` tells which invite admitted a node. Not `is_limited`: requests are let in however full nodes are.
        `cache_bytes` is the most memory for kept answers. `workers` are the processes that share what is for idempotency keys.
        """
        self.balancer = Balancer(
            fleet,
            make_policy=make_policy,
            rng=rng,
            rules=rules,
            invite_of=invite_of,
            is_limited=is_limited,
        )
        self.prober = Prober(self.balancer, clock=clock, timers=timers)
        self.dispatch = Dispatch(
            self.prober, clock=clock, timers=timers, limits=limits, counts=counts
        )
        self.routing = Routing(
            fleet,
            self.balancer,
            self.dispatch,
            rules,
            rng=rng,
            clock=clock,
            timers=timers,
            cache_bytes=cache_bytes,
        )
        self.repeated = RepeatedCalls(clock=clock, timers=timers, most_bytes=MOST_BYTES // workers)
        self.watch = HealthWatch(
            fleet,
            self.balancer,
            self.prober,
            self.routing,
            do=do,
            on_verdict=on_verdict,
            clock=clock,
            timers=timers,
        )

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on."""
        self.balancer.take_rules(rules)
        self.routing.take_rules(rules)
