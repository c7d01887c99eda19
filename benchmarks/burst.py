"""Counts how many of a burst for a tiny model are refused: one router, one node, all requests at once on connections that are open.

    python benchmarks/burst.py [--requests 1500] [--timeout 2] [--rounds 3] [--policy p2c]

A refusal goes by the wait that is expected against the request's time, and not by a count: the model takes some 30 us a row,
so that 1,500 rows are done long before their 2 s have passed. The bar: none is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from machine import keep
from report import Report
from rich.console import Console

from capamesh.cli.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))
from http_load import Load, digits_body, failed, failures  # noqa: E402 - found by the line above


async def measure(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Note all figures."""
    request = digits_body(options.timeout), b"label"
    policy = {"X_Capamesh_Policy": options.policy} if options.policy else {}
    async with LocalCluster(folder, options.models, nodes=1) as cluster:
        await cluster.wait_routable(1, models=["digits"])
        load = Load(cluster.http_url, is_explained=False, **policy)
        lost = 0
        times_s: list[float] = []
        for _ in range(options.rounds):
            await load.connect(options.requests)
            began_s = time.monotonic()
            shots = await load.run([request] * options.requests)
            times_s.append(time.monotonic() - began_s)
            lost += failed(shots)
            if failed(shots):
                report.note("refusals", kinds=failures(shots)[:5])
    report.bar("burst", f"lost of {options.rounds} x {options.requests}", lost, 0)
    report.note("burst", median_s=statistics.median(times_s), times_s=times_s)


def main() -> int:
    """Measure, show and keep the figures; 1 where the bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--timeout", type=float, default=2.0, help="of each request, in seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", default="", help="that the requests ask for")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(options, Path(name), report))
    console = Console(width=120)
    report.show("a burst of tiny requests", console)
    console.print(report.figures)
    asked = {name: value for name, value in vars(options).items() if name != "models"}
    keep("burst", {"options": asked, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
