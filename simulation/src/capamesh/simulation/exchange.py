"""What is under way: a request at a router, one attempt of it at a node, a probe. Pure; made for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.node.scheduling import Work
    from capamesh.router.fleet.replica import Host
    from capamesh.router.requests.attempts import Flight
    from capamesh.simulation.events import Timer
    from capamesh.simulation.model import SimModel
    from capamesh.simulation.network import SimLink
    from capamesh.simulation.scenario import RequestKind


class SimRequest:
    """A caller's request at its router. Compared by identity."""

    __slots__ = ("arrived_s", "exchanges", "flight", "is_over", "kind", "timer", "timer_s")

    def __init__(self, kind: RequestKind, arrived_s: float, flight: Flight) -> None:
        self.kind = kind
        self.arrived_s = arrived_s
        self.flight = flight
        self.is_over = False
        self.exchanges: list[Exchange] = []
        """By attempt, in the order in which they were sent."""
        self.timer: Timer | None = None
        self.timer_s = 0.0

    def __repr__(self) -> str:
        return f"SimRequest({self.kind.name!r}, {len(self.exchanges)} attempts)"


class Exchange:
    """One attempt: a request on a link and in a node. Compared by identity."""

    __slots__ = ("attempt", "budget_s", "host", "link", "model", "request", "work")

    def __init__(
        self, request: SimRequest, attempt: int, host: Host, link: SimLink, budget_s: float
    ) -> None:
        self.request = request
        self.attempt = attempt
        self.host = host
        self.link = link
        self.budget_s = budget_s
        self.work: Work | None = None
        """At the node, from its acceptance on."""
        self.model: SimModel | None = None

    def __repr__(self) -> str:
        return f"Exchange({self.request!r}, attempt {self.attempt})"


class Probe:
    """A router's question for a load. Compared by identity."""

    __slots__ = ("host", "is_over", "link", "sent_s")

    def __init__(self, host: Host, link: SimLink, sent_s: float) -> None:
        self.host = host
        self.link = link
        self.sent_s = sent_s
        self.is_over = False

    def __repr__(self) -> str:
        return f"Probe({self.host!r})"
