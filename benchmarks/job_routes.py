"""Asks how long submitting, listing and showing a job over HTTP take beside 10,000 jobs that have not ended. Starts processes.

    python benchmarks/job_routes.py [--jobs 10000] [--asked 300] [--keep]

One router and one node, all defaults, and a store that has the jobs before the router starts: of tenants with 900 each, half of them
paused, half of them blocked, for nobody hosts their model. One client asks the three in turns, one after the other; each job that
it submits has one row and is run meanwhile. The same is asked of a router without other jobs, so that it shows what they add. CPU time
is that of the router's processes, by the kernel's count.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import page_tables
from machine import keep
from report import Report
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import job_model  # noqa: E402 - found by the path set above, as all of these
from job_cluster import JobCluster, processes, url_of  # noqa: E402

from capamesh.protocol.ids import ModelVersion  # noqa: E402
from capamesh.router.jobs.spec import (  # noqa: E402
    InputFormat,
    InputSpec,
    JobSpec,
    OutputSpec,
)
from capamesh.router.jobs.states import JobState  # noqa: E402
from capamesh.router.jobs.store.job_store import JobStore  # noqa: E402
from capamesh.router.jobs.values import Pinned, RowRange  # noqa: E402

JOBS = 10_000
ASKED = 300
TENANT_JOBS = 900
"""The jobs of a tenant that have not ended, of which there may be 1,000."""
AT_ONCE = 50
MOST_MS = 20.0
PINNED = Pinned(ModelVersion("1"), "sha256:" + 64 * "0")
FAILED = "the store does not do what it is asked for"
SUBMIT, LIST, GET = "submit", "list", "get"
PAGE = "jobs.md"
MADE_BY = "python benchmarks/job_routes.py --keep"


async def fill(where: str, count: int) -> None:
    """Put so many jobs into a store, planned and then paused or blocked in turn."""
    store = JobStore.open(where, time.time)

    async def one(number: int) -> None:
        source = InputSpec("/data/in.jsonl", InputFormat.JSONL, {"x": ("x",)})
        spec = JobSpec("absent", source, OutputSpec(""), client_key=secrets.token_hex(8))
        await store.submit(f"tenant {number // TENANT_JOBS}", spec, PINNED)
        taken = await store.claim_plan("fill")
        if taken is None:
            raise SystemExit(FAILED)
        job, token = taken
        await store.add_shards(job.id, token, 0, [RowRange(0, 1000, 0, 0, 60_000)])
        await store.finish_plan(job.id, token, "fingerprint")
        to = JobState.PAUSED if number % 2 else JobState.BLOCKED
        await store.move(job.id, to, "as the benchmark wants it")

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*map(one, range(first, min(count, first + AT_ONCE))))
    await store.close()


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Client:
    """One connection that is kept."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self._headers = {**headers, "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: object = None) -> tuple[Any, float]:
        """Return an answer and the milliseconds that it took."""
        data = None if body is None else json.dumps(body).encode()
        began_s = time.perf_counter()
        self._connection.request(method, path, data, self._headers)
        reply = self._connection.getresponse()
        text = reply.read()
        took_ms = (time.perf_counter() - began_s) * 1000
        if reply.status >= 300:
            raise SystemExit(f"{method} {path}: {reply.status} {text.decode()}")
        return json.loads(text), took_ms


def ask_all(client: Client, rows: Path, pids: Sequence[int], asked: int) -> dict[str, Any]:
    """Ask each of the three so often, in turns, and return what they took."""
    job = {"model": job_model.NAME, "input": {"url": rows.as_uri(), "columns": {"x": ["array"]}}}
    took: dict[str, list[float]] = {SUBMIT: [], LIST: [], GET: []}
    used = dict.fromkeys(took, 0.0)
    made = ""
    for number in range(asked + 5):
        for name, times in took.items():
            before_s = cpu_s(pids)
            match name:
                case "submit":
                    body = {**job, "client_key": f"{number} {secrets.token_hex(4)}"}
                    found, took_ms = client.ask("POST", "/v1/jobs", body)
                    made = found["id"]
                case "list":
                    found, took_ms = client.ask("GET", "/v1/jobs?limit=50")
                case _:
                    found, took_ms = client.ask("GET", f"/v1/jobs/{made}")
            if number >= 5:  # what is loaded late is loaded
                times.append(took_ms)
                used[name] += cpu_s(pids) - before_s
    return {
        name: {
            "median_ms": statistics.median(each),
            "p99_ms": sorted(each)[int(len(each) * 0.99)],
            "cpu_ms": used[name] * 1000 / len(each),
        }
        for name, each in took.items()
    }


async def measure(folder: Path, jobs: int, asked: int) -> dict[str, Any]:
    """Return the figures of a router beside so many jobs."""
    models, rows = folder / "models", folder / "rows.npy"
    job_model.write_model(models, 1)
    job_model.write_rows(rows, 1)
    where = str(folder / "jobs.db")
    if jobs:
        await fill(where, jobs)
    cluster = JobCluster(
        folder / "cluster", models, jobs=where, places=[folder], routers=((),), nodes=1
    )
    async with cluster:
        await cluster.wait_routable(1, models=[job_model.NAME])
        (router,) = cluster.routers
        client = Client(url_of(router), cluster.headers)
        pids = processes(router)
        found = await asyncio.to_thread(ask_all, client, rows, pids, asked)
        before_s, began_s = cpu_s(pids), time.monotonic()
        await asyncio.sleep(5.0)
        rest = (cpu_s(pids) - before_s) / (time.monotonic() - began_s)
        return {"jobs": jobs, "asked": asked, "cpu_at_rest": rest, **found}


def show(figures: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(
        "jobs", "asked", "median ms", "99 % ms", "router's CPU ms", title="routes of jobs"
    )
    for each in figures:
        for name in (SUBMIT, LIST, GET):
            seen = each[name]
            times = (f"{seen[word]:.2f}" for word in ("median_ms", "p99_ms", "cpu_ms"))
            table.add_row(f"{each['jobs']:,}", name, *times)
        table.add_row(
            f"{each['jobs']:,}", "at rest", "", "", f"{1000 * each['cpu_at_rest']:.0f} a s"
        )
    console.print(table)


def page_table(figures: Sequence[dict[str, Any]]) -> str:
    """Return the page's table."""
    lines = [
        "| jobs in the store | asked | median | 99 % | router's CPU time |",
        "|---:|---|---:|---:|---:|",
    ]
    for each in figures:
        jobs = f"{each['jobs']:,}"
        for name in (SUBMIT, LIST, GET):
            times = [f"{each[name][word]:.1f} ms" for word in ("median_ms", "p99_ms", "cpu_ms")]
            lines.append(f"| {' | '.join([jobs, name, *times])} |")
        rest = f"{1000 * each['cpu_at_rest']:.0f} ms a second"
        lines.append(f"| {jobs} | nothing | | | {rest} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--asked", type=int, default=ASKED)
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="capamesh-jobs-") as name:
        figures: list[dict[str, Any]] = []
        for jobs in (0, options.jobs):
            folder = Path(name) / str(jobs)
            folder.mkdir()
            figures.append(asyncio.run(measure(folder, jobs, options.asked)))
    show(figures, console)
    report = Report()
    for what in (SUBMIT, LIST):
        for word in ("median_ms", "p99_ms"):
            report.bar(f"{options.jobs:,} jobs", f"{what} {word}", figures[1][what][word], MOST_MS)
    report.show("job routes", console)
    if options.keep:
        console.print(f"kept in {keep('job_routes', {'beside': figures})}")
        page_tables.write(PAGE, MADE_BY, page_table(figures))
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
