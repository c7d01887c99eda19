"""Samples a loaded router's stacks, and shares its CPU time out among its layers. Starts processes, writes files.

    python benchmarks/profile_router.py [--seconds 10] [--keep]

What is profiled are the sources: py-spy sees no frames of compiled functions. Needs wrk, and the right to look into a process of one's own (root, or a `ptrace_scope` that lets py-spy in). The router
stands before the link upstreams of `peers.py`, which do next to nothing. For each load: its CPU time for a request, measured
without the sampler; then the samples, which share it out. Flame graphs and the stacks go to build/profile/; `--keep`
writes the figures to results/ and the table into docs/explanation/benchmarks/profile.md.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page_tables
from environments import python_of
from machine import cpu_s, keep
from peer_routers import MODELS, commit
from peer_upstreams import link_upstreams
from peers import Request, cases, requests_of
from rich.console import Console
from rich.table import Table
from router_layers import LAYERS, shares
from wrk import load, require_wrk

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.http import connection

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "profile"
MADE_BY = "make profile ARGS=--keep"
RATE = 400
"""Samples a second (guess: an odd beat with nothing, and little time spent stopped)."""
LOADS = ((0, 32), (0, 256), (1, 8))
"""The loads: which of the two requests, and over how many connections; enough that the router hardly waits."""
MARGIN_S = 2
"""The seconds that a load lasts longer than the sampling within it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The cost of one load's requests by layer."""

    name: str
    cpu_us: float
    """The CPU time of the router's process for a request, in microseconds."""
    busy: float
    """The part of the time that the process ran: the loop's samples have the rest in them, where it is not 1."""
    layers: dict[str, float]
    """The part of it in each layer, in microseconds."""


async def sample(pid: int, file: Path, kind: str, seconds: int) -> None:
    """Sample a process's stacks into a file. SystemExit: it may not be looked into."""
    sampler = python_of(Path(__file__).parent / "py-spy.txt", BUILD / "py-spy").with_name("py-spy")
    process = await asyncio.create_subprocess_exec(
        *(str(sampler), "record", "--pid", str(pid), "--format", kind, "--full-filenames"),
        *("--rate", str(RATE), "--duration", str(seconds), "--output", str(file)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"py-spy: {said.decode().strip()}")


async def profile(
    cluster: LocalCluster, request: Request, connections: int, seconds: int
) -> Profile:
    """Load the router three times: to measure, for the stacks, and for the flame graph."""
    pid, url = cluster.router.pid, cluster.http_url + request.path

    async def loaded(for_s: int) -> tuple[float, float]:
        before_s = cpu_s(pid)
        seen = await load(
            url, request.body, request.header_length, connections=connections, seconds=for_s
        )
        if seen.failed:
            raise SystemExit(f"{seen.failed} requests failed at {url}")
        used_us = (cpu_s(pid) - before_s) * 1e6
        return used_us / seen.requests, used_us / seen.duration_us

    await loaded(MARGIN_S)  # warm up
    cpu_us, busy = await loaded(seconds)
    name = f"{request.name}, c={connections}"
    file = BUILD / f"{name.replace(' ', '').replace(',', '-').replace('=', '')}.txt"
    for target, kind in ((file, "raw"), (file.with_suffix(".svg"), "flamegraph")):
        sampling = asyncio.create_task(sample(pid, target, kind, seconds))
        await asyncio.gather(loaded(seconds + MARGIN_S), sampling)
    parts = shares(file.read_text().splitlines())
    return Profile(name, cpu_us, busy, {layer: part * cpu_us for layer, part in parts.items()})


async def measure(seconds: int) -> list[Profile]:
    """Profile a router under each load."""
    requests = [requests_of(case)[0] for case in cases()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        async with (
            LocalCluster(folder / "cluster", folder / "models", nodes=0) as cluster,
            link_upstreams(cluster, folder, MODELS),
        ):
            return [
                await profile(cluster, requests[request], connections, seconds)
                for request, connections in LOADS
            ]


def markdown(profiles: list[Profile]) -> str:
    """Return the table of a page."""
    names = " | ".join(each.name for each in profiles)
    lines = [f"| µs of CPU a request | {names} |", f"|---|{'---:|' * len(profiles)}"]
    for layer in LAYERS:
        cells = " | ".join(
            f"{each.layers[layer]:.1f} ({each.layers[layer] / each.cpu_us:.0%})"
            for each in profiles
        )
        lines.append(f"| {layer} | {cells} |")
    totals = " | ".join(f"**{each.cpu_us:.1f}**" for each in profiles)
    busy = " | ".join(f"{each.busy:.0%}" for each in profiles)
    return "\n".join((*lines, f"| **all** | {totals} |", f"| busy | {busy} |"))


def show(profiles: list[Profile], console: Console) -> None:
    """Print the table."""
    table = Table(title="µs of the router's CPU for a request, by layer")
    table.add_column("layer")
    for each in profiles:
        table.add_column(each.name, justify="right")
    for layer in LAYERS:
        table.add_row(layer, *(f"{each.layers[layer]:.1f}" for each in profiles))
    table.add_section()
    table.add_row("all", *(f"{each.cpu_us:.1f}" for each in profiles))
    table.add_row("busy", *(f"{each.busy:.0%}" for each in profiles))
    console.print(table)


def main() -> int:
    """Profile, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each load")
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    options = parser.parse_args()
    require_wrk()
    if not str(connection.__file__).endswith(".py"):
        raise SystemExit(
            "the router is compiled, and py-spy sees no stacks in it: set CAPAMESH_PURE=1, as `make profile` does"
        )
    BUILD.mkdir(parents=True, exist_ok=True)
    console = Console()
    profiles = asyncio.run(measure(options.seconds))
    show(profiles, console)
    console.print(f"flame graphs and stacks are in {BUILD}")
    if options.keep:
        page = page_tables.write("profile.md", MADE_BY, markdown(profiles))
        figures: dict[str, Any] = {
            "commit": commit(),
            "seconds": options.seconds,
            "rate": RATE,
            "loads": {
                each.name: {"cpu_us": round(each.cpu_us, 1), "busy": round(each.busy, 2)}
                | {layer: round(us, 2) for layer, us in each.layers.items()}
                for each in profiles
            },
        }
        console.print(f"kept in {keep('profile', figures)} and {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
