"""Reads a scenario out of the text of its TOML file. Pure: text in, values out.

Every complaint is a ConfigError that names the scenario, the key's path, the value and what is expected.
"""

from __future__ import annotations

from typing import Annotated, Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.schema import DISTINCT, Meta, Mismatch, Table, given, meaning, shown
from capamesh.protocol.toml_text import read_toml
from capamesh.simulation.scenario import (
    DAY_S,
    MAX_CHARS,
    MAX_GROUPS,
    Fault,
    ModelSpec,
    Name,
    NetworkSpec,
    NodeGroup,
    RequestKind,
    Rows,
    Scenario,
    Time,
    service_profile,
)

_GROUPS: Final = Meta(min_length=1, max_length=MAX_GROUPS)


class _Model(Table, frozen=True, kw_only=True):
    name: Name
    profile: Annotated[
        tuple[Annotated[tuple[int, float], meaning("[rows, seconds], such as [8, 0.03]")], ...],
        Meta(min_length=1, max_length=64),
        meaning("a list of [rows, seconds], rows ascending, such as [[1, 0.01], [8, 0.03]]"),
    ]
    batch_rows: Rows | None = None
    max_delay_us: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    instances: Annotated[int, Meta(ge=1, le=64)] | None = None
    max_in_flight: Rows | None = None

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


class _Scenario(Table, frozen=True, kw_only=True):
    title: Annotated[str, Meta(min_length=1, max_length=4 * MAX_CHARS)]
    duration_s: Annotated[float, Meta(ge=0.1, le=DAY_S)]
    warm_up_s: Time = 0.0
    load: Annotated[float, Meta(ge=0.001, le=100)]
    routers: Annotated[int, Meta(ge=1, le=100)] = 1
    regions: Annotated[tuple[Name, ...], Meta(max_length=MAX_GROUPS), DISTINCT] = ()
    gate: bool = True
    node: Annotated[tuple[NodeGroup, ...], _GROUPS]
    model: Annotated[tuple[_Model, ...], _GROUPS]
    request: Annotated[tuple[RequestKind, ...], _GROUPS]
    network: NetworkSpec = NetworkSpec()
    fault: Annotated[tuple[Fault, ...], Meta(max_length=1_000)] = ()

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
        if not any(kind.share for kind in self.request):
            raise ValueError("request: no kind has a share above 0; give one")
        count = sum(each.count for each in self.node)
        for index, fault in enumerate(self.fault):
            for number in () if fault.nodes == "all" else fault.nodes:
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
    return Scenario(
        name=name,
        title=table.title,
        duration_s=table.duration_s,
        warm_up_s=table.warm_up_s,
        load=table.load,
        routers=table.routers,
        regions=table.regions or (table.node[0].region,),
        has_gate=table.gate,
        nodes=table.node,
        models=tuple(each.spec() for each in table.model),
        requests=table.request,
        network=table.network,
        faults=table.fault,
    )
