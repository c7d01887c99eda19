"""Online requests beside a job: how much longer they wait, and what the job gets of what they leave. Starts one process.

Imported by `jobs.py`; as a program it sends the requests of a turn, which must not share the event loop of the job's own client.
Turns with a job and without take turns; the load of requests comes at fixed times, whatever becomes of those before, at a part of
what the cluster answers. A turn with a job lasts as long as the job. What requests leave is told twice: as half of
the job's rate alone, as if each of them took what a row in the best batch takes, and as the part of the cores' time that is idle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import PIPE

from clusters import metrics_at
from http_load import Load, Request, Shot, between, failed, quantile_s
from job_cluster import JobCluster, processes
from job_contestants import Case, Ran, job
from job_http import JobHttp
from machine import cpu_s

LOAD = 0.5
"""The part of the capacity that requests take where no other is named."""
CLOSED_IN_FLIGHT = 16
WARM_UP_S = 2.0
SETTLE_S = 1.0
"""Seconds at the beginning of a turn that are not counted."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn without a job, and the one with it that followed."""

    p99_without_s: float
    p99_with_s: float
    p50_without_s: float
    p50_with_s: float
    failed: int
    idle: float
    """The part of the cores' time that requests left without a job: cluster and generator taken together."""
    job: Ran
    calls: float
    """The calls of the job that nodes answered or refused."""
    refused: float


class Requests:
    """Requests of one row that a process of their own sends at a rate."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take a process that sends them."""
        self._process = process

    @classmethod
    async def start(cls, case: Case, url: str, rate: float, seed: int, count: int = 0) -> Requests:
        """Send so many, 0: until the end is asked for; return when the first may be on its way."""
        words = [url, case.model, str(rate), str(seed), str(count)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "job_beside", *words),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=PIPE,
            stdout=PIPE,
        )
        process.stdin.write(request_of(case)[0] + b"\n")
        await process.stdout.readline()
        return cls(process)

    async def end(self) -> tuple[list[Shot], float]:
        """Return what became of each request, and the CPU seconds of the process; those without a count end now."""
        out, _ = await self._process.communicate()
        sent = json.loads(out)
        return [Shot(**each) for each in sent["shots"]], sent["cpu_s"]


def request_of(case: Case) -> Request:
    """Return one row as a request, and what its answer holds."""
    inputs = [
        {
            "name": name,
            "datatype": {"float32": "FP32", "int64": "INT64"}[array.dtype.name],
            "shape": [1, *array.shape[1:]],
            "data": array[0].tolist(),
        }
        for name, array in case.rows.items()
    ]
    return json.dumps({"inputs": inputs}).encode(), b'"outputs"'


async def capacity(case: Case, url: str, seconds: float) -> float:
    """Return how many requests of one row are answered a second when some are always under way."""
    load = Load(url, case.model, is_explained=False)
    for each_s in (WARM_UP_S, seconds):
        rate = await load.closed_rate(
            request_of(case), concurrency=CLOSED_IN_FLIGHT, seconds=each_s
        )
    return rate


async def turn(
    case: Case,
    cluster: JobCluster,
    http: JobHttp,
    *,
    rate: float,
    rows: int,
    seconds: float,
    seed: int,
) -> Turn:
    """Send requests at a rate for some seconds, then for as long as a job of so many rows takes."""
    count = int(rate * seconds)
    began_s, used_s = time.monotonic(), cpu_of(cluster)
    alone, sent_cpu_s = await (
        await Requests.start(case, cluster.http_url, rate, seed, count)
    ).end()
    taken_s = (time.monotonic() - began_s) * len(os.sched_getaffinity(0))
    idle = max(0.0, 1.0 - (cpu_of(cluster) - used_s + sent_cpu_s) / taken_s)
    before = await metrics_at(cluster.http_url)
    # at the same times as without the job, for as long as both last
    requests = await Requests.start(case, cluster.http_url, rate, seed)
    try:
        await asyncio.sleep(SETTLE_S)
        began_s = time.monotonic()
        ran = await job(case, cluster, http, rows)
    finally:
        beside, _ = await requests.end()
    after = await metrics_at(cluster.http_url)
    calls, refused = counted(before, after)
    shown_alone = alone[int(rate * SETTLE_S) :]
    shown = between(beside, began_s + SETTLE_S)
    return Turn(
        quantile_s(shown_alone, 0.99),
        quantile_s(shown, 0.99),
        quantile_s(shown_alone, 0.5),
        quantile_s(shown, 0.5),
        failed(alone) + failed(beside),
        idle,
        ran,
        calls,
        refused,
    )


def cpu_of(cluster: JobCluster) -> float:
    """Return the CPU time that the cluster has used, in seconds."""
    return sum(cpu_s(pid) for member in cluster.members for pid in processes(member))


def counted(before: dict[str, float], after: dict[str, float]) -> tuple[float, float]:
    """Return how many calls of jobs ended, and how many of them nodes refused, between two readings of a router's metrics."""
    grown = {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if name.startswith("capamesh_job_calls_total")
    }
    refused = sum(value for name, value in grown.items() if "refused" in name)
    return sum(grown.values()), refused


def figures(turns: list[Turn], alone_per_s: float, load: float) -> dict[str, float]:
    """Return the medians over turns of what is asked: times of waiting as ratios, rows as a part of what requests left."""
    left_per_s = alone_per_s * (1 - load)
    calls = sum(each.calls for each in turns)
    return {
        "p99_ratio": statistics.median(each.p99_with_s / each.p99_without_s for each in turns),
        "p50_ratio": statistics.median(each.p50_with_s / each.p50_without_s for each in turns),
        "p99_without_ms": statistics.median(each.p99_without_s for each in turns) * 1e3,
        "p99_with_ms": statistics.median(each.p99_with_s for each in turns) * 1e3,
        "job_of_left": statistics.median(each.job.per_second for each in turns) / left_per_s,
        "idle": statistics.median(each.idle for each in turns),
        "job_of_idle": statistics.median(
            each.job.per_second / (alone_per_s * each.idle) for each in turns
        ),
        "refused_part": sum(each.refused for each in turns) / max(1.0, calls),
        "failed_requests": sum(each.failed for each in turns),
    }


async def send(url: str, model: str, rate: float, seed: int, count: int) -> None:
    """Send the request of the first line of standard input so often, 0: until that ends; print what became of each."""
    loop = asyncio.get_running_loop()
    request = sys.stdin.buffer.readline().strip(), b'"outputs"'
    is_over = asyncio.Event()
    if not count:
        loop.add_reader(sys.stdin.fileno(), is_over.set)
    print(flush=True)

    def requests() -> Iterator[Request]:
        for number in itertools.count():
            if is_over.is_set() or number == count > 0:
                break
            yield request

    shots = await Load(url, model, is_explained=False).run(requests(), rate=rate, seed=seed)
    told = ("number", "due_s", "sent_s", "ended_s", "status", "error", "is_right")
    seen = {
        "cpu_s": time.process_time(),
        "shots": [{name: getattr(shot, name) for name in told} for shot in shots],
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(
        send(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    )
