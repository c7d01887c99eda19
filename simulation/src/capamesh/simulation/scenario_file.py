"""Reads a scenario out of the text of its TOML file. Pure: text in, values out.

Every complaint is a ConfigError that names the scenario, the key's path, the value and what is expected.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.links.calls import MAX_PRIORITY
from capamesh.protocol.schema import DISTINCT, Meta, Mismatch, Table, given, meaning, shown
from capamesh.protocol.toml_text import read_toml
from capamesh.simulation.scenario import (
    Antagonist,
    Fault,
    FaultKind,
    ModelSpec,
    NetworkSpec,
    NodeGroup,
    RegionPair,
    RequestKind,
    Rhythm,
    Scenario,
    service_profile,
)

# The limits are guesses: beyond them a value is more likely a slip than meant.
_MAX_CHARS: Final = 64
_MAX_GROUPS: Final = 100
_MAX_ROWS: Final = 65_536
_DAY_S: Final = 86_400.0

_Text: TypeAlias = Annotated[str, Meta(max_length=_MAX_CHARS)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=_MAX_CHARS)]
_Rows: TypeAlias = Annotated[int, Meta(ge=1, le=_MAX_ROWS)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Factor: TypeAlias = Annotated[float, Meta(ge=0.001, le=1_000)]
_Time: TypeAlias = Annotated[float, Meta(ge=0, le=_DAY_S)]
_Delay: TypeAlias = Annotated[float, Meta(ge=1e-6, le=60)]
_GROUPS: Final = Meta(min_length=1, max_length=_MAX_GROUPS)

_AIMED: Final = frozenset(FaultKind) - {FaultKind.PARTITION, FaultKind.SURGE}
"""Faults that befall nodes."""
_TIMED: Final = frozenset(
    {FaultKind.FREEZE, FaultKind.RESTART, FaultKind.PARTITION, FaultKind.SURGE}
)
"""Faults that must end."""


class _Antagonist(Table, frozen=True, kw_only=True):
    rhythm: Rhythm = Rhythm.MARKOV
    factor: Annotated[float, Meta(ge=1, le=1_000)]
    period_s: Annotated[float, Meta(ge=0.01, le=_DAY_S)]
    share: _Share = 0.5
    nodes_share: _Share = 1.0


class _Node(Table, frozen=True, kw_only=True):
    name: _Name
    count: Annotated[int, Meta(ge=1, le=10_000)]
    slowness: _Factor | None = None
    noise: Annotated[float, Meta(ge=0, le=3)] | None = None
    region: _Name | None = None
    price_per_million: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    antagonist: _Antagonist | None = None

    def group(self) -> NodeGroup:
        values = given(self)
        if self.antagonist is not None:
            values["antagonist"] = Antagonist(**given(self.antagonist))
        return NodeGroup(**values)


class _Model(Table, frozen=True, kw_only=True):
    name: _Name
    profile: Annotated[
        tuple[Annotated[tuple[int, float], meaning("[rows, seconds], such as [8, 0.03]")], ...],
        Meta(min_length=1, max_length=64),
        meaning("a list of [rows, seconds], rows ascending, such as [[1, 0.01], [8, 0.03]]"),
    ]
    batch_rows: _Rows | None = None
    max_delay_us: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    instances: Annotated[int, Meta(ge=1, le=64)] | None = None
    max_in_flight: _Rows | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            service_profile(self.profile)
        except ValueError as exc:
            raise ValueError(f"profile: {exc}") from exc

    def spec(self) -> ModelSpec:
        values = given(self)
        values["profile"] = service_profile(self.profile)
        return ModelSpec(**values)


class _Request(
    Table,
    frozen=True,
    kw_only=True,
    rename={"is_bulk": "bulk", "is_safe": "safe", "is_hedged": "hedged"},
):
    name: _Name
    model: _Name
    share: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    rows: _Rows | None = None
    size_bytes: Annotated[int, Meta(ge=0, le=2**30)] | None = None
    deadline_s: Annotated[float, Meta(ge=0.001, le=_DAY_S)] | None = None
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] | None = None
    is_bulk: bool | None = None
    tenant: _Text | None = None
    keys: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    is_safe: bool | None = None
    is_hedged: bool | None = None


class _Pair(Table, frozen=True, kw_only=True):
    a: _Name
    b: _Name
    one_way_s: _Delay


class _Network(Table, frozen=True, kw_only=True):
    one_way_s: _Delay | None = None
    jitter: Annotated[float, Meta(ge=0, le=100)] | None = None
    bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    loss: _Share | None = None
    gossip_s: Annotated[float, Meta(ge=0, le=600)] | None = None
    pair: Annotated[tuple[_Pair, ...], Meta(max_length=_MAX_GROUPS)] = ()

    def spec(self) -> NetworkSpec:
        values = given(self)
        del values["pair"]
        return NetworkSpec(**values, pairs=tuple(RegionPair(**given(each)) for each in self.pair))


class _Fault(Table, frozen=True, kw_only=True):
    kind: FaultKind
    at_s: _Time
    for_s: _Time | None = None
    nodes: (
        Literal["all"]
        | Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1)]
        | None
    ) = None
    stagger_s: _Time | None = None
    share: _Share | None = None
    factor: _Factor | None = None
    between: Annotated[tuple[_Name, _Name], DISTINCT] | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in _AIMED and self.nodes is None:
            raise ValueError("nodes is missing; add it")
        if self.kind not in _AIMED and self.nodes is not None:
            raise ValueError(f"nodes: a {self.kind} befalls no single nodes; leave it out")
        if (self.kind is FaultKind.PARTITION) != (self.between is not None):
            raise ValueError(
                f"between is {shown(self.between)}, expected two regions for a partition, else left out"
            )
        if self.kind in _TIMED and self.for_s is None:
            raise ValueError("for_s is missing; add it")

    def fault(self) -> Fault:
        values = given(self)
        if self.nodes == "all":
            del values["nodes"]
            values["is_all"] = True
        return Fault(**values)


class _Scenario(Table, frozen=True, kw_only=True):
    title: Annotated[str, Meta(min_length=1, max_length=4 * _MAX_CHARS)]
    duration_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)]
    warm_up_s: _Time = 0.0
    load: Annotated[float, Meta(ge=0.001, le=100)]
    routers: Annotated[int, Meta(ge=1, le=100)] = 1
    regions: Annotated[tuple[_Name, ...], Meta(max_length=_MAX_GROUPS), DISTINCT] = ()
    gate: bool = True
    node: Annotated[tuple[_Node, ...], _GROUPS]
    model: Annotated[tuple[_Model, ...], _GROUPS]
    request: Annotated[tuple[_Request, ...], _GROUPS]
    network: _Network = _Network()
    fault: Annotated[tuple[_Fault, ...], Meta(max_length=1_000)] = ()

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up_s > self.duration_s / 2:
            raise ValueError(
                f"warm_up_s is {shown(self.warm_up_s)}, expected at most half of duration_s"
            )
        for key in ("node", "model", "request"):
            names = [each.name for each in getattr(self, key)]
            if len(set(names)) != len(names):
                raise ValueError(f"{key} is {shown(names)}, expected each of a name of its own")
        known = [each.name for each in self.model]
        for index, kind in enumerate(self.request):
            if kind.model not in known:
                raise ValueError(
                    f"request[{index}].model is {shown(kind.model)}, expected one of {', '.join(known)}"
                )
        if not any(kind.share is None or kind.share for kind in self.request):
            raise ValueError("request: no kind has a share above 0; give one")
        count = sum(each.count for each in self.node)
        for index, fault in enumerate(self.fault):
            for number in () if fault.nodes is None or fault.nodes == "all" else fault.nodes:
                if number >= count:
                    raise ValueError(
                        f"fault[{index}].nodes is {number}, expected a list of numbers from 0 to {count - 1}"
                    )


def load_scenario(text: str, name: str) -> Scenario:
    """Return the scenario in `text`, a TOML document; ConfigError: it is none."""
    try:
        table = read_toml(text.encode(), _Scenario, f"scenario {name}")
    except Mismatch as exc:
        raise ConfigError(str(exc)) from exc
    nodes = tuple(each.group() for each in table.node)
    return Scenario(
        name=name,
        title=table.title,
        duration_s=table.duration_s,
        warm_up_s=table.warm_up_s,
        load=table.load,
        routers=table.routers,
        regions=table.regions or (nodes[0].region,),
        has_gate=table.gate,
        nodes=nodes,
        models=tuple(each.spec() for each in table.model),
        requests=tuple(RequestKind(**given(each)) for each in table.request),
        network=table.network.spec(),
        faults=tuple(each.fault() for each in table.fault),
    )
