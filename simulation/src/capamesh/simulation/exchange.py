"""What is under way: a request at a router, one attempt of it at a node, a probe. Pure; made for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.node.scheduling import PendingRequest
    from capamesh.router.admission.controller import Permit
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.requests.attempts import RequestAttempts
    from capamesh.simulation.events import Timer
    from capamesh.simulation.model import SimModel
    from capamesh.simulation.network import SimLink
    from capamesh.simulation.scenario import RequestKind


class SimRequest:
    """A caller's request at its router. Compared by identity."""

    __slots__ = (
        "arrived_s",
        "attempts",
        "exchanges",
        "is_over",
        "kind",
        "permit",
        "timer",
        "timer_s",
    )

    def __init__(
        self,
        kind: RequestKind,
        arrived_s: float,
        attempts: RequestAttempts,
        permit: Permit | None = None,
    ) -> None:
        self.kind = kind
        self.arrived_s = arrived_s
        self.attempts = attempts
        self.permit = permit
        """To be released at the end; None: it was let in unasked."""
        self.is_over = False
        self.exchanges: list[Exchange] = []
        """By attempt, in the order in which they were sent."""
        self.timer: Timer | None = None
        self.timer_s = 0.0

    def __repr__(self) -> str:
        return f"SimRequest({self.kind.name!r}, {len(self.exchanges)} attempts)"


class Exchange:
    """One attempt: a request on a link and in a node. Compared by identity."""

    __slots__ = ("attempt", "budget_s", "link", "model", "replica", "request", "work")

    def __init__(
        self, request: SimRequest, attempt: int, replica: Replica, link: SimLink, budget_s: float
    ) -> None:
        self.request = request
        self.attempt = attempt
        self.replica = replica
        self.link = link
        self.budget_s = budget_s
        self.work: PendingRequest | None = None
        """At the node, from its acceptance on."""
        self.model: SimModel | None = None

    def __repr__(self) -> str:
        return f"Exchange({self.request!r}, attempt {self.attempt})"


class Probe:
    """A router's question for a load. Compared by identity."""

    __slots__ = ("is_over", "link", "replica", "sent_s")

    def __init__(self, replica: Replica, link: SimLink, sent_s: float) -> None:
        self.replica = replica
        self.link = link
        self.sent_s = sent_s
        self.is_over = False

    def __repr__(self) -> str:
        return f"Probe({self.replica!r})"
