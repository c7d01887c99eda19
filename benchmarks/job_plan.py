"""Measures the plan of a batch job over 20,000,000 lines: seconds, memory and shards. It makes the file, some 600 MB, and removes it.

`python benchmarks/job_plan.py [--rows 20000000] [--keep]`. The plan runs in a process of its own, as far as the store goes: the ranges
are made and put away. Beside it, in the same run, what reading and hashing the same bytes alone takes. `--keep` writes the figures and
their place of the page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import page_tables
from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import shard_limits
from capamesh.router.jobs.inputs.source import LocalFile

MOST_S = 60.0
MOST_MIB = 100.0
PAGE = "jobs.md"
MADE_BY = "python benchmarks/job_plan.py --keep"
RATES = (50.0, 1_000.0, 100_000.0)
"""The rows that a model runs a second: a shard is five seconds of it."""


def write_lines(path: Path, rows: int) -> None:
    """Write so many short rows."""
    block = 10_000
    with path.open("w") as file:
        for first in range(0, rows, block):
            numbers = range(first, min(first + block, rows))
            file.write("".join(f'{{"id":{at},"x":[{at % 97}]}}\n' for at in numbers))


def read_alone(path: Path) -> float:
    """Return the seconds that reading and hashing the bytes takes."""
    began_s = time.perf_counter()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return time.perf_counter() - began_s


def plan(path: Path, rows_per_s: float) -> dict[str, float]:
    """Plan the file in this process and return the seconds, the shards, the rows and the memory that came to it."""
    reader = JsonlReader(LocalFile(path))
    limits = shard_limits(rows_per_s, 32, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    shards = rows = 0
    for each in reader.ranges(limits):
        shards += 1
        rows += each.rows
    return {
        "seconds": time.perf_counter() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "shards": shards,
        "rows": rows,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def measure(rows: int, console: Console) -> dict[str, Any]:
    """Measure each rate in a process of its own and return the figures."""
    table = Table("rows a second", "shards", "plan s", "CPU s", "more memory MiB")
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_lines(path, rows)
        alone_s = read_alone(path)
        for rate in RATES:
            words = [sys.executable, __file__, "--plan", str(path), str(rate)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            seen = json.loads(done.stdout)
            if seen["rows"] != rows:
                raise SystemExit(f"the plan has {seen['rows']} rows of {rows}")
            found.append({"rows_per_s": rate, **seen})
            table.add_row(
                f"{rate:,.0f}",
                f"{seen['shards']:,}",
                f"{seen['seconds']:.1f}",
                f"{seen['cpu_s']:.1f}",
                f"{seen['mib']:.1f}",
            )
        size_bytes = path.stat().st_size
    console.print(table)
    console.print(
        f"{rows:,} rows, {size_bytes / 1e6:,.0f} MB; to read and hash them alone took {alone_s:.1f} s;"
        f" bars: {MOST_S:g} s, {MOST_MIB:g} MiB"
    )
    return {"rows": rows, "size_bytes": size_bytes, "read_alone_s": alone_s, "plans": found}


def page_table(figures: dict[str, Any]) -> str:
    """Return the page's table."""
    lines = [
        "| a model's rows a second | shards | seconds | CPU time | more memory |",
        "|---:|---:|---:|---:|---:|",
        *(
            f"| {each['rows_per_s']:,.0f} | {each['shards']:,} | {each['seconds']:.1f} | {each['cpu_s']:.1f} s | {each['mib']:.1f} MiB |"
            for each in figures["plans"]
        ),
        f"| reading and hashing alone | | {figures['read_alone_s']:.1f} | | |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    parser.add_argument("--plan", nargs=2, metavar=("FILE", "RATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print(json.dumps(plan(Path(options.plan[0]), float(options.plan[1]))))
        return
    console = Console(width=120)
    figures = measure(options.rows, console)
    if options.keep:
        console.print(f"kept in {keep('job_plan', figures)}")
        page_tables.write(PAGE, MADE_BY, page_table(figures))


if __name__ == "__main__":
    main()
