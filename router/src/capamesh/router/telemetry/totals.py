"""The requests of a router that have ended, as plain numbers: each answer adds to some of them, and a scrape sums them up. Pure."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.router.telemetry.metrics import LATENCY

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName

MOST_TENANTS: Final = 200
"""This many tenants have series of their own, those that came first (guess: as models)."""
OTHERS: Final = "(others)"
"""The label of all that have no series of their own; neither a model nor a node can be called so."""
_BOUNDS: Final = LATENCY.bounds


class Latencies:
    """The requests of one model and wire that were answered well: an answer adds to two of the numbers."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        """The count of each bucket alone; the last is of what is beyond all."""
        self.seconds = 0.0

    def add(self, other: Latencies) -> None:
        """Take in the requests of another model."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


class TenantRequests:
    """One tenant's requests that have ended."""

    __slots__ = ("answered", "failed", "seconds")

    def __init__(self) -> None:
        self.answered = 0
        self.seconds = 0.0
        """The seconds of all that were answered well."""
        self.failed: dict[str, int] = {}
        """The number of the others, by code."""


class RequestTotals:
    """Counts the requests that are answered well, and those of tenants."""

    __slots__ = ("latencies", "tenants")

    def __init__(self) -> None:
        self.latencies: dict[tuple[ModelName, str], Latencies] = {}
        """The requests that were answered well, by model and wire."""
        self.tenants: dict[str, TenantRequests] = {}

    @override
    def __repr__(self) -> str:
        return f"RequestTotals({len(self.latencies)} models and wires, {len(self.tenants)} tenants)"

    def answered(self, model: ModelName, wire: str, seconds: float) -> None:
        """Count a request of a hosted model that was answered well."""
        key = model, wire
        latencies = self.latencies.get(key)
        if latencies is None:
            latencies = self.latencies[key] = Latencies()
        latencies.counts[bisect_left(_BOUNDS, seconds)] += 1
        latencies.seconds += seconds

    def tenant_answered(self, tenant: str, seconds: float) -> None:
        """Count a request of a key's tenant that was answered well."""
        requests = self.tenants.get(tenant)
        if requests is None:
            requests = self.tenant(tenant)
        requests.answered += 1
        requests.seconds += seconds

    def tenant(self, name: str) -> TenantRequests:
        """Return where the requests of a tenant are counted: those beyond the first tenants have one place."""
        tenants = self.tenants
        place = name if name in tenants or len(tenants) < MOST_TENANTS else OTHERS
        return tenants.setdefault(place, TenantRequests())
