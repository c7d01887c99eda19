"""The counts behind the history of the page, added up over workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from capamesh.protocol.ids import ModelName
from capamesh.router.page.history import Totals


def totals_values(totals: Totals) -> dict[str, Any]:
    """Return totals as plain values."""
    return {
        "latencies": {model: list(counts) for model, counts in totals.latencies.items()},
        "refused": [[*key, count] for key, count in totals.refused.items()],
        "now": [totals.requests_in_flight, totals.nodes, totals.nodes_usable],
    }


def added(parts: Iterable[Mapping[str, Any]]) -> Totals:
    """Return the sum of what `totals_values` wrote: counts and requests add up, nodes are those of who knows most."""
    latencies: dict[ModelName, list[int]] = {}
    refused: dict[tuple[str, str], int] = {}
    in_flight = nodes = usable = 0
    for part in parts:
        for model, counts in cast("dict[str, list[int]]", part["latencies"]).items():
            known = latencies.get(ModelName(model))
            latencies[ModelName(model)] = (
                counts
                if known is None
                else [one + other for one, other in zip(known, counts, strict=True)]
            )
        for model, code, count in part["refused"]:
            refused[model, code] = refused.get((model, code), 0) + count
        now = part["now"]
        in_flight += now[0]
        nodes = max(nodes, now[1])
        usable = max(usable, now[2])
    return Totals(latencies, refused, in_flight, nodes, usable)


def ended(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of the totals of a worker that is gone: what it has counted."""
    return {**part, "now": [0, 0, 0]}
