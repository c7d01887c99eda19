"""Makes one page of the parts that several processes of a router have to it. Pure.

The first part is that of the process that was asked. The others see the same fleet by links of their own: what they count
adds up, and what is wrong at one of them is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from capamesh.router.telemetry.ended import MOST_KINDS, MOST_OF_A_KIND

Row = dict[str, Any]
ADDED: Final = ("requests_in_flight", "answered", "failed")
WELL: Final = frozenset({"closed", "forced_closed"})
DIALLED_IN: Final = "dialled-in-"
"""The beginning of an address that is none: of a link that the node has dialled, which is another one at each process."""


def merged_nodes(parts: Sequence[bytes]) -> bytes:
    """Return the page of all nodes."""
    pages = [cast("dict[str, list[Row]]", json.loads(part)) for part in parts]
    others = [{row["peer_id"]: row for row in page["nodes"]} for page in pages[1:]]
    for row in pages[0]["nodes"]:
        _merge_node(row, [found for each in others if (found := each.get(row["peer_id"]))])
    return json.dumps(pages[0]).encode()


def merged_node(parts: Sequence[bytes]) -> bytes:
    """Return the page of one node."""
    first, *others = (cast("Row", json.loads(part)) for part in parts)
    _merge_node(first, others)
    return json.dumps(first).encode()


def merged_requests(parts: Sequence[bytes]) -> bytes:
    """Return the page of requests that failed or took long: the kinds of all, and the newest requests of each."""
    kinds: dict[tuple[str, str], Row] = {}
    rows = [row for part in parts for row in cast("list[Row]", json.loads(part)["kinds"])]
    for row in sorted(rows, key=_last_at, reverse=True):
        key = (row["model"], row["code"])
        known = kinds.get(key)
        if known is None:
            kinds[key] = row
            continue
        known["count"] += row["count"]
        known["error"] = known["error"] or row["error"]
        newest: list[Row] = [*known["newest"], *row["newest"]]
        newest.sort(key=lambda request: -float(request["began_at"]))
        known["newest"] = newest[:MOST_OF_A_KIND]
    return json.dumps({"kinds": list(kinds.values())[:MOST_KINDS]}).encode()


def _last_at(row: Row) -> float:
    return float(row["last_at"])


def _merge_node(node: Row, others: Iterable[Row]) -> None:
    links: dict[str, Row] = {link["address"]: link for link in node["links"]}
    for other in others:
        for link in other["links"]:
            known = links.get(link["address"])
            if known is None or link["address"].startswith(DIALLED_IN):
                node["links"].append(link)
            else:
                _merge_link(known, link)


def _merge_link(link: Row, other: Row) -> None:
    _add(link, other)
    link["is_up"] = link["is_up"] or other["is_up"]
    link["is_usable"] = link["is_usable"] or other["is_usable"]
    link["last_error"] = link["last_error"] or other["last_error"]
    _take_worse(link, other)
    models: dict[tuple[str, str], Row] = {
        (model["name"], model["version"]): model for model in link["models"]
    }
    for model in other["models"]:
        known = models.get((model["name"], model["version"]))
        if known is None:
            link["models"].append(model)
            continue
        _add(known, model)
        _take_worse(known, model)
        known["share"] = min(known["share"], model["share"])


def _add(row: Row, other: Row) -> None:
    for key in ADDED:
        if key in row:
            row[key] += other[key]


def _take_worse(row: Row, other: Row) -> None:
    """Show the state that one of the two is in where something is wrong with it."""
    if row["state"] in WELL and other["state"] not in WELL:
        row["state"], row["reason"] = other["state"], other["reason"]
