"""Measures what answers in parts cost, hold and survive, over server-sent events, gRPC and WebSocket. One router, one node.

`python benchmarks/streams.py [--rounds 3] [--streams 1000] [--parts 100] [--leaves 20]`. A model in a loop counts, each answer from a
number of its own, so that parts which are mixed up are seen. So many answers at once on each wire in turns: the CPU time of a part and what
the processes grow by. As many readers that take one part of 8 KB and no more: what they hold, and what others' parts cost beside them. Then
readers leave one by one: the time until the worker has nothing of theirs. At last the node's worker is killed under as many answers: the time
until each reader is told in-band. CPU is that of processes: clients share the cores, which makes times of the clock longer, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import onnx
import uvloop
from machine import cpu_s, forget_peak, keep, memory_bytes, peak_bytes
from node_watch import NodeWatch
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from stream_clients import WIRES, CountingAnswer, EventsAnswer, close_channels

from capamesh.cli.local_cluster import LocalCluster

NUMBERS: Final = {"narrow": 1, "wide": 1000}
"""The numbers in a part of each model: 8 KB of JSON are wide."""
MOST_STEPS: Final = 1_000_000
FOR_EVER: Final = 1e9
APART: Final = 1000.0
"""One answer begins so much higher than the one before: parts of two have no number in common."""
OTHERS: Final = 100
"""The answers at once beside readers that stall."""
AT_REST_S: Final = 0.02
"""The worker rests once it has used no tick of CPU time for so long, after which it is looked at again."""
LONGEST_S: Final = 60.0
OPTIONS: Final = ("--timeout", "600", "--arrival", "600")
"""Readers that stall are borne for as long as the measurement takes."""
KIB, MIB = 2**10, 2**20


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
        manifest = f'[loop]\nfeedback = {{x = "y"}}\nstop = "done"\nmax_steps = {MOST_STEPS}\n'
        (root / name / "capamesh.toml").write_text(manifest)


class Bench:
    """A running cluster of one node, and what is measured on it."""

    def __init__(self, cluster: LocalCluster, watch: NodeWatch) -> None:
        host, _, port = cluster.http_url.removeprefix("http://").partition(":")
        self.address = host, int(port)
        self.watch = watch
        (self.worker,) = cluster.nodes[0].status()["worker_pids"]
        self.pids = cluster.router.pid, self.worker

    def answer(
        self,
        kind: type[CountingAnswer],
        model: str = "narrow",
        at: int = 0,
        until: float = FOR_EVER,
    ) -> CountingAnswer:
        """Return an answer that nobody has asked for yet."""
        return kind(self.address, model, at * APART, until)

    async def cost(self, wire: str, streams: int, parts: int) -> dict[str, float]:
        """Return what so many answers at once cost and held. SystemExit: one is not as it should be."""
        answers = [
            self.answer(WIRES[wire], at=at, until=at * APART + parts) for at in range(streams)
        ]
        for pid in self.pids:
            forget_peak(pid)
        rss = [memory_bytes(pid) for pid in self.pids]
        used = [cpu_s(pid) for pid in self.pids]
        found = await asyncio.gather(*(answer.all() for answer in answers))
        cost_us = [
            (cpu_s(pid) - was) / (streams * parts) * 1e6
            for pid, was in zip(self.pids, used, strict=True)
        ]
        grown = [(peak_bytes(pid) - was) / MIB for pid, was in zip(self.pids, rss, strict=True)]
        for answer, values in zip(answers, found, strict=True):
            if values != [answer.first + step for step in range(1, parts + 1)]:
                raise SystemExit(f"{wire}: the parts of {answer.first:g} are {values}")
        await close_channels()
        return {
            "router_us": cost_us[0],
            "worker_us": cost_us[1],
            "router_mib": grown[0],
            "worker_mib": grown[1],
        }

    async def stalled(self, streams: int, parts: int) -> dict[str, float]:
        """Return what readers hold that take one part and no more, and what others' parts cost beside them, times as much."""
        before = [memory_bytes(pid) for pid in self.pids]
        alone = await self.cost("server-sent events", OTHERS, parts)
        readers = [self.answer(EventsAnswer, "wide") for _ in range(streams)]
        for reader in readers:
            await reader.begin()
        await self._rest()
        after = [memory_bytes(pid) for pid in self.pids]
        beside = await self.cost("server-sent events", OTHERS, parts)
        for reader in readers:
            reader.leave()
        await self.watch.until("wide", 0, LONGEST_S)
        return {
            "router_kib_each": (after[0] - before[0]) / streams / KIB,
            "worker_kib_each": (after[1] - before[1]) / streams / KIB,
            "router_times": beside["router_us"] / alone["router_us"],
            "worker_times": beside["worker_us"] / alone["worker_us"],
        }

    async def left(self, wire: str, leaves: int) -> list[float]:
        """Return, for each of so many readers one after the other, the seconds from its leaving to the end of the node's work."""
        took_s: list[float] = []
        for _ in range(leaves):
            answer = self.answer(WIRES[wire])
            await answer.begin()
            await self.watch.until("narrow", 1, LONGEST_S)
            left_s = time.monotonic()
            answer.leave()
            took_s.append(await self.watch.until("narrow", 0, LONGEST_S) - left_s)
        return took_s

    async def killed(self, streams: int) -> dict[str, list[float]]:
        """Return, by wire, the seconds from a SIGKILL of the worker until each reader is told in-band."""
        kinds = list(itertools.islice(itertools.cycle(WIRES.items()), streams))
        answers = [self.answer(kind, at=at) for at, (_, kind) in enumerate(kinds)]
        await asyncio.gather(*(answer.begin() for answer in answers))
        told: dict[str, list[float]] = {wire: [] for wire in WIRES}
        killed_s = 0.0

        async def read(wire: str, answer: CountingAnswer) -> None:
            error = await answer.broken()
            told[wire].append(time.monotonic() - killed_s)
            if "broke off after" not in error:
                raise SystemExit(f"{wire}: {error}")

        tasks = [
            asyncio.create_task(read(wire, answer))
            for (wire, _), answer in zip(kinds, answers, strict=True)
        ]
        await asyncio.sleep(0)
        os.kill(self.worker, signal.SIGKILL)
        killed_s = time.monotonic()
        async with asyncio.timeout(LONGEST_S):
            await asyncio.gather(*tasks)
        return told

    async def _rest(self) -> None:
        """Wait until the worker does next to nothing."""
        used_s = -1.0
        for _ in range(round(LONGEST_S / AT_REST_S)):
            before_s, used_s = used_s, cpu_s(self.worker)
            if used_s == before_s:
                return
            await asyncio.sleep(AT_REST_S)
        raise SystemExit(f"the worker does not rest within {LONGEST_S:g} s")


async def measure(
    rounds: int, streams: int, parts: int, leaves: int, console: Console
) -> dict[str, object]:
    """Print and return all figures: medians over the rounds."""
    costs: dict[str, list[dict[str, float]]] = {wire: [] for wire in WIRES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_models(folder / "models")
        async with LocalCluster(
            folder / "cluster", folder / "models", nodes=1, router_options=OPTIONS
        ) as cluster:
            await cluster.wait_routable(1, models=list(NUMBERS))
            (folder / "watch").mkdir()
            watch = await NodeWatch.of(cluster, folder / "watch")
            bench = Bench(cluster, watch)
            for turn in range(rounds + 1):  # the first warms up
                for wire, seen in costs.items():
                    cost = await bench.cost(wire, streams if turn else 20, parts)
                    if turn:
                        seen.append(cost)
            held = await bench.stalled(streams, parts)
            left = {wire: await bench.left(wire, leaves) for wire in WIRES}
            watch.close()
            told = await bench.killed(streams)
            await close_channels()
    rows = [
        {
            "wire": wire,
            **{key: statistics.median(cost[key] for cost in costs[wire]) for key in costs[wire][0]},
            "left_median_ms": statistics.median(left[wire]) * 1e3,
            "left_most_ms": max(left[wire]) * 1e3,
            "told_most_s": max(told[wire]),
        }
        for wire in WIRES
    ]
    table = Table(
        *(
            "wire",
            "router, us a part",
            "worker, us a part",
            "router grows, MiB",
            "worker grows, MiB",
        ),
        *("rests after a leave, ms", "at most", "told of a kill, s"),
    )
    for row in rows:
        wire, *values = row.values()
        digits = (0, 0, 0, 0, 1, 1, 2)
        table.add_row(
            str(wire),
            *(f"{value:.{places}f}" for value, places in zip(values, digits, strict=True)),
        )
    console.print(table)
    console.print(
        f"{streams} readers that stall: {held['router_kib_each']:.0f} KiB each at the router, {held['worker_kib_each']:.0f}"
        f" at the worker; beside them a part of others costs the router {held['router_times']:.2f} and the worker"
        f" {held['worker_times']:.2f} times as much"
    )
    refusals = CountingAnswer.refusals
    console.print(f"{refusals} requests were refused for want of room, and asked again later")
    figures = {"rounds": rounds, "streams": streams, "parts": parts, "rows": rows}
    return {**figures, "stalled": held, "refusals": refusals}


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--leaves", type=int, default=20)
    options = parser.parse_args()
    console = Console(width=120)
    figures = uvloop.run(
        measure(options.rounds, options.streams, options.parts, options.leaves, console)
    )
    keep("streams", figures)


if __name__ == "__main__":
    main()
