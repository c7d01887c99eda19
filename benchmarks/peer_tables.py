"""The figures of routers that are compared: rows, and how they are shown. Prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peer_routers import CONTENDERS
from rich.console import Console
from rich.table import Table
from wrk import Load

OWN = "capamesh"


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's load in one round."""

    load: Load
    cpu_s: float | None


Cells = dict[tuple[str, int, str], list[Turn]]
"""The turns of each (request, connections, contender), one a round."""


def row_of(key: tuple[str, int, str], turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the medians over rounds; failures are summed."""
    request, connections, name = key
    row: dict[str, Any] = {
        "request": request,
        "connections": connections,
        "router": name,
        "per_second": round(statistics.median(turn.load.per_second for turn in turns), 1),
        "p50_us": round(statistics.median(turn.load.p50_us for turn in turns)),
        "p99_us": round(statistics.median(turn.load.p99_us for turn in turns)),
        "failed": sum(turn.load.failed for turn in turns),
    }
    used = [
        (turn.cpu_s / turn.load.requests * 1e6, turn.cpu_s / turn.load.duration_us * 1e6)
        for turn in turns
        if turn.cpu_s and turn.load.requests
    ]
    if used:
        row["cpu_us"] = round(statistics.median(cpu_us for cpu_us, _ in used), 1)
        row["cores"] = round(statistics.median(cores for _, cores in used), 2)
        row["per_second_a_core"] = round(1e6 / row["cpu_us"])
        row["rounds_cpu_us"] = [round(cpu_us, 1) for cpu_us, _ in used]
    return row


def rows_of(cells: Cells, requests: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each cell, by request, connections and router.

    A row has the CPU time of Capamesh's router over its own, where both were measured.
    """

    def place(cell: tuple[tuple[str, int, str], list[Turn]]) -> tuple[int, int, int]:
        (request, connections, name), _ = cell
        return requests.index(request), connections, list(CONTENDERS).index(name)

    rows = [row_of(key, turns) for key, turns in sorted(cells.items(), key=place)]
    own = {
        (row["request"], row["connections"]): row["cpu_us"]
        for row in rows
        if row["router"] == OWN and "cpu_us" in row
    }
    for row in rows:
        mine = own.get((row["request"], row["connections"]))
        if mine is not None and "cpu_us" in row and row["router"] != OWN:
            row["capamesh_cpu_ratio"] = round(mine / row["cpu_us"], 2)
    return rows


def show(rows: Sequence[dict[str, Any]], missing: dict[str, str], console: Console) -> None:
    """Print the table, and why some are not in it."""
    table = Table(title="the same bytes, upstreams and client: medians of rounds")
    columns = ("request", "c", "router", "upstreams", "req/s", "p50", "p99", "failed")
    for column in (*columns, "CPU µs/req", "cores", "req/s a core", "Capamesh's CPU / its"):
        is_text = column in {"request", "router", "upstreams"}
        table.add_column(column, justify="left" if is_text else "right")
    for row in rows:
        table.add_row(
            row["request"],
            str(row["connections"]),
            row["router"],
            CONTENDERS[row["router"]].upstreams,
            f"{row['per_second']:,.0f}",
            f"{row['p50_us']:,} µs",
            f"{row['p99_us']:,} µs",
            str(row["failed"]),
            *(
                f"{row[key]:,}" if key in row else ""
                for key in ("cpu_us", "cores", "per_second_a_core", "capamesh_cpu_ratio")
            ),
        )
    for name, reason in missing.items():
        table.add_row("", "", name, f"not measured: {reason}")
    console.print(table)


def markdown(figures: dict[str, Any], cores: int) -> str:
    """Return the table of a page: CPU time for a request, and requests a second; and what they are of."""
    rows = figures["rows"]
    columns = list(dict.fromkeys((row["request"], row["connections"]) for row in rows))
    heads = " | ".join(f"{request}, c={connections}" for request, connections in columns)
    lines = [f"| CPU µs a request; req/s | {heads} |", f"|---|{'---:|' * len(columns)}"]
    for name in dict.fromkeys(row["router"] for row in rows):
        cells = {
            (row["request"], row["connections"]): f"{_us(row)}{row['per_second']:,.0f}"
            for row in rows
            if row["router"] == name
        }
        lines.append(f"| {name} | {' | '.join(cells[column] for column in columns)} |")
    lines += [
        f"| {name} | not measured: {reason} |" for name, reason in figures["not_measured"].items()
    ]
    versions = [
        f"{name} {entry['version']}"
        for name, entry in figures["routers"].items()
        if entry["version"] and name.partition(",")[0] == name
    ]
    lines += [
        "",
        f"{figures['rounds']} x {figures['seconds']} s each, medians, on {cores} cores: {', '.join(versions)}.",
    ]
    return "\n".join(lines)


def _us(row: dict[str, Any]) -> str:
    return f"**{row['cpu_us']:,.0f}**; " if "cpu_us" in row else ""
