"""Measures what a network's processes hold in memory while they do nothing: a router, a node, one small model.

`python benchmarks/idle.py [--seconds 10] [--model build/models/digits]`. RSS is all that a process has in memory, PSS counts what
several have in common in equal parts, and private is what its end gives back. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
BARS_MIB = {"node": 250, "router": 150}
"""The most RSS of a node's processes together, and of a router without its mesh sidecar."""
FIGURES = ("Rss", "Pss", "Private_Clean", "Private_Dirty", "Anonymous")


def memory_of(pid: int) -> dict[str, int]:
    """Return what a process holds, in bytes by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {name: found[name] for name in FIGURES}


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


def part_of(pid: int) -> str:
    """Return what a process is for: what follows `-m capamesh.` in its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("-m") + 1].removeprefix("capamesh.")


def look(member: str, pid: int) -> dict[str, dict[str, int]]:
    """Return the memory of a member's processes by their names."""
    found = {f"{member}: its own": memory_of(pid)}
    for child in children_of(pid):
        found[f"{member}: {part_of(child)}"] = memory_of(child)
    return found


async def measure(model: Path, seconds: float) -> dict[str, Any]:
    """Start a network, leave it alone, and look at its processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(model, folder / "models" / model.name)
        async with LocalCluster(folder / "cluster", folder / "models", nodes=1) as cluster:
            await cluster.wait_routable(1, models=[model.name])
            await asyncio.sleep(seconds)
            processes = look("router", cluster.router.status()["pid"])
            processes |= look("node", cluster.nodes[0].status()["pid"])
    return {
        "seconds": seconds,
        "model": model.name,
        "processes": processes,
        "node_rss_mib": round(
            sum(seen["Rss"] for name, seen in processes.items() if name.startswith("node")) / MIB
        ),
        "router_rss_mib": round(processes["router: its own"]["Rss"] / MIB),
    }


def show(processes: dict[str, dict[str, int]], console: Console) -> None:
    """Print the table."""
    table = Table(title="memory of idle processes, MiB")
    table.add_column("process")
    for title in ("RSS", "PSS", "private", "anonymous"):
        table.add_column(title, justify="right")
    for name, seen in processes.items():
        private = seen["Private_Clean"] + seen["Private_Dirty"]
        values = (seen["Rss"], seen["Pss"], private, seen["Anonymous"])
        table.add_row(name, *(f"{value / MIB:,.0f}" for value in values))
    console.print(table)


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of doing nothing")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "models" / "digits")
    arguments = parser.parse_args()
    console = Console()
    figures = uvloop.run(measure(arguments.model.resolve(), arguments.seconds))
    show(figures["processes"], console)
    console.print(f"kept in {keep('idle', figures)}")
    seen = {name: figures[f"{name}_rss_mib"] for name in BARS_MIB}
    is_held = all(seen[name] <= most for name, most in BARS_MIB.items())
    console.print(f"RSS {seen}, bars {BARS_MIB}: {'held' if is_held else 'MISSED'}")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
