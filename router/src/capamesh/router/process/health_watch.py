"""Looks after the health of all nodes as time goes by: asks failed ones for a sign of life, and judges outliers. IO: links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.balancing.unhealthy import Verdict
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.routing import Routing
    from capamesh.router.timers import Timer, Timers

REPROBE_EVERY_S = 0.05
"""Replicas that failed may be asked for a sign of life so often (guess: the first is due after as long)."""
JUDGE_EVERY_S = 1.0
"""Replicas are compared with one another so often (guess: half the time in which an outlier is found)."""

DoTurn = Callable[[str, Callable[[], None]], None]
"""Does one turn of the loop of that name. A turn that it lets crash is the last."""


class HealthWatch:
    """The watch over the endpoints of one router."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        prober: Prober,
        routing: Routing,
        *,
        do: DoTurn,
        on_verdict: Callable[[Verdict], None],
        clock: Callable[[], float],
        timers: Timers,
    ) -> None:
        """`on_verdict` is told what becomes of the nodes' health."""
        self._fleet = fleet
        self._balancer = balancer
        self._prober = prober
        self._routing = routing
        self._do = do
        self._on_verdict = on_verdict
        self._clock = clock
        self._timers = timers
        self._judged_s = 0.0
        self._timer: Timer | None = None
        """The timer of the next look; None while it does not watch."""

    def linked(self, endpoint: Endpoint) -> None:
        """Learn of a node that can be reached now how busy it is, and how far away."""
        self._balancer.linked(endpoint, self._clock())
        self._routing.reached(endpoint.peer)
        self._prober.ask(self._fleet.replicas_at(endpoint))

    def unlinked(self, endpoint: Endpoint) -> None:
        """Take in that a node cannot be reached any more."""
        self._balancer.unlinked(endpoint, self._clock())

    def start(self) -> None:
        """Watch until `close`."""
        self._judged_s = self._clock()
        self._timer = self._timers.call_later(REPROBE_EVERY_S, self._turn)

    def close(self) -> None:
        """Watch no more; probes that are under way end. Nothing happens when it does not watch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._prober.close()

    def _turn(self) -> None:
        self._do("reprobe", self._reprobe)
        if self._clock() - self._judged_s >= JUDGE_EVERY_S:
            self._judged_s = self._clock()
            self._do("judge", self._judge)
        self._timer = self._timers.call_later(REPROBE_EVERY_S, self._turn)

    def _reprobe(self) -> None:
        due = self._balancer.reprobes(self._clock())
        if due:
            self._prober.ask(due)

    def _judge(self) -> None:
        self._routing.tick()
        for verdict in self._balancer.tick(self._clock()):
            self._on_verdict(verdict)
