"""Measures what files that take the memory or a core of whoever reads them cost others, as inputs of jobs at a router with 1 GB.

`python benchmarks/job_inputs.py [--rounds 3] [--seconds 10] [--pause 0.5] [--rate 100]`. One router, in a control group of the kernel that may have
1 GB of memory (v2 or v1, which root can make; where none can be made each of its processes is limited by itself), and a node outside of it.
Requests come at fixed times, alone and beside jobs of one file, one after the other, with a pause; then beside one job of each file and an honest job at
once. The bars: none of the requests fails, their 99th percentile beside each file is at most 1.5 times what it is alone, each job ends with
its reason, the honest one is completed, and a router that is killed while the worst file is its job's serves again and ends that job.
What an honest job costs requests is told by `jobs.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from machine import keep
from report import Report
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import hostile_inputs  # noqa: E402 - found by the line above
from hostile import children_of  # noqa: E402 - likewise
from http_load import Load, failed, quantile_s  # noqa: E402 - likewise
from job_cluster import JobCluster, url_of  # noqa: E402 - likewise
from job_files import write_jsonl  # noqa: E402 - likewise
from job_http import JobError, JobHttp  # noqa: E402 - likewise

ROUTER_BYTES = 10**9
HONEST_ROWS = 20_000
ENDED = {"completed", "failed", "paused", "cancelled"}
POLL_S = 0.2
LIMIT_S = 300.0
BODY = json.dumps(
    {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
).encode()
REQUEST = (BODY, b"outputs")


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """Make a control group of `ROUTER_BYTES` and return its folder; None: none can be made here."""
    folder, file = None, ""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            folder, file = Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
        elif not controllers and folder is None:
            folder, file = Path(f"/sys/fs/cgroup{path}"), "memory.max"
    group = None if folder is None else folder / f"capamesh-{os.getpid()}"
    try:
        if group is not None:
            group.mkdir()
            (group / file).write_text(str(ROUTER_BYTES))
    except OSError as exc:
        print(f"no control group can be made ({exc}): each process is limited by itself")
        if group is not None:
            with suppress(OSError):
                group.rmdir()
        group = None
    try:
        yield group
    finally:
        if group is not None:
            with suppress(OSError):
                group.rmdir()


async def started_within(cluster: JobCluster, group: Path | None) -> None:
    """Kill the router and start it anew with no more memory than it may have, which it sees as in a container."""
    router = cluster.routers[0]
    os.kill(router.pid, signal.SIGKILL)
    with suppress(Exception):  # how it ended is known
        await router.stop(1.0)
    if group is not None:  # who is started by this process is in its group
        (group / "cgroup.procs").write_text(str(os.getpid()))
    again = await cluster.start_again(router)
    if group is not None:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    async with asyncio.timeout(LIMIT_S):
        while True:
            if url_of(again):
                break
            await asyncio.sleep(POLL_S)
    if group is None:
        for each in children_of(again.pid):
            resource.prlimit(each, resource.RLIMIT_DATA, (ROUTER_BYTES, ROUTER_BYTES))
    await cluster.wait_routable(1, models=["digits"])


async def over(jobs: JobHttp, path: Path, key: str) -> tuple[str, str]:
    """Submit a job and return the state in which it ends, and why."""
    try:
        job = await jobs.submit(hostile_inputs.job_of(path, key))
    except JobError as error:
        return "refused", str(error)
    return await end_of(jobs, job["id"])


async def end_of(jobs: JobHttp, job_id: str) -> tuple[str, str]:
    """Return the state in which a job ends, and why."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            shown = await jobs.job(job_id)
            if shown["state"] in ENDED:
                return shown["state"], shown.get("reason", "")
            await asyncio.sleep(POLL_S)


async def measure(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Note all figures."""
    data = folder / "data"
    data.mkdir()
    for name, write in hostile_inputs.FILES.values():
        write(data / name)
    honest = write_jsonl(data / "honest.jsonl", [{"x": [0.0] * 64} for _ in range(HONEST_ROWS)])
    with memory_group() as group:
        async with (
            JobCluster(
                folder / "cluster",
                options.models,
                places=[data],
                routers=((),),
                nodes=1,
                node_options=("--threads", "1"),
            ) as cluster,
            JobHttp(lambda: [cluster.http_url], cluster.headers) as jobs,
        ):
            await started_within(cluster, group)
            await over(jobs, honest, "warm-up")
            load = Load(cluster.http_url, "digits", is_explained=False)
            for case, (name, _) in hostile_inputs.FILES.items():
                await beside(options, load, jobs, data / name, case, report)
            await together(options, load, jobs, honest, report)
            await killed(cluster, jobs, data, group, report)


async def beside(
    options: argparse.Namespace,
    load: Load,
    jobs: JobHttp,
    path: Path,
    case: str,
    report: Report,
) -> None:
    """Note what requests see alone and beside jobs of one file, one after the other."""
    seen: list[tuple[float, float]] = []
    lost = 0
    for number in range(options.rounds):
        count = int(options.rate * options.seconds)
        alone = await load.run(itertools.repeat(REQUEST, count), rate=options.rate, seed=number)
        is_over = asyncio.Event()
        ended: list[tuple[str, str]] = []

        async def run_jobs(
            number: int = number,
            is_over: asyncio.Event = is_over,
            ended: list[tuple[str, str]] = ended,
        ) -> None:
            end_s = time.monotonic() + options.seconds
            try:
                while time.monotonic() < end_s:
                    ended.append(await over(jobs, path, f"{path.name} {number} {len(ended)}"))
                    await asyncio.sleep(options.pause)
            finally:
                is_over.set()

        shots = await load.run(until(is_over), rate=options.rate, seed=number, at={1: run_jobs})
        seen.append((quantile_s(alone, 0.99), quantile_s(shots, 0.99)))
        lost += failed(alone) + failed(shots)
        states = Counter(state for state, _ in ended)
        report.note(
            f"{case}, round {number}",
            requests=len(shots),
            ended=states,
            why=ended[0][1].replace(str(path), path.name),
        )
        report.bar(case, f"ended {number}", all(map(is_ended, ended)), 1, is_least=True)
    ratio = statistics.median(with_jobs / without for without, with_jobs in seen)
    report.bar(case, "p99, as many times as alone", ratio, 1.5)
    report.bar(case, "failed", lost, 0)
    report.note(case, alone_p99_s=[one for one, _ in seen], beside_p99_s=[one for _, one in seen])


async def together(
    options: argparse.Namespace, load: Load, jobs: JobHttp, honest: Path, report: Report
) -> None:
    """Note what becomes of one job of each file and an honest one at once, and of requests beside them."""
    is_over = asyncio.Event()
    ended: list[tuple[str, str]] = []

    async def run_jobs() -> None:
        paths = [honest, *(honest.parent / name for name, _ in hostile_inputs.FILES.values())]
        try:
            ended.extend(await asyncio.gather(*(over(jobs, path, path.name) for path in paths)))
        finally:
            is_over.set()

    shots = await load.run(until(is_over), rate=options.rate, seed=0, at={1: run_jobs})
    states = Counter(state for state, _ in ended)
    report.note("together", p99_s=quantile_s(shots, 0.99), ended=states)
    report.bar("together", "failed", failed(shots), 0)
    report.bar("together", "honest job completed", ended[0][0] == "completed", 1, is_least=True)
    report.bar("together", "others ended", all(map(is_ended, ended[1:])), 1, is_least=True)


def until(is_over: asyncio.Event) -> Iterator[tuple[bytes, bytes]]:
    """Give requests until then."""
    while not is_over.is_set():
        yield REQUEST


def is_ended(end: tuple[str, str]) -> bool:
    """Return whether a job came to an end that tells its reason."""
    state, reason = end
    return state == "completed" or (state in {"failed", "refused"} and bool(reason))


async def killed(
    cluster: JobCluster, jobs: JobHttp, data: Path, group: Path | None, report: Report
) -> None:
    """Kill the router while it has a job of the worst file, and note that it serves again and the job ends."""
    path = data / "bomb.parquet"
    job = await jobs.submit(hostile_inputs.job_of(path, "killed"))
    await started_within(cluster, group)
    state, _ = await end_of(jobs, job["id"])
    load = Load(cluster.http_url, "digits", is_explained=False)
    shots = await load.run(itertools.repeat(REQUEST, 200), rate=100, seed=1)
    report.bar("after a kill", "failed", failed(shots), 0)
    report.bar("after a kill", "the job failed", state == "failed", 1, is_least=True)


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of requests alone")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two jobs")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(options, Path(name), report))
    report.show("requests beside inputs of jobs that take all", Console(width=120))
    asked = {name: value for name, value in vars(options).items() if name != "models"}
    keep("job_inputs", {"options": asked, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
