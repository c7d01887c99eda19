"""Measures what a part of an answer costs, over server-sent events and over gRPC, and what readers that stall hold. One router, one node.

`python benchmarks/streams.py [--rounds 3] [--streams 1000] [--parts 100]`. A model in a loop counts; each answer has as many parts. Both wires
in turns. Then as many readers take one part of 8 KB and no more: what the router's and the worker's memory grow by, and how soon the worker
rests once all have left. CPU is that of processes: clients share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import uvloop
from machine import cpu_s, keep, memory_bytes
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.grpc.messages import CLASSES

NUMBERS = {"narrow": 1, "wide": 1000}
"""The numbers in a part of each model: 8 KB of JSON are wide."""
CALLS_OF_CHANNEL = 50
FOR_EVER = 1e6
AT_REST_S = 0.02
"""The worker rests once it has used no tick of CPU time for so long, after which it is looked at again."""
LONGEST_S = 60.0
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


def build_models(root: Path) -> None:
    """Write models that count from `x` to `until`, a step a part."""
    for name, wide in NUMBERS.items():
        folder = root / name / "1"
        folder.mkdir(parents=True)
        graph = helper.make_graph(
            [
                helper.make_node("Add", ["x", "step"], ["y"]),
                helper.make_node("GreaterOrEqual", ["y", "until"], ["done"]),
            ],
            name,
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", wide]),
                helper.make_tensor_value_info("until", TensorProto.FLOAT, ["N", 1]),
            ],
            [
                helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", wide]),
                helper.make_tensor_value_info("done", TensorProto.BOOL, ["N", wide]),
            ],
            [helper.make_tensor("step", TensorProto.FLOAT, [1], [1.0])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "model.onnx")
        manifest = '[loop]\nfeedback = {x = "y"}\nstop = "done"\nmax_steps = 1000000\n'
        (root / name / "capamesh.toml").write_text(manifest)


class Events:
    """One answer as server-sent events, over a connection of its own."""

    def __init__(self, address: tuple[str, int], model: str, until: float) -> None:
        self._address = address
        body = json.dumps({"x": [0] * NUMBERS[model], "until": until}).encode()
        self._request = (
            b"POST /v2/models/%b/generate_stream HTTP/1.1\r\nHost: router\r\nContent-Length: %d\r\n\r\n%b"
            % (model.encode(), len(body), body)
        )

    async def begin(self) -> None:
        """Ask, and take the first part."""
        self.reader, self.writer = await asyncio.open_connection(*self._address, limit=2**16)
        self.writer.write(self._request)
        await self.reader.readuntil(b"data: ")

    async def all(self) -> int:
        """Return how many parts there are, all taken."""
        await self.begin()
        count = 1 + (await self.reader.readuntil(b"0\r\n\r\n")).count(b"data: ")
        self.writer.close()
        return count


async def by_sse(address: tuple[str, int], streams: int, parts: int) -> int:
    """Return the parts of so many answers at once."""
    return sum(
        await asyncio.gather(*(Events(address, "narrow", parts).all() for _ in range(streams)))
    )


async def by_grpc(address: tuple[str, int], streams: int, parts: int) -> int:
    """Return the parts of so many answers at once, on channels that each have some."""
    message = CLASSES["ModelInferRequest"](
        model_name="narrow",
        inputs=[{"name": name, "datatype": "FP32", "shape": [1, 1]} for name in ("x", "until")],
        raw_input_contents=[np.float32(value).tobytes() for value in (0, parts)],
    ).SerializeToString()
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options=own)
        for _ in range(-(-streams // CALLS_OF_CHANNEL))
    ]

    async def one(channel: grpc.aio.Channel) -> int:
        call: Any = channel.stream_stream(METHOD)()
        await call.write(message)
        await call.done_writing()
        count = 0
        async for _ in call:
            count += 1
        return count

    counts = await asyncio.gather(*(one(channels[at % len(channels)]) for at in range(streams)))
    for channel in channels:
        await channel.close()
    return sum(counts)


async def stalled(cluster: LocalCluster, streams: int) -> dict[str, float]:
    """Return what so many readers cost that take one part and no more, and how soon the worker rests once they have left."""
    host, _, port = cluster.http_url.removeprefix("http://").partition(":")
    router, worker = cluster.router.pid, cluster.nodes[0].status()["worker_pids"][0]
    before = memory_bytes(router), memory_bytes(worker)
    readers = [Events((host, int(port)), "wide", FOR_EVER) for _ in range(streams)]
    for reader in readers:
        await reader.begin()
    await rest(worker)
    after = memory_bytes(router), memory_bytes(worker)
    for reader in readers:
        reader.writer.close()
    left_s = time.monotonic()
    await rest(worker)
    return {
        "router_kib_each": (after[0] - before[0]) / streams / 1024,
        "worker_kib_each": (after[1] - before[1]) / streams / 1024,
        "rests_after_s": time.monotonic() - left_s,
    }


async def rest(pid: int) -> None:
    """Wait until a process does next to nothing."""
    used_s = -1.0
    for _ in range(round(LONGEST_S / AT_REST_S)):
        before_s, used_s = used_s, cpu_s(pid)
        if used_s == before_s:
            return
        await asyncio.sleep(AT_REST_S)
    raise SystemExit(f"the worker does not rest within {LONGEST_S:g} s")


async def measure(rounds: int, streams: int, parts: int, console: Console) -> dict[str, object]:
    """Return all figures: medians over the rounds."""
    wires: dict[str, Callable[[tuple[str, int], int, int], Awaitable[int]]] = {
        "server-sent events": by_sse,
        "gRPC": by_grpc,
    }
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_models(folder / "models")
        async with LocalCluster(
            folder / "cluster", folder / "models", nodes=1, router_options=("--timeout", "600")
        ) as cluster:
            await cluster.wait_routable(1, models=list(NUMBERS))
            host, _, port = cluster.http_url.removeprefix("http://").partition(":")
            pids = cluster.router.pid, cluster.nodes[0].status()["worker_pids"][0]
            for turn in range(rounds + 1):  # the first warms up
                for wire, ask in wires.items():
                    before = [cpu_s(pid) for pid in pids]
                    count = await ask((host, int(port)), streams if turn else 20, parts)
                    used = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
                    if count != parts * (streams if turn else 20):
                        raise SystemExit(f"{wire}: {count} parts came")
                    if turn:
                        found.setdefault(wire, []).append((used[0] / count, used[1] / count))
            held = await stalled(cluster, streams)
    table = Table("wire", "router CPU us a part", "worker CPU us a part")
    rows: list[dict[str, object]] = []
    for wire, seen in found.items():
        router_us, worker_us = (statistics.median(each[at] for each in seen) * 1e6 for at in (0, 1))
        table.add_row(wire, f"{router_us:.0f}", f"{worker_us:.0f}")
        rows.append(
            {"wire": wire, "router_us": round(router_us, 1), "worker_us": round(worker_us, 1)}
        )
    console.print(table)
    console.print(
        f"{streams} readers that stall: {held['router_kib_each']:.0f} KiB each at the router,"
        f" {held['worker_kib_each']:.0f} at the worker, which rests {held['rests_after_s']:.2f} s after they have left"
    )
    return {"rounds": rounds, "streams": streams, "parts": parts, "rows": rows, "stalled": held}


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=100)
    options = parser.parse_args()
    console = Console(width=120)
    figures = uvloop.run(measure(options.rounds, options.streams, options.parts, console))
    keep("streams", figures)


if __name__ == "__main__":
    main()
