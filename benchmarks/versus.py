"""Is this checkout as fast as another? Both run side by side on the same models and are loaded in turns.

`python benchmarks/versus.py OTHER [--starts 4] [--rounds 2] [--seconds 3]`; needs wrk. OTHER is the folder of another checkout of
this repository in which `make models` was run, such as `git worktree add OTHER v1 && make -C OTHER models`. Each
checkout starts a router and a node of its own code. Through the router: the 1 KiB and the 600 KB request of
`overhead.py` at 1 and 32 connections. At the node, over its link: the tiny model of `engine.py` at 1 and 64 in flight.

All processes are started anew `--starts` times, because a process can be a tenth slower or faster than the next of the
same code for as long as it runs (seen with 600 KB: ratios of 0.87 and 1.14 between two starts of the same two).
A figure is the median over the rounds of all starts of this checkout's value over the other's in the same round: below 1 is less.
CPU is what the router's or the worker's process used for each request, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import anchor_models
import numpy as np
import uvloop
from engine import member
from link_load import RouterEnd, ask
from machine import cpu_s, keep
from overhead import Case, build_picture_model
from rich.console import Console
from rich.table import Table
from wrk import load, require_wrk

from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall, encode_call
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import NetworkOwner, Role
from capamesh.protocol.tensors import Tensor

SEED = 20261126
THIS = Path(__file__).resolve().parents[1]
BAR = 1.03
"""The factor by which this checkout may cost more of anything."""
READY_S = 60
"""Seconds that a model may take to be loaded."""
IN_FLIGHT = (1, 64)
CONNECTIONS = (1, 32)


@dataclass(frozen=True, slots=True)
class Side:
    """One checkout's running cluster."""

    url: str
    router_pid: int
    worker_pid: int
    link: Link


def status_of(folder: Path) -> dict[str, Any]:
    """Return what a member wrote of itself last."""
    return json.loads((folder / "status.json").read_text())


@asynccontextmanager
async def running(checkout: Path, models: Path, folder: Path) -> AsyncIterator[Side]:
    """Run a router and a node of a checkout's code, and a link to the node."""
    process = await asyncio.create_subprocess_exec(
        *(str(checkout / ".venv/bin/capamesh"), "dev", "up", "--nodes", "1", "--json"),
        *("--http", "127.0.0.1:0", "--models", str(models), "--data", str(folder / "cluster")),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        said = b""
        while True:
            line = await process.stdout.readline()
            if not line:
                raise SystemExit(f"{checkout} did not start: {said.decode()}")
            said += line
            if line == b"}\n":
                break
        url = json.loads(said)["http_url"]
        router = status_of(folder / "cluster" / "router")
        node = status_of(folder / "cluster" / "node-1")
        owner = NetworkOwner.load(folder / "cluster" / "network")
        membership = member(owner, Role.ROUTER, folder / "asker")
        transport = LinkTransport(membership, folder / "asker", agent_version="bench")
        link = await transport.dial(node["data_addresses"][0], RouterEnd(membership))
        yield Side(url, router["pid"], node["worker_pids"][0], link)
        link.close("done")
        await link.wait_ended()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def ready(side: Side, model: str) -> None:
    """Wait until a side answers for a model: a cluster says that it is up before its last model is loaded."""
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{side.url}/v2/models/{model}/ready") as answer:
                if answer.status == HTTPStatus.OK:
                    return
            await asyncio.sleep(0.05)


async def through_router(
    side: Side, case: Case, connections: int, seconds: int
) -> dict[str, float]:
    """Load one side's router; return its figures, each better when smaller."""
    body, header_length = case.body()
    url = f"{side.url}/v2/models/{case.model}/infer"
    before = cpu_s(side.router_pid), cpu_s(side.worker_pid)
    seen = await load(url, body, header_length, connections=connections, seconds=seconds)
    if seen.failed or not seen.requests:
        raise SystemExit(f"{seen.failed} of {seen.requests} requests failed at {url}")
    return {
        "s_per_request": 1 / seen.per_second,
        "p50_us": seen.p50_us,
        "router_cpu_us": (cpu_s(side.router_pid) - before[0]) / seen.requests * 1e6,
        "worker_cpu_us": (cpu_s(side.worker_pid) - before[1]) / seen.requests * 1e6,
    }


async def at_node(side: Side, arrays: np.ndarray, in_flight: int, seconds: int) -> dict[str, float]:
    """Load one side's node over its link; return its figures, each better when smaller."""
    call = InferCall(ModelName("mlp"), ModelVersion(""), (Tensor.from_numpy("x", arrays),))
    meta, body = encode_call(call, 60_000)
    seen = await ask(side.link, meta, body, in_flight, seconds, side.worker_pid)
    return {
        "s_per_request": 1 / seen.per_second,
        "p50_us": seen.p50_us,
        "worker_cpu_us": seen.cpu_us,
    }


async def measure_once(
    other: Path,
    rounds: int,
    seconds: int,
    only: str,
    found: dict[str, dict[str, list[tuple[float, float]]]],
    console: Console,
) -> None:
    """Start both sides and load them in turns; add each round's pairs of values to `found`.

    Loads whose name does not contain `only` are left out.
    """
    draw = np.random.default_rng(SEED)
    cases = [
        Case("1 KiB", "digits", "X", draw.random((4, 64), np.float32)),
        Case("600 KB", "picture", "image", draw.random((1, 3, 224, 224), np.float32)),
    ]
    tiny = draw.random((1, 64), np.float32)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        # without its manifest: an older checkout may not know all of its keys
        shutil.copytree(THIS / "build/models/digits/1", models / "digits" / "1")
        build_picture_model(models)
        target = models / "mlp" / "1"
        target.mkdir(parents=True)
        (target / "model.onnx").write_bytes(anchor_models.mlp().SerializeToString())
        sides: list[Side] = []
        for name, checkout in (("this", THIS), ("other", other)):
            (folder / name).mkdir()
            sides.append(await stack.enter_async_context(running(checkout, models, folder / name)))
        for side in sides:
            for case in cases:
                await ready(side, case.model)
        freeze_loaded_objects()
        for number in range(rounds + 1):
            # the first round warms up; who begins changes
            order = sides if number % 2 else sides[::-1]
            loads: dict[str, dict[int, dict[str, float]]] = {}
            with console.status(f"round {number} of {rounds}"):
                for case in cases:
                    for count in CONNECTIONS:
                        if only in (name := f"{case.name}, c={count}"):
                            loads[name] = {
                                id(side): await through_router(side, case, count, seconds)
                                for side in order
                            }
                for count in IN_FLIGHT:
                    if only in (name := f"tiny at the node, {count}"):
                        loads[name] = {
                            id(side): await at_node(side, tiny, count, seconds) for side in order
                        }
            if not number:
                continue
            for name, seen in loads.items():
                mine, theirs = (seen[id(side)] for side in sides)
                for key, value in mine.items():
                    found.setdefault(name, {}).setdefault(key, []).append((value, theirs[key]))


async def measure(
    other: Path, starts: int, rounds: int, seconds: int, only: str, console: Console
) -> dict[str, Any]:
    """Return the ratios of all loads."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for start in range(starts):
        console.print(f"start {start + 1} of {starts}")
        await measure_once(other, rounds, seconds, only, found, console)
    rows = {
        name: {
            key: {
                "this": statistics.median(mine for mine, _ in pairs),
                "other": statistics.median(theirs for _, theirs in pairs),
                "ratio": statistics.median(mine / theirs for mine, theirs in pairs if theirs),
                "ratios": [round(mine / theirs, 3) for mine, theirs in pairs if theirs],
            }
            for key, pairs in keys.items()
        }
        for name, keys in found.items()
    }
    show(rows, console)
    return {"seed": SEED, "starts": starts, "rounds": rounds, "seconds": seconds, "loads": rows}


def show(rows: dict[str, dict[str, dict[str, Any]]], console: Console) -> None:
    """Print the ratios."""
    table = Table(title="this checkout over the other, median of rounds (less is better)")
    for column in ("load", "figure", "this", "other", "ratio", "from", "to"):
        table.add_column(column, justify="left" if column in {"load", "figure"} else "right")
    for name, keys in rows.items():
        for key, row in keys.items():
            scale = 1e6 if key == "s_per_request" else 1.0
            table.add_row(
                name,
                "us_per_request" if key == "s_per_request" else key,
                f"{row['this'] * scale:,.1f}",
                f"{row['other'] * scale:,.1f}",
                f"{row['ratio']:.3f}",
                f"{min(row['ratios']):.3f}",
                f"{max(row['ratios']):.3f}",
            )
    console.print(table)


def main() -> int:
    """Measure, print, keep; fail when a throughput or a median latency costs more than the bar."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="another checkout, with its .venv")
    parser.add_argument("--starts", type=int, default=4, help="how often all is started anew")
    parser.add_argument("--rounds", type=int, default=2, help="of each start, after one to warm up")
    parser.add_argument("--seconds", type=int, default=3, help="of each load in each round")
    parser.add_argument("--only", default="", help="the loads whose name contains this")
    arguments = parser.parse_args()
    require_wrk()
    console = Console()
    figures = uvloop.run(
        measure(
            arguments.other.resolve(),
            arguments.starts,
            arguments.rounds,
            arguments.seconds,
            arguments.only,
            console,
        )
    )
    console.print(f"kept in {keep('versus', figures)}")
    over = {
        f"{name}: {key}": round(row["ratio"], 3)
        for name, keys in figures["loads"].items()
        for key, row in keys.items()
        if key in {"s_per_request", "p50_us"} and row["ratio"] > BAR
    }
    console.print(f"bar {BAR}: {f'MISSED by {over}' if over else 'held'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
