"""Compares the tails of policies. Real processes: six nodes, two of them slower than the others.

`python benchmarks/policies.py [--requests 9000]`. Each node has a share of a core of its own, so that it is as fast as
it is whoever else is busy; requests come at a fixed rate whatever becomes of them, policies take turns, and latencies
count from when a request was due. The load is a part of what the same cluster answers when always 16 are under way.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import keep, wait_quiet
from report import Report
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import engine_models  # noqa: E402 - found by the path set above, as all of these
from chaos import slowed, worker_pids  # noqa: E402
from clusters import (  # noqa: E402
    MODEL,
    Cluster,
    capacity,
    peer_of,
    requests,
    until_in_rotation,
)
from http_load import Load, Shot, failed, quantile_s  # noqa: E402

from capamesh.router.policies import DEFAULT_POLICY  # noqa: E402

SEED = 20260702
TURNS = 500
"""2 ms of work: enough that what a router and this load generator cost is the smaller part."""
LOADS = (0.5, 0.8)
NODES = 6
SLOW_NODES = 2
FAST_SHARE = 0.25
"""The fast nodes' share of a core. Were each to have what it can get of two cores, none would be slower than another for long."""
SLOW_SHARE = 0.08
COMPARED = ("prequal", "round-robin", "random", "p2c", "least-request", "peak-ewma")
ROUNDS = 9
"""Policies take turns; each turn's quantiles count once, and of the turns the median: a second in which the machine
itself stood still is in the p99 of whoever had its turn then."""
SETTLED = 0.1
"""The part of a turn's requests, its first, that is not counted: the queues are still those of the policy before."""
PAUSE_S = 0.5


async def measure(
    folder: Path, count: int, load: float, report: Report, progress: Progress
) -> None:
    """Compare policies, each with `count` requests, at a part of the capacity."""
    name = f"at {load:.0%}"
    models = folder / "models"
    engine_models.save(engine_models.turning(TURNS), models, MODEL)
    seen: dict[str, list[list[Shot]]] = {policy: [] for policy in COMPARED}
    task = progress.add_task(f"{name}: starting", total=ROUNDS * len(COMPARED))
    async with Cluster(folder / "cluster", models) as cluster:
        for _ in range(NODES):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        shares = {
            pid: SLOW_SHARE if number < SLOW_NODES else FAST_SHARE
            for number, node in enumerate(cluster.nodes)
            for pid in worker_pids(node)
        }
        with slowed(shares):
            rate = await capacity(cluster, TURNS) * load
            for turn in range(ROUNDS):
                for policy in COMPARED[turn:] + COMPARED[:turn]:
                    progress.update(task, description=f"{name}: turn {turn + 1}, {policy}")
                    generator = Load(
                        cluster.http_url, MODEL, is_explained=False, X_Capamesh_Policy=policy
                    )
                    shots = await generator.run(
                        requests(count // ROUNDS, TURNS), rate=rate, seed=SEED + turn
                    )
                    seen[policy].append(shots[int(len(shots) * SETTLED) :])
                    await asyncio.sleep(PAUSE_S)
                    progress.advance(task)
            progress.update(task, description=f"{name}: stopping")
    slow = set(peers[:SLOW_NODES])
    figures = {policy: _figures_of(supervisor, slow) for policy, supervisor in seen.items()}
    report.bar(name, "failed requests", sum(each["failed"] for each in figures.values()), 0)
    others = min(each["p99_ms"] for key, each in figures.items() if key != DEFAULT_POLICY)
    own = figures[DEFAULT_POLICY]["p99_ms"]
    report.bar(name, f"p99 of {DEFAULT_POLICY}, of the best other's", own / others, 1)
    report.note(name, rate=rate, load=load, by_policy=figures)


def _figures_of(supervisor: list[list[Shot]], slow: set[str]) -> dict[str, Any]:
    """Return a policy's figures: medians of its turns, but for what is counted."""
    shots = [shot for turn in supervisor for shot in turn]

    def median_ms(share: float) -> float:
        return statistics.median(quantile_s(turn, share) for turn in supervisor) * 1e3

    return {
        "p50_ms": median_ms(0.5),
        "p99_ms": median_ms(0.99),
        "p99_ms_of_turns": [round(quantile_s(turn, 0.99) * 1e3, 1) for turn in supervisor],
        "failed": failed(shots),
        "share_of_slow": sum(shot.node in slow for shot in shots) / len(shots),
    }


def show(report: Report, console: Console) -> None:
    """Print the policies' figures, and the bars."""
    for name, figures in report.figures.items():
        table = Table(title=f"{figures['rate']:.0f} requests a second, {name} of the capacity")
        for column in ("policy", "p50", "p99", "p99 of the turns", "at the slow nodes"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for policy, seen in figures["by_policy"].items():
            supervisor = " ".join(f"{each:.0f}" for each in sorted(seen["p99_ms_of_turns"]))
            table.add_row(
                policy,
                f"{seen['p50_ms']:.1f} ms",
                f"{seen['p99_ms']:.1f} ms",
                supervisor,
                f"{seen['share_of_slow']:.1%}",
            )
        console.print(table)
    report.show("the default policy", console)


async def measure_all(count: int, report: Report, console: Console) -> None:
    """Measure at each load, with processes of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="capamesh-policies-") as top,
        Progress(console=console) as progress,
    ):
        for load in LOADS:
            await wait_quiet(60.0)
            folder = Path(top) / f"{load:g}"
            folder.mkdir()
            await measure(folder, count, load, report, progress)


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=9000, help="of each policy at each load")
    options = parser.parse_args()
    console, report = Console(), Report()
    asyncio.run(measure_all(options.requests, report, console))
    show(report, console)
    figures = {"seed": SEED, "requests": options.requests, "cases": report.figures}
    console.print(f"kept in {keep('policies', figures)}")
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
