"""Measures how soon a node is of use: starts a cluster, adds nodes, kills sidecars and workers, and times each return.

`python benchmarks/joining.py [--times 5]`. "Ready" is when the agent itself says so in its log; "routable" is
when the router has its advert and a verified link.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster, is_routable
from capamesh.cli.member import Member
from capamesh.client import AsyncClient

POLL_S = 0.005
ROUTABLE_BAR_S = 3.0
"""The time that the design allows from the node's being ready until it is routable."""


def said_at_s(member: Member, event: str) -> float:
    """Return when a member logged `event` last, in seconds since the epoch."""
    lines = [json.loads(line) for line in member.log_file.read_text().splitlines() if "{" in line]
    stamp = [line["timestamp"] for line in lines if line.get("event") == event][-1]
    return dt.datetime.fromisoformat(stamp).timestamp()


async def routable_at_s(client: AsyncClient, peer: str) -> float:
    """Wait until the router can send requests to `peer`; return when that was seen."""
    while True:
        nodes: dict[str, Any] = {node["peer_id"]: node for node in await client.nodes()}
        if peer in nodes and is_routable(nodes[peer], None):
            return time.time()
        await asyncio.sleep(POLL_S)


async def replaced_after_s(member: Member, read: str, before: object) -> float:
    """Wait until a process of `member` is another one and at work; return how long that took."""
    began = time.monotonic()
    while True:
        status = member.status()
        is_new = status.get(read) not in (before, None, [None])
        if is_new and status["mesh_addresses"] and status.get("models", True):
            return time.monotonic() - began
        await asyncio.sleep(POLL_S)


MODELS = Path("build/models").resolve()


async def measure(times: int) -> dict[str, list[float]]:
    """Return the seconds of each return, by what it was."""
    seconds: dict[str, list[float]] = {
        "node: process start to ready": [],
        "node: ready to routable": [],
        "sidecar: SIGKILL to listening again": [],
        "worker: SIGKILL to routable again": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        async with LocalCluster(Path(folder), MODELS, nodes=1) as cluster:
            await cluster.wait_routable(1)
            async with AsyncClient(cluster.http_url) as client:
                for _ in range(times):
                    started_s = time.time()
                    node = await cluster.add_node()
                    peer = node.status()["peer_id"]
                    routable_s = await routable_at_s(client, peer)
                    ready_s = said_at_s(node, "node_ready")
                    seconds["node: process start to ready"].append(ready_s - started_s)
                    seconds["node: ready to routable"].append(max(0.0, routable_s - ready_s))
                    before = node.status()["sidecar_pid"]
                    os.kill(before, signal.SIGKILL)
                    seconds["sidecar: SIGKILL to listening again"].append(
                        await replaced_after_s(node, "sidecar_pid", before)
                    )
                    workers = node.status()["worker_pids"]
                    began = time.time()
                    os.kill(workers[0], signal.SIGKILL)
                    await replaced_after_s(node, "worker_pids", workers)
                    seconds["worker: SIGKILL to routable again"].append(
                        await routable_at_s(client, peer) - began
                    )
                    node.signal(signal.SIGTERM)
                    await node.wait()
    return seconds


def main() -> int:
    """Measure, print, keep; fail when a node was routable too late."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    seconds = asyncio.run(measure(times))
    console = Console()
    table = Table(title=f"{times} times each, seconds")
    for column in ("what", "median", "longest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, seen in seconds.items():
        table.add_row(what, f"{statistics.median(seen):.2f}", f"{max(seen):.2f}")
    console.print(table)
    rounded = {what: [round(value, 3) for value in seen] for what, seen in seconds.items()}
    console.print(f"kept in {keep('joining', {'seconds': rounded})}")
    return 0 if max(seconds["node: ready to routable"]) <= ROUTABLE_BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
