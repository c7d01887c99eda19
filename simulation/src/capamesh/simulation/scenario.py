"""The values that describe a simulation: the fleet, its models, the requests, the network and the faults. Pure.

Those that stand in a scenario's file as they are have the file's keys and limits in their annotations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from typing_extensions import override

from capamesh.node.contract.settings import MAX_IN_FLIGHT
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
from capamesh.protocol.schema import DISTINCT, Meta, Table
from capamesh.router.rules.model_rules import RoutingRules

# The limits are guesses: beyond them a value is more likely a slip than meant.
MAX_CHARS: Final = 64
MAX_GROUPS: Final = 100
DAY_S: Final = 86_400.0

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_CHARS)]
Rows: TypeAlias = Annotated[int, Meta(ge=1, le=65_536)]
Time: TypeAlias = Annotated[float, Meta(ge=0, le=DAY_S)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Factor: TypeAlias = Annotated[float, Meta(ge=0.001, le=1_000)]
_Delay: TypeAlias = Annotated[float, Meta(ge=1e-6, le=60)]


class Rhythm(StrEnum):
    """The rhythm in which an antagonist comes and goes."""

    SQUARE = "square"
    """The antagonist is there for the same time in every period, at each node from a moment of its own."""
    MARKOV = "markov"
    """The antagonist is there for times drawn from an exponential distribution."""


class Antagonist(Table, frozen=True, kw_only=True):
    """Somebody else's work on the same machine, which slows a node's runs down while it is there."""

    rhythm: Rhythm = Rhythm.MARKOV
    factor: Annotated[float, Meta(ge=1, le=1_000)]
    """A run that starts beside it takes so many times longer."""
    period_s: Annotated[float, Meta(ge=0.01, le=DAY_S)]
    """Seconds from one coming to the next, on average."""
    share: _Share = 0.5
    """The share of the time that it is there."""
    nodes_share: _Share = 1.0
    """The share of the nodes that have one."""

    @property
    def rate(self) -> float:
        """The part of a fleet's runs a second that is left, on average."""
        slowed = self.nodes_share * self.share
        return 1.0 - slowed + slowed / self.factor


class NodeGroup(Table, frozen=True):
    """Nodes that are alike."""

    name: Name
    count: Annotated[int, Meta(ge=1, le=10_000)]
    slowness: _Factor = 1.0
    """A run takes so many times what the model's profile says."""
    noise: Annotated[float, Meta(ge=0, le=3)] = 0.2
    """Sigma of the log-normal factor, of mean 1, on every run (guess)."""
    region: Name = "local"
    price_per_million: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    antagonist: Antagonist | None = None
    invite: Annotated[str, Meta(max_length=MAX_CHARS)] = ""
    """The invite that admitted them; "": it is not known."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that every node hosts."""

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


class RequestKind(
    Table, frozen=True, rename={"is_bulk": "bulk", "is_safe": "safe", "is_hedged": "hedged"}
):
    """A kind of request, and its share of all."""

    name: Name
    model: Name
    share: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    """The weight of its share, in proportion to the others'."""
    rows: Rows = 1
    size_bytes: Annotated[int, Meta(ge=0, le=2**30)] = 0
    """The bytes of request and answer together."""
    deadline_s: Annotated[float, Meta(ge=0.001, le=DAY_S)] = 2.0
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = DEFAULT_PRIORITY
    is_bulk: bool = False
    tenant: Annotated[str, Meta(max_length=MAX_CHARS)] = ""
    keys: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    """Different affinity keys, all as frequent; 0: none."""
    is_safe: bool = True
    """May be run twice."""
    is_hedged: bool = True


class RegionPair(Table, frozen=True):
    """The time that a message takes between two regions, in each direction."""

    a: Name
    b: Name
    one_way_s: _Delay


class NetworkSpec(Table, frozen=True, kw_only=True, rename={"pairs": "pair"}):
    """The network that messages travel through."""

    one_way_s: _Delay = 0.000_2
    """Seconds within a region, and between regions that no pair names (guess: one switch and two kernels)."""
    jitter: Annotated[float, Meta(ge=0, le=100)] = 0.1
    """Mean of the exponentially distributed part that is added, as a share of the delay (guess)."""
    bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """The bytes a second of each link; with 0, size does not matter."""
    loss: _Share = 0.0
    """The share of messages that are lost; each costs its link."""
    gossip_s: Annotated[float, Meta(ge=0, le=600)] = 0.5
    """Seconds until a router has heard of a changed advert (guess)."""
    pairs: Annotated[tuple[RegionPair, ...], Meta(max_length=MAX_GROUPS)] = ()

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
    BLAMES = "blames"
    """A share of the requests are refused at once as their callers' fault."""
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


_AIMED: Final = frozenset(FaultKind) - {FaultKind.PARTITION, FaultKind.SURGE}
"""Faults that befall nodes."""
_TIMED: Final = frozenset(
    {FaultKind.FREEZE, FaultKind.RESTART, FaultKind.PARTITION, FaultKind.SURGE}
)
"""Faults that must end."""


class Fault(Table, frozen=True):
    """Something that goes wrong, from when and for how long."""

    kind: FaultKind
    at_s: Time
    for_s: Time = math.inf
    nodes: (
        Literal["all"] | Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1)]
    ) = ()
    """The numbers of the nodes, in the order of the groups."""
    stagger_s: Time = 0.0
    """Seconds from one node to the next."""
    share: _Share = 1.0
    factor: _Factor = 1.0
    between: Annotated[tuple[Name, ...], Meta(min_length=2, max_length=2), DISTINCT] = ()
    """The two regions of a partition."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in _AIMED and not self.nodes:
            raise ValueError("nodes is missing; add it")
        if self.kind not in _AIMED and self.nodes:
            raise ValueError(f"nodes: a {self.kind} befalls no single nodes; leave it out")
        if self.kind is FaultKind.PARTITION and not self.between:
            raise ValueError("between is missing; add it: two regions")
        if self.kind is not FaultKind.PARTITION and self.between:
            raise ValueError(f"between: a {self.kind} is not between regions; leave it out")
        if self.kind in _TIMED and math.isinf(self.for_s):
            raise ValueError("for_s is missing; add it")


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
    network: NetworkSpec = field(default_factory=NetworkSpec)
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
