"""Measures what a router's second worker adds, in requests a second. Starts two local clusters and loads them in turns.

`python benchmarks/workers.py [--workers 2] [--seconds 5] [--rounds 3]`; needs wrk. Two kinds of requests: a picture as JSON, which
costs the router far more than the node and the client, so that the router is what is measured; and 1 KiB of raw tensors, which
costs all three alike, so that on two cores there is next to nothing to gain. Also the memory of the processes, before and with
1,000 idle connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from idle import children_of
from machine import cpu_s, keep, memory_bytes
from overhead import build_picture_model
from wrk import load, require_wrk

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Tensor

SEED = 20261126
CONNECTIONS = 32
IDLE = 1000
BAR = 1.6
"""The least that two workers add where the router is what is busy, on two cores."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request."""

    name: str
    model: str
    body: bytes
    header_length: int
    content_type: str


def cases() -> list[Case]:
    """Return both kinds."""
    rng = np.random.default_rng(SEED)
    picture = rng.random((1, 3, 224, 224), np.float32)
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": list(picture.shape),
        "data": [round(float(each), 4) for each in picture.ravel()],
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    buffers, length = encode_request([Tensor.from_numpy("X", rng.random((4, 64), np.float32))])
    return [
        Case("a picture as JSON", "picture", text, len(text), "application/json"),
        Case("1 KiB", "digits", b"".join(buffers), int(length or 0), "application/octet-stream"),
    ]


def processes_of(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started."""
    yield pid
    for child in children_of(pid):
        yield from processes_of(child)


def used_s(cluster: LocalCluster, part: str) -> float:
    """Return the CPU time of the router's processes, or of the nodes'."""
    members = [cluster.router] if part == "router" else cluster.nodes
    return sum(cpu_s(pid) for member in members for pid in processes_of(member.status()["pid"]))


def router_mib(cluster: LocalCluster) -> float:
    """Return the resident memory of the router's processes but its sidecar, what they share counted for each."""
    status = cluster.router.status()
    pids = [status["pid"], *(worker["pid"] for worker in status.get("workers", []))]
    return sum(memory_bytes(pid) for pid in pids) / MIB


async def loaded(cluster: LocalCluster, case: Case, seconds: int) -> dict[str, float]:
    """Return the figures of one load."""
    before = {part: used_s(cluster, part) for part in ("router", "node")}
    seen = await load(
        f"{cluster.http_url}/v2/models/{case.model}/infer",
        case.body,
        case.header_length,
        connections=CONNECTIONS,
        seconds=seconds,
        content_type=case.content_type,
    )
    if seen.failed:
        raise SystemExit(f"{seen.failed} requests failed")
    return {
        "per_second": seen.per_second,
        "p50_us": seen.p50_us,
        "p99_us": seen.p99_us,
        **{
            f"{part}_cpu_us": (used_s(cluster, part) - cpu) * 1e6 / seen.requests
            for part, cpu in before.items()
        },
    }


async def held_mib(cluster: LocalCluster) -> dict[str, float]:
    """Return the memory of the router, before and with idle connections."""
    host, port = cluster.http_url.removeprefix("http://").split(":")
    before = router_mib(cluster)
    async with AsyncExitStack() as stack:
        for _ in range(IDLE):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        await asyncio.sleep(1.0)  # all are accepted by then
        with_idle = router_mib(cluster)
    return {"router_mib": round(before, 1), "router_mib_with_idle": round(with_idle, 1)}


async def measure(counts: list[int], seconds: int, rounds: int) -> dict[str, Any]:
    """Return all figures, by the number of workers."""
    loads: dict[str, dict[int, list[dict[str, float]]]] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copytree("build/models/digits", folder / "models" / "digits")
        build_picture_model(folder / "models")
        clusters: dict[int, LocalCluster] = {}
        for count in counts:
            cluster = LocalCluster(
                folder / str(count),
                folder / "models",
                nodes=1,
                router_options=("--workers", str(count)),
            )
            clusters[count] = await stack.enter_async_context(cluster)
            await cluster.wait_routable(1, models=["digits", "picture"])
        memory = {str(count): await held_mib(cluster) for count, cluster in clusters.items()}
        for case in cases():
            for turn in range(rounds + 1):
                for count, cluster in clusters.items():
                    found = await loaded(cluster, case, seconds if turn else 1)
                    if turn:  # the first is to warm up
                        loads.setdefault(case.name, {}).setdefault(count, []).append(found)
    medians = {
        case: {
            str(count): {
                key: round(statistics.median(each[key] for each in seen), 1) for key in seen[0]
            }
            for count, seen in of_case.items()
        }
        for case, of_case in loads.items()
    }
    return {
        "seed": SEED,
        "seconds": seconds,
        "rounds": rounds,
        "connections": CONNECTIONS,
        "idle_connections": IDLE,
        "loads": medians,
        "memory": memory,
    }


def main() -> int:
    """Measure, print, keep; fail when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    require_wrk()
    figures = asyncio.run(measure([1, arguments.workers], arguments.seconds, arguments.rounds))
    gains: dict[str, float] = {}
    for case, of_case in figures["loads"].items():
        for count, seen in of_case.items():
            print(f"{case}, {count} workers: {seen}")
        one, several = of_case["1"], of_case[str(arguments.workers)]
        gains[case] = round(several["per_second"] / one["per_second"], 2)
        print(f"{case}: {gains[case]} times as many requests a second")
    print(figures["memory"])
    print(f"kept in {keep('workers', {**figures, 'gains': gains})}")
    return 0 if next(iter(gains.values())) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
