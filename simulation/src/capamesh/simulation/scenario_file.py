"""Reads a scenario out of the text of its TOML file. Pure: text in, values out.

Every complaint is a ConfigError that names the scenario, the key's path, the value and what is expected.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from typing import Final, TypeVar, cast

from capamesh.node.contract.settings import MAX_IN_FLIGHT
from capamesh.node.repository.toml_table import Table
from capamesh.node.scheduling.service_profile import ServiceProfile
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
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

_Word = TypeVar("_Word", Rhythm, FaultKind)

_TOP: Final = (
    "title",
    "duration_s",
    "warm_up_s",
    "load",
    "routers",
    "regions",
    "gate",
    "node",
    "model",
    "request",
    "network",
    "fault",
)
_NODE: Final = ("name", "count", "slowness", "noise", "region", "price_per_million", "antagonist")
_ANTAGONIST: Final = ("rhythm", "factor", "period_s", "share", "nodes_share")
_MODEL: Final = ("name", "profile", "batch_rows", "max_delay_us", "instances", "max_in_flight")
_REQUEST: Final = (
    "name",
    "model",
    "share",
    "rows",
    "size_bytes",
    "deadline_s",
    "priority",
    "bulk",
    "tenant",
    "keys",
    "safe",
    "hedged",
)
_NETWORK: Final = ("one_way_s", "jitter", "bytes_per_s", "loss", "gossip_s", "pair")
_PAIR: Final = ("a", "b", "one_way_s")
_FAULT: Final = (
    "kind",
    "at_s",
    "for_s",
    "nodes",
    "stagger_s",
    "share",
    "factor",
    "between",
)

# The limits are guesses: beyond them a value is more likely a slip than meant.
_MAX_CHARS: Final = 64
_MAX_GROUPS: Final = 100
_MAX_NODES: Final = 10_000
_MAX_ROUTERS: Final = 100
_MAX_POINTS: Final = 64
_MAX_ROWS: Final = 65_536
_MAX_BYTES: Final = 2**30
_MAX_FAULTS: Final = 1_000
_DAY_S: Final = 86_400.0
_LEAST_S: Final = 1e-6

_AIMED: Final = frozenset(FaultKind) - {FaultKind.PARTITION, FaultKind.SURGE}
"""Faults that befall nodes."""
_TIMED: Final = frozenset(
    {
        FaultKind.FREEZE,
        FaultKind.RESTART,
        FaultKind.PARTITION,
        FaultKind.SURGE,
    }
)
"""Faults that must end."""


def load_scenario(text: str, name: str) -> Scenario:
    """Return the scenario in `text`, a TOML document; ConfigError: it is none."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"scenario {name}: not TOML: {exc}") from exc
    try:
        return _scenario(Table(values, _TOP, f"scenario {name}"), name)
    except ModelInvalid as exc:  # the reader is the models folder's
        raise ConfigError(exc.message) from exc


def _scenario(top: Table, name: str) -> Scenario:
    top.need("title", "duration_s", "load", "node", "model", "request")
    duration_s = top.number("duration_s", 0.1, _DAY_S, 1.0)
    groups = tuple(_group(table) for table in top.tables("node", _NODE, _MAX_GROUPS))
    models = tuple(_model(table) for table in top.tables("model", _MODEL, _MAX_GROUPS))
    requests = tuple(_request(table) for table in top.tables("request", _REQUEST, _MAX_GROUPS))
    for key, values in (("node", groups), ("model", models), ("request", requests)):
        names = [value.name for value in values]
        if not names or len(set(names)) != len(names):
            raise top.wrong(key, names, "at least one, each of a name of its own")
    known = [model.name for model in models]
    for index, kind in enumerate(requests):
        if kind.model not in known:
            raise top.wrong(f"request[{index}].model", kind.model, f"one of {', '.join(known)}")
    if not sum(kind.share * kind.rows for kind in requests):
        raise top.refused("request", "no kind has a share above 0; give one")
    node_count = sum(group.count for group in groups)
    return Scenario(
        name=name,
        title=top.text("title", 4 * _MAX_CHARS, min_chars=1),
        duration_s=duration_s,
        warm_up_s=top.number("warm_up_s", 0.0, duration_s / 2, 0.0),
        load=top.number("load", 0.001, 100.0, 1.0),
        routers=top.integer("routers", 1, _MAX_ROUTERS, 1),
        regions=top.texts("regions", _MAX_CHARS, _MAX_GROUPS) or (groups[0].region,),
        has_gate=top.flag("gate", True),
        nodes=groups,
        models=models,
        requests=requests,
        network=_network(top.table("network", _NETWORK)),
        faults=tuple(
            _fault(table, node_count) for table in top.tables("fault", _FAULT, _MAX_FAULTS)
        ),
    )


def _group(table: Table) -> NodeGroup:
    table.need("name", "count")
    default = NodeGroup("", 1)
    return NodeGroup(
        name=table.text("name", _MAX_CHARS, min_chars=1),
        count=table.integer("count", 1, _MAX_NODES, 1),
        slowness=table.number("slowness", 0.001, 1_000.0, default.slowness),
        noise=table.number("noise", 0.0, 3.0, default.noise),
        region=table.text("region", _MAX_CHARS) or default.region,
        price_per_million=table.number("price_per_million", 0.0, 1e9, 0.0),
        antagonist=_antagonist(table.table("antagonist", _ANTAGONIST))
        if "antagonist" in table
        else None,
    )


def _antagonist(table: Table) -> Antagonist:
    table.need("factor", "period_s")
    return Antagonist(
        rhythm=_word(table, "rhythm", Rhythm, Rhythm.MARKOV),
        factor=table.number("factor", 1.0, 1_000.0, 1.0),
        period_s=table.number("period_s", 0.01, _DAY_S, 1.0),
        share=table.number("share", 0.0, 1.0, 0.5),
        nodes_share=table.number("nodes_share", 0.0, 1.0, 1.0),
    )


def _model(table: Table) -> ModelSpec:
    table.need("name", "profile")
    return ModelSpec(
        name=table.text("name", _MAX_CHARS, min_chars=1),
        profile=_profile(table),
        batch_rows=table.integer("batch_rows", 1, _MAX_ROWS, 0),
        max_delay_us=table.integer("max_delay_us", 0, 10_000_000, 0),
        instances=table.integer("instances", 1, 64, 1),
        max_in_flight=table.integer("max_in_flight", 1, _MAX_ROWS, MAX_IN_FLIGHT),
    )


def _profile(table: Table) -> ServiceProfile:
    value = table.value("profile")
    expected = "a list of [rows, seconds], rows ascending, such as [[1, 0.01], [8, 0.03]]"
    given = cast("list[object]", value) if isinstance(value, list) else []
    if not 1 <= len(given) <= _MAX_POINTS:
        raise table.wrong("profile", table.value("profile"), expected)
    points: list[tuple[int, float]] = []
    for point in given:
        match point:
            case [int(rows), float() | int() as seconds] if not isinstance(rows, bool):
                points.append((rows, float(seconds)))
            case _:
                raise table.wrong("profile", point, expected)
    try:
        return service_profile(tuple(points))
    except ValueError as exc:
        raise table.refused("profile", str(exc)) from exc


def _request(table: Table) -> RequestKind:
    table.need("name", "model")
    default = RequestKind("", "")
    return RequestKind(
        name=table.text("name", _MAX_CHARS, min_chars=1),
        model=table.text("model", _MAX_CHARS, min_chars=1),
        share=table.number("share", 0.0, 1e6, default.share),
        rows=table.integer("rows", 1, _MAX_ROWS, default.rows),
        size_bytes=table.integer("size_bytes", 0, _MAX_BYTES, default.size_bytes),
        deadline_s=table.number("deadline_s", 0.001, _DAY_S, default.deadline_s),
        priority=table.integer("priority", 0, MAX_PRIORITY, DEFAULT_PRIORITY),
        is_bulk=table.flag("bulk", default.is_bulk),
        tenant=table.text("tenant", _MAX_CHARS),
        keys=table.integer("keys", 0, 10_000_000, 0),
        is_safe=table.flag("safe", default.is_safe),
        is_hedged=table.flag("hedged", default.is_hedged),
    )


def _network(table: Table) -> NetworkSpec:
    default = NetworkSpec()
    pairs: list[RegionPair] = []
    for pair in table.tables("pair", _PAIR, _MAX_GROUPS):
        pair.need(*_PAIR)
        pairs.append(
            RegionPair(
                pair.text("a", _MAX_CHARS, min_chars=1),
                pair.text("b", _MAX_CHARS, min_chars=1),
                pair.number("one_way_s", _LEAST_S, 60.0, 0.0),
            )
        )
    return NetworkSpec(
        one_way_s=table.number("one_way_s", _LEAST_S, 60.0, default.one_way_s),
        jitter=table.number("jitter", 0.0, 100.0, default.jitter),
        bytes_per_s=table.number("bytes_per_s", 0.0, 1e12, default.bytes_per_s),
        loss=table.number("loss", 0.0, 1.0, default.loss),
        gossip_s=table.number("gossip_s", 0.0, 600.0, default.gossip_s),
        pairs=tuple(pairs),
    )


def _fault(table: Table, node_count: int) -> Fault:
    table.need("kind", "at_s")
    kind = _word(table, "kind", FaultKind, None)
    nodes: tuple[int, ...] = ()
    is_all = table.value("nodes") == "all"
    if kind in _AIMED:
        table.need("nodes")
        if not is_all:
            nodes = table.integers("nodes", 0, node_count - 1, node_count, min_count=1)
    elif "nodes" in table:
        raise table.refused("nodes", f"a {kind} befalls no single nodes; leave it out")
    between = table.texts("between", _MAX_CHARS, 2)
    if (kind is FaultKind.PARTITION) != (len(between) == 2):
        raise table.wrong("between", list(between), "two regions for a partition, else left out")
    if kind in _TIMED:
        table.need("for_s")
    return Fault(
        kind=kind,
        at_s=table.number("at_s", 0.0, _DAY_S, 0.0),
        for_s=table.number("for_s", 0.0, _DAY_S, 0.0) if "for_s" in table else math.inf,
        nodes=nodes,
        is_all=is_all,
        stagger_s=table.number("stagger_s", 0.0, _DAY_S, 0.0),
        share=table.number("share", 0.0, 1.0, 1.0),
        factor=table.number("factor", 0.001, 1_000.0, 1.0),
        between=(between[0], between[1]) if between else ("", ""),
    )


def _word(table: Table, key: str, words: type[_Word], default: _Word | None) -> _Word:
    if key not in table and default is not None:
        return default
    value = table.value(key)
    for word in cast("Sequence[_Word]", list(words)):
        if word == value:
            return word
    raise table.wrong(key, value, f"one of {', '.join(words)}")
