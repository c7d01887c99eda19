"""Measures how soon a node does again what it could not, once the cause is over: real processes, a row a state.

    python benchmarks/healing_nodes.py [--only killed]

As `healing.py`, from the end of the cause to the first answer; where processes start anew that is their start, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from machine import keep
from report import Report
from rich.console import Console

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from chaos import send_signal, worker_pids  # noqa: E402 - found by the line above
from polling import until  # noqa: E402 - likewise

EVERY_S = 0.02
LARGE_ROWS = 40
"""More than a node measures of magika at load."""
HEALED_S = 1.0
RESTARTED_S = 10.0
"""The bar where a file is looked at every 2 s and loaded, or processes start anew (guess)."""


class Bed:
    """A running network of one node, and whoever asks it."""

    def __init__(self, cluster: LocalCluster, models: Path, session: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.models = models
        self._session = session

    async def ask(self, rows: int) -> int:
        """Ask magika for so many rows; return the status, 0 for none."""
        tensor = {"name": "bytes", "datatype": "INT32", "shape": [rows, 2048]}
        body = json.dumps({"inputs": [{**tensor, "data": [0] * rows * 2048}]})
        url = f"{self.cluster.http_url}/v2/models/magika/infer"
        try:
            async with self._session.post(url, data=body.encode()) as reply:
                await reply.read()
                return reply.status
        except aiohttp.ClientError:
            return 0

    async def until(self, rows: int, *, is_served: bool) -> None:
        """Ask until there is an answer, or none any more."""

        async def is_so() -> bool:
            return (await self.ask(rows) == 200) is is_served

        await until(is_so, every_s=EVERY_S)

    async def answered(self, rows: int = 1) -> float:
        """Ask until there is an answer; return after how many seconds."""
        began_s = time.monotonic()
        await self.until(rows, is_served=True)
        return time.monotonic() - began_s


async def killed(bed: Bed) -> float:
    """Kill the worker from outside while large requests run; return for how much longer than before such take once it is back."""
    alone_s = await bed.answered(LARGE_ROWS)
    running = [asyncio.create_task(bed.ask(LARGE_ROWS)) for _ in range(4)]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    send_signal(worker_pids(bed.cluster.nodes[0]), signal.SIGKILL)
    await asyncio.gather(*running)
    await bed.answered()
    return max(0.0, await bed.answered(LARGE_ROWS) - alone_s)


async def start_again(bed: Bed) -> Member:
    """Kill all processes of the node and start it anew."""
    node = bed.cluster.nodes[0]
    node.signal(signal.SIGKILL)
    await node.wait()
    again = await Member.start(
        node.name,
        node.data_folder,
        ("node", "run", "--models", str(bed.models), "--name", node.name),
        bed.cluster.folder / f"{node.name}.token",
    )
    bed.cluster.nodes[0] = again
    return again


async def restarted(bed: Bed) -> float:
    """Return how long after the start of a node that was killed its model is answered."""
    await start_again(bed)
    return await bed.answered()


async def mended(bed: Bed) -> float:
    """Have a node find a model's file broken; return how long after it is mended the model is answered."""
    (file,) = (bed.models / "magika").rglob("*.onnx")
    content = file.read_bytes()
    file.write_bytes(b"broken")
    node = await start_again(bed)
    await until(lambda: "failed" in json.dumps(node.status().get("models", [])))
    file.write_bytes(content)
    return await bed.answered()


STATES: dict[str, tuple[Callable[[Bed], Awaitable[float]], float]] = {
    "worker killed from outside while large requests ran": (killed, HEALED_S),
    "node killed and started anew": (restarted, RESTARTED_S),
    "model's file away and back": (mended, RESTARTED_S),
}


async def measure(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Note the figure of each state, each in a network of its own."""
    for number, (name, (state, bar_s)) in enumerate(STATES.items()):
        if options.only not in name:
            continue
        here = folder / str(number)
        shutil.copytree(options.models / "magika", here / "models" / "magika")
        async with (
            LocalCluster(here / "cluster", here / "models", nodes=1) as cluster,
            aiohttp.ClientSession() as session,
        ):
            await cluster.wait_routable(1)
            first_s = await state(Bed(cluster, here / "models", session))
        report.bar(name, "first, s", first_s, bar_s)
        print(f"{name}: {first_s:.2f} s", flush=True)


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="states whose name has this")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(options, Path(name), report))
    report.show("from the end of a cause to the first answer", Console(width=120))
    keep("healing_nodes", {"only": options.only, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
