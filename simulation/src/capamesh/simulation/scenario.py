"""The values that describe a simulation: the fleet, its models, the requests, the network and the faults. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from capamesh.node.contract.settings import MAX_IN_FLIGHT
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.links.calls import DEFAULT_PRIORITY
from capamesh.router.rules.model_rules import RoutingRules


class Rhythm(StrEnum):
    """The rhythm in which an antagonist comes and goes."""

    SQUARE = "square"
    """The antagonist is there for the same time in every period, at each node from a moment of its own."""
    MARKOV = "markov"
    """The antagonist is there for times drawn from an exponential distribution."""


@dataclass(frozen=True, slots=True)
class Antagonist:
    """Somebody else's work on the same machine, which slows a node's runs down while it is there."""

    rhythm: Rhythm
    factor: float
    """A run that starts beside it takes so many times longer."""
    period_s: float
    """Seconds from one coming to the next, on average."""
    share: float
    """The share of the time that it is there."""
    nodes_share: float
    """The share of the nodes that have one."""

    @property
    def rate(self) -> float:
        """The part of a fleet's runs a second that is left, on average."""
        slowed = self.nodes_share * self.share
        return 1.0 - slowed + slowed / self.factor


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that are alike."""

    name: str
    count: int
    slowness: float = 1.0
    """A run takes so many times what the model's profile says."""
    noise: float = 0.2
    """Sigma of the log-normal factor, of mean 1, on every run (guess)."""
    region: str = "local"
    price_per_million: float = 0.0
    antagonist: Antagonist | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that every node replicas."""

    name: str
    profile: ServiceProfile
    """The profile on a node of slowness 1."""
    version: str = "1"
    batch_rows: int = 0
    """Rows that run together at most; 0: it does not batch."""
    max_delay_us: int = 0
    instances: int = 1
    max_in_flight: int = MAX_IN_FLIGHT

    @property
    def rows_per_s(self) -> float:
        """The most rows a second on a node of slowness 1."""
        rows = max(self.batch_rows, 1)
        return self.instances * rows / self.profile.seconds_at(rows)


@dataclass(frozen=True, slots=True)
class RequestKind:
    """A kind of request, and its share of all."""

    name: str
    model: str
    share: float = 1.0
    """The weight of its share, in proportion to the others'."""
    rows: int = 1
    size_bytes: int = 0
    """The bytes of request and answer together."""
    deadline_s: float = 2.0
    priority: int = DEFAULT_PRIORITY
    is_bulk: bool = False
    tenant: str = ""
    keys: int = 0
    """Different affinity keys, all as frequent; 0: none."""
    is_safe: bool = True
    """May be run twice."""
    is_hedged: bool = True

    @property
    def is_urgent(self) -> bool:
        """Return whether nodes give its requests the places of others that wait."""
        return self.priority < DEFAULT_PRIORITY and not self.is_bulk


@dataclass(frozen=True, slots=True)
class RegionPair:
    """The time that a message takes between two regions, in each direction."""

    a: str
    b: str
    one_way_s: float


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The network that messages travel through."""

    one_way_s: float = 0.000_2
    """Seconds within a region, and between regions that no pair names (guess: one switch and two kernels)."""
    jitter: float = 0.1
    """Mean of the exponentially distributed part that is added, as a share of the delay (guess)."""
    bytes_per_s: float = 0.0
    """The bytes a second of each link; with 0, size does not matter."""
    loss: float = 0.0
    """The share of messages that are lost; each costs its link."""
    gossip_s: float = 0.5
    """Seconds until a router has heard of a changed advert (guess)."""
    pairs: tuple[RegionPair, ...] = ()

    def one_way(self, a: str, b: str) -> float:
        """Return the delay between two regions in seconds, jitter excluded."""
        for pair in self.pairs:
            if (pair.a, pair.b) in {(a, b), (b, a)}:
                return pair.one_way_s
        return self.one_way_s


class FaultKind(StrEnum):
    """The kinds of faults."""

    SLOW = "slow"
    """Runs take `factor` times longer."""
    ERRORS = "errors"
    """A share of the requests run and then fail."""
    FAST_ERRORS = "fast-errors"
    """A share of the requests fail at once."""
    SILENT = "silent"
    """A share of the requests are accepted and never answered."""
    LIAR = "liar"
    """Reports no requests in flight and a latency of 1 µs."""
    FREEZE = "freeze"
    """The whole process stands still, and goes on as if nothing had been."""
    KILL = "kill"
    """The process ends with all that it had; it is started again after `for_s`."""
    RESTART = "restart"
    """The node drains, ends, and is started again after `for_s`."""
    PARTITION = "partition"
    """Nothing gets through between two regions."""
    SURGE = "surge"
    """The requests come in so many times their number."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, from when and for how long."""

    kind: FaultKind
    at_s: float
    for_s: float = math.inf
    nodes: tuple[int, ...] = ()
    """The numbers of the nodes, in the order of the groups."""
    is_all: bool = False
    """All nodes."""
    stagger_s: float = 0.0
    """Seconds from one node to the next."""
    share: float = 1.0
    factor: float = 1.0
    between: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation, but for the policy and the seed."""

    name: str
    title: str
    duration_s: float
    """Requests come for so long, warm-up included."""
    load: float
    """The load as a part of what the fleet can do, in requests a second."""
    nodes: tuple[NodeGroup, ...]
    models: tuple[ModelSpec, ...]
    requests: tuple[RequestKind, ...]
    warm_up_s: float = 0.0
    """Seconds whose requests are simulated and not counted."""
    routers: int = 1
    regions: tuple[str, ...] = ("local",)
    """The regions of the routers, in turn."""
    has_gate: bool = True
    """True if routers refuse what would overload the fleet."""
    network: NetworkSpec = NetworkSpec()
    faults: tuple[Fault, ...] = ()
    rules: RoutingRules = field(default_factory=RoutingRules)
    """The rules of the routers, as far as the requests do not say otherwise."""

    @property
    def node_count(self) -> int:
        """The number of nodes."""
        return sum(group.count for group in self.nodes)

    @property
    def capacity_per_s(self) -> float:
        """Requests of the scenario's mix that the fleet can run in a second, antagonists at their average."""
        rate = sum(
            group.count / group.slowness * (group.antagonist.rate if group.antagonist else 1.0)
            for group in self.nodes
        )
        whole = sum(kind.share for kind in self.requests)
        return min(
            rate * model.rows_per_s / rows
            for model in self.models
            if (
                rows := sum(
                    k.share / whole * k.rows for k in self.requests if k.model == model.name
                )
            )
        )

    @property
    def arrivals_per_s(self) -> float:
        """Requests that come in a second, surges aside."""
        return self.load * self.capacity_per_s

    def with_routers(self, count: int) -> Scenario:
        """Return the same with another number of routers, among which the same requests are divided."""
        return replace(self, routers=count)

    def shortened(self, duration_s: float, warm_up_s: float) -> Scenario:
        """Return the same for another time; faults stay where they are."""
        return replace(self, duration_s=duration_s, warm_up_s=warm_up_s)


def service_profile(points: tuple[tuple[int, float], ...]) -> ServiceProfile:
    """Return a profile of (rows, seconds); ValueError: it is none."""
    return ServiceProfile(tuple(ProfilePoint(rows, seconds) for rows, seconds in points))
