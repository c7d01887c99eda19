"""Measures how a router scales with the fleet: memory, bytes, CPU and staleness of what it knows, by production code.

`python benchmarks/scale.py [--nodes 100,1000,10000] [--parts view,mesh,staleness,simulator] [--quick]`. A node has
one GPU and 5 of 50 models, each with three tensors; its adverts are sealed with keys and chains of their own. CPU is
processor time, so that other work on the machine counts for little; the middle of several repetitions is told, and
the least and most. `mesh` starts sidecars on this machine and needs nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from figure_tables import a_day, count_of, fixed, kib_a_node, scattered, share, table, timing
from machine import keep, memory_bytes
from msgspec import structs
from rich.console import Console
from samples import alone
from scale_fleet import make_fleet
from scale_mesh import measure_mesh, measure_sidecar
from scale_staleness import staleness
from scale_view import measure_cpu, measure_memory

from capamesh.node.agent.advert_schedule import AGAIN_S
from capamesh.router.policies import DEFAULT_POLICY

SEED = 1
INTERVALS_S = (5.0, 10.0, 20.0, 30.0, 60.0)
LOSSES = (0.0, 0.01, 0.1)
CPU_BUDGET, BANDWIDTH_BUDGET = 0.05, 1e6
"""The part of one core, and the bits a second, that a router may spend on hearing of its fleet (the design's)."""
COPIES = {"one": 1, "ours": 4, "D = 6": 6}
"""The copies of a message that a router receives: `MeshGossipSub` has degree 4, GossipSub's own is 6."""
NOISE_YAMUX_BYTES = 12 + 2 + 16
"""A yamux header, and the length and tag of a noise frame; TCP and IP are left out."""


def simulator(count: int) -> dict[str, Any]:
    """Simulate `thousand` with `count` nodes, for about 150,000 requests, or 1 s at least."""
    from capamesh.simulation.parallel import run_scenario  # noqa: PLC0415 - only this part needs it
    from capamesh.simulation.shipped import shipped_scenario  # noqa: PLC0415

    thousand = shipped_scenario("thousand")
    groups = tuple(
        structs.replace(group, count=max(1, round(group.count * count / 1000)))
        for group in thousand.nodes
    )
    scenario = replace(thousand, nodes=groups)
    duration_s = max(1.0, min(20.0, 150_000 / scenario.arrivals_per_s))
    began_s, before = time.process_time(), memory_bytes(os.getpid())
    results = run_scenario(
        scenario.shortened(duration_s, duration_s / 4), policy=DEFAULT_POLICY, seed=SEED
    )
    took_s = time.process_time() - began_s
    requests = round(scenario.arrivals_per_s * duration_s)
    return {
        "nodes": scenario.node_count,
        "virtual_s": duration_s,
        "requests": requests,
        "cpu_s": took_s,
        "requests_per_cpu_s": requests / took_s,
        "p50_ms": results.p50_s * 1e3,
        "p99_ms": results.p99_s * 1e3,
        "goodput_share": results.goodput_share,
        "rss_bytes": memory_bytes(os.getpid()) - before,
    }


def interval_s(nodes: int, message_us: float, message_bytes: float, copies: float) -> float:
    """Return how often `nodes` may advertise if a router is to stay within both budgets, 10 s at least."""
    by_cpu_s = nodes * message_us / 1e6 / CPU_BUDGET
    by_bytes_s = nodes * message_bytes * copies * 8 / BANDWIDTH_BUDGET
    return max(10.0, by_cpu_s, by_bytes_s)


def view_part(console: Console, nodes: list[int], file: Path) -> dict[str, Any]:
    """Measure and print one router's process."""
    memory = [alone(measure_memory, file, count) for count in nodes]
    table(
        console,
        "memory of a router's view, KiB a node",
        memory,
        {
            "nodes": count_of("nodes"),
            "process": kib_a_node("rss_bytes"),
            "Python's": kib_a_node("python_bytes"),
            "of it chains": kib_a_node("chains_bytes"),
            "index": kib_a_node("view_bytes"),
            "adverts": kib_a_node("adverts_bytes"),
            "process in all, MiB": fixed("rss_bytes", unit=2**20),
        },
    )
    cpu = [alone(measure_cpu, file, count) for count in nodes]
    table(
        console,
        "CPU of one advert in a router's process, µs",
        cpu,
        {
            "nodes": count_of("nodes"),
            "first": scattered("first", "advert_us"),
            "unchanged": scattered("unchanged", "advert_us"),
            "changed": scattered("changed", "advert_us"),
            "prove": scattered("unchanged prove", "advert_us"),
            "decode": scattered("unchanged decode", "advert_us"),
            "apply": scattered("unchanged apply", "advert_us"),
            "apply a change": scattered("changed apply", "advert_us"),
            "from the channel": scattered("channel_us"),
        },
    )
    table(
        console,
        "decisions in that view, µs",
        cpu,
        {
            "nodes": count_of("nodes"),
            "replicas of the model": lambda row: f"{row['decision']['replicas_of_model']:,}",
            "a request": scattered("serve_us", "decision", 1),
            "a replica comes or goes": scattered("apply_replica_us", "decision"),
            "request just after": scattered("serve_after_us", "decision"),
            "tick of 50 models": scattered("tick_us", "decision"),
        },
    )
    return {"memory": memory, "cpu": cpu}


def mesh_part(console: Console, *, is_quick: bool) -> dict[str, Any]:
    """Measure and print one sidecar, without sockets and with."""
    dry = alone(measure_sidecar, 200)
    table(
        console,
        "a message in the sidecar, without sockets",
        [dry],
        {
            "first, µs": count_of("first_us"),
            "new, µs": scattered("message_us"),
            "of it the judge, µs": scattered("judge_us"),
            "again, µs": scattered("duplicate_us"),
            "envelope, bytes": count_of("envelope_bytes"),
            "message, bytes": count_of("rpc_bytes"),
        },
    )
    cases = [(1, 8, False), (3, 8, False), (5, 8, False), (5, 8, True)]
    each = 20 if is_quick else 40
    wet = [asyncio.run(measure_mesh(*case, each, 0.25)) for case in cases[: 1 if is_quick else 4]]
    table(
        console,
        "a node's message in a router's sidecar, over loopback",
        wet,
        {
            "routers": count_of("routers"),
            "nodes": count_of("publishers"),
            "messages": count_of("sent"),
            "a message, bytes": lambda row: f"{row['received_bytes'] / row['received']:,.0f}",
            "heard": share("heard_share"),
            "times received": fixed("received", 2),
            "bytes received": count_of("received_bytes"),
            "CPU, µs": scattered("message_us"),
            "idle, of a core": share("idle_share"),
            "memory, MiB": fixed("rss_bytes", 0, 2**20),
        },
    )
    return {"dry": dry, "wet": wet}


def staleness_part(console: Console, *, is_quick: bool) -> list[dict[str, Any]]:
    """Simulate and print what a router believes."""
    cases = [(interval, loss, 3, 0.0) for interval in (*INTERVALS_S, 120.0) for loss in LOSSES]
    cases += [(10.0, 0.1, missed, 0.0) for missed in (2, 4)]
    cases += [(interval, loss, 3, AGAIN_S) for interval in (60.0, 120.0) for loss in LOSSES[1:]]
    rows = [staleness(*case, nodes=50 if is_quick else 400, hours=3.0) for case in cases]
    table(
        console,
        "what a router believes, seconds (mean / p99 / most)",
        rows,
        {
            "interval": count_of("interval_s"),
            "loss": lambda row: f"{row['loss']:.0%}",
            "missed": count_of("missed"),
            "again after": count_of("again_s"),
            "age": timing("age_s"),
            "change known": timing("change_s"),
            "death suspected": timing("suspected_s"),
            "dead forgotten": timing("left_s"),
            "false suspicions a node-day": a_day("false_suspicions", 2),
            "false expiries": a_day("false_expiries", 3),
            "node-days": fixed("node_days"),
        },
    )
    return rows


def simulator_part(console: Console, nodes: list[int]) -> list[dict[str, Any]]:
    """Run and print the simulator."""
    rows = [alone(simulator, count) for count in nodes]
    table(
        console,
        "the simulator: `thousand` with so many nodes, 10 routers",
        rows,
        {
            "nodes": count_of("nodes"),
            "virtual s": fixed("virtual_s"),
            "requests": count_of("requests"),
            "CPU s": count_of("cpu_s"),
            "requests a CPU second": count_of("requests_per_cpu_s"),
            "p50, ms": count_of("p50_ms"),
            "p99, ms": count_of("p99_ms"),
            "goodput": share("goodput_share"),
            "memory, MiB": fixed("rss_bytes", 0, 2**20),
        },
    )
    return rows


def costs(console: Console, kept: dict[str, Any]) -> dict[str, Any]:
    """Print what hearing of a fleet costs a router, and the interval that keeps it within its budgets."""
    wet = max(
        (row for row in kept["mesh"]["wet"] if not row["is_short"]), key=lambda row: row["routers"]
    )
    size = kept["mesh"]["dry"]["rpc_bytes"] + NOISE_YAMUX_BYTES
    sidecar_us = wet["message_us"]["mid"]
    loads: list[dict[str, Any]] = []
    least: list[dict[str, Any]] = []
    for row in kept["view"]["cpu"]:
        count = row["nodes"]
        router_us = row["advert_us"]["unchanged"]["mid"] + row["channel_us"]["mid"]
        for seconds in INTERVALS_S:
            rate = count / seconds
            loads.append(
                {"nodes": count, "interval_s": seconds, "rate": rate}
                | {"router": rate * router_us / 1e6, "sidecar": rate * sidecar_us / 1e6}
                | {name: rate * size * copies * 8 / 1e6 for name, copies in COPIES.items()}
            )
        received = wet["received"]
        least.append(
            {
                "nodes": count,
                "router": interval_s(count, router_us, 0, 0),
                "bytes": interval_s(count, 0, size, received),
                "sidecar": interval_s(count, sidecar_us, 0, 0),
                "all": interval_s(count, router_us + sidecar_us, size, received),
            }
        )
    table(
        console,
        f"hearing of a fleet, among {wet['routers']} routers",
        loads,
        {
            "nodes": count_of("nodes"),
            "interval, s": count_of("interval_s"),
            "adverts/s": fixed("rate"),
            "router, of a core": share("router"),
            "sidecar": share("sidecar"),
            **{f"Mbit/s, {name}": fixed(name, 2) for name in COPIES},
        },
    )
    table(
        console,
        f"the least interval within {CPU_BUDGET:.0%} of a core and {BANDWIDTH_BUDGET / 1e6:g} Mbit/s, s",
        least,
        {
            "nodes": count_of("nodes"),
            "by the router's process": count_of("router"),
            "by bytes": count_of("bytes"),
            "by the sidecar": count_of("sidecar"),
            "by all": count_of("all"),
        },
    )
    return {"loads": loads, "least": least}


def main() -> int:
    """Measure what is asked for, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", default="100,1000,10000", help="fleet sizes, with commas")
    parser.add_argument(
        "--parts", default="view,mesh,staleness,simulator", help="names, with commas"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer messages and nodes: to see that it runs"
    )
    options = parser.parse_args()
    nodes = sorted(int(count) for count in options.nodes.split(","))
    parts = options.parts.split(",")
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    console = Console(width=None if sys.stdout.isatty() else 170)
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "view" in parts:
            file = Path(folder) / "fleet"
            make_fleet(nodes[-1], file)
            kept["view"] = view_part(console, nodes, file)
        if "mesh" in parts:
            kept["mesh"] = mesh_part(console, is_quick=options.quick)
        if "view" in kept and "mesh" in kept:
            kept["costs"] = costs(console, kept)
        if "staleness" in parts:
            kept["staleness"] = staleness_part(console, is_quick=options.quick)
        if "simulator" in parts:
            kept["simulator"] = simulator_part(console, nodes)
    for name, figures in kept.items():
        console.print(
            f"kept in {keep(f'scale-{name}', {'seed': SEED, 'nodes': nodes, name: figures})}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
