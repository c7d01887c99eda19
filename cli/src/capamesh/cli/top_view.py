"""The view of `capamesh top`: a router's snapshot as lines that fit a terminal, what is in trouble first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from capamesh.cli.compact_table import Column, table_lines
from capamesh.cli.fleet_rows import node_name, node_names
from capamesh.cli.short_text import cut_end, short_reason
from capamesh.protocol.plain_text import plain

Row = Mapping[str, Any]

MODEL_COLUMNS: Final = (
    Column("MODEL", least=14, is_name=True),
    Column("NODES"),
    Column("IN FLIGHT"),
    Column("REQ/S"),
    Column("ERR/S"),
    Column("p50"),
    Column("p99"),
    Column("WHY", least=8),
)
NODE_COLUMNS: Final = (
    Column("NODE", least=12, is_name=True),
    Column("STATE"),
    Column("MODELS"),
    Column("IN FLIGHT"),
    Column("ANSWERED"),
    Column("FAILED"),
    Column("RTT"),
    Column("WHY", least=8),
)
_LEAST_ROWS: Final = 3
"""The lines that each table has where there is room for so few."""
_TROUBLE: Final = {
    "lost": -1,
    "unusable": 0,
    "ejected": 1,
    "suspected": 2,
    "draining": 4,
    "usable": 9,
}
"""The rank of a node's state; all others stand between."""
_OTHER_TROUBLE: Final = 3


def top_lines(snapshot: Row, width: int, height: int | None, note: str = "") -> list[str]:
    """Return the lines of the view, no more than `height` of them (None: all), none of more than `width` cells."""
    models, nodes = _models(snapshot), _nodes(snapshot)
    head = [_headline(snapshot)] + ([note] if note else [])
    model_rows, node_rows = len(models), len(nodes)
    if height is not None:
        room = max(2 * _LEAST_ROWS, height - len(head) - 4)  # two headers, two empty lines
        model_rows = min(model_rows, max(room - min(node_rows, room // 2), _LEAST_ROWS))
        node_rows = min(node_rows, max(room - model_rows, _LEAST_ROWS))
    lines = [cut_end(plain(line), width) for line in head]
    lines += ["", *table_lines(MODEL_COLUMNS, models[:model_rows], width)]
    lines += ["", *table_lines(NODE_COLUMNS, nodes[:node_rows], width)]
    return lines if height is None else lines[:height]


def _headline(snapshot: Row) -> str:
    router, models = _row(snapshot.get("router")), _rows(snapshot.get("models"))
    nodes = _rows(snapshot.get("nodes"))
    usable = sum(node.get("state") == "usable" for node in nodes.values())
    busy = [_row(model.get("traffic")) for model in models.values() if model.get("is_newest")]
    requests = sum(_number(one.get("requests_per_s")) for one in busy)
    errors = sum(_number(one.get("errors_per_s")) for one in busy)
    routers = _list(router.get("routers"))
    others = f"  routers {len(routers)}" if len(routers) > 1 else ""
    short = _list(router.get("models_short"))
    missing = f"  short of nodes: {', '.join(map(_short_model, short[:3]))}" if short else ""
    reason = f" ({short_reason(router['reason'])})" if router.get("reason") else ""
    return (
        f"{router.get('state', '?')}{reason}  nodes {usable} of {len(nodes)} usable  models {len(models)}  "
        f"{requests:.1f} req/s  {errors:.1f} errors/s{others}{missing}"
    )


def _short_model(value: object) -> str:
    row = _row(value)
    return f"{row.get('name')} ({row.get('nodes_ready')} of {row.get('nodes_before')})"


def _models(snapshot: Row) -> list[tuple[object, ...]]:
    rows = _rows(snapshot.get("models"))

    def order(item: tuple[str, Row]) -> tuple[bool, float, float, str]:
        name, row = item
        traffic = _traffic(row)
        is_well = bool(row.get("is_reached")) and not row.get("nodes_failed")
        errors, requests = (_number(traffic.get(key)) for key in ("errors_per_s", "requests_per_s"))
        return is_well, -errors, -requests, name

    return [_model(name, row) for name, row in sorted(rows.items(), key=order)]


def _model(name: str, row: Row) -> tuple[object, ...]:
    traffic, failed = _traffic(row), _list(row.get("failed_at"))
    why = "" if row.get("is_reached") else "no node can be reached"
    if failed:
        why = short_reason(_row(failed[0]).get("reason", ""))
    return (
        name,
        row.get("nodes_ready", 0),
        row.get("requests_in_flight", 0),
        f"{_number(traffic.get('requests_per_s')):.1f}",
        f"{_number(traffic.get('errors_per_s')):.1f}",
        _time(traffic.get("p50_us")),
        _time(traffic.get("p99_us")),
        why,
    )


def _traffic(row: Row) -> Row:
    """Return what is counted of a model, which is told of all its versions together: at the newest one alone."""
    return _row(row.get("traffic")) if row.get("is_newest") else {}


def _nodes(snapshot: Row) -> list[tuple[object, ...]]:
    rows = [{**row, "peer_id": peer} for peer, row in _rows(snapshot.get("nodes")).items()]
    names = node_names(rows)

    def order(row: Row) -> tuple[int, float, str]:
        rank = _TROUBLE.get(str(row.get("state")), _OTHER_TROUBLE)
        return rank, -_number(row.get("models_failed")), node_name(row, names)

    return [_node(row, node_name(row, names)) for row in sorted(rows, key=order)]


def _node(row: Row, name: str) -> tuple[object, ...]:
    counts = [_list(one) for one in _list(row.get("counts"))]
    columns = [[_number(one[at]) for one in counts if len(one) > at] for at in range(4)]
    why = short_reason(row.get("reason") or "")
    failing = _list(row.get("failing"))
    if not why and failing:
        first = _row(failing[0])
        why = f"{first.get('name')}: {short_reason(first.get('reason', ''))}"
    return (
        name,
        row.get("state", "?"),
        f"{row.get('models_ready', 0)} of {row.get('models', 0)}",
        f"{sum(columns[1]):.0f}",
        f"{sum(columns[2]):.0f}",
        f"{sum(columns[3]):.0f}",
        _time(min(columns[0], default=None)),
        why,
    )


def _time(microseconds: object) -> str:
    from capamesh.cli.printing import time_text  # noqa: PLC0415 - it takes long to import

    return time_text(_number(microseconds) / 1e6) if _number(microseconds) else "-"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _row(value: object) -> Row:
    return cast("Row", value) if isinstance(value, dict) else {}


def _rows(value: object) -> dict[str, Row]:
    return {str(key): _row(row) for key, row in _row(value).items()}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
