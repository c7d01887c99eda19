"""Looks after the health of all nodes as time goes by: asks failed ones for a sign of life, and judges outliers. IO: asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.routing import Routing
    from capamesh.router.supervision import Supervisor

REPROBE_EVERY_S = 0.05
"""Replicas that failed may be asked for a sign of life so often (guess: the first is due after as long)."""
JUDGE_EVERY_S = 1.0
"""Replicas are compared with one another so often (guess: half the time in which an outlier is found)."""


class HealthWatch:
    """The watch over the endpoints of one router."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        prober: Prober,
        routing: Routing,
        supervisor: Supervisor,
        log: FilteringBoundLogger,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self._prober = prober
        self._routing = routing
        self._supervisor = supervisor
        self._log = log
        self._clock = clock

    def linked(self, endpoint: Endpoint) -> None:
        """Learn of a node that can be reached now how busy it is, and how far away."""
        self._balancer.linked(endpoint, self._clock())
        self._routing.reached(endpoint.peer)
        self._prober.ask(self._fleet.replicas_at(endpoint))

    def unlinked(self, endpoint: Endpoint) -> None:
        """Take in that a node cannot be reached any more."""
        self._balancer.unlinked(endpoint, self._clock())

    async def run(self) -> None:
        """Watch until cancelled; probes that are under way then end."""
        judged_s = self._clock()
        try:
            while True:
                await asyncio.sleep(REPROBE_EVERY_S)
                self._supervisor.do("reprobe", self._reprobe)
                if self._clock() - judged_s >= JUDGE_EVERY_S:
                    judged_s = self._clock()
                    self._supervisor.do("judge", self._judge)
        finally:
            self._prober.close()

    def _reprobe(self) -> None:
        due = self._balancer.reprobes(self._clock())
        if due:
            self._prober.ask(due)

    def _judge(self) -> None:
        self._routing.tick()
        for verdict in self._balancer.tick(self._clock()):
            self._log.info(
                f"node_{type(verdict).__name__.lower()}",
                peer=verdict.peer,
                address=verdict.address,
                model=verdict.model,
                version=verdict.version,
                reason=verdict.reason,
            )
