"""Measures what a router and a node add to ONNX Runtime. Starts a local cluster and measures both sides of it.

`python benchmarks/overhead.py [--nodes 1] [--seconds 5]`; needs wrk. Two models: the digits MLP with a 1 KiB
request, and a mean over a picture, whose request has 600 KB. The anchor is the same run in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from machine import keep, memory_bytes
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from wrk import Load, load, require_wrk

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Tensor

SEED = 20260701
DIRECT_RUNS = 3000
CONNECTIONS = (1, 32)
BARS = {"per_second_c32_1kib": 3000.0, "added_p50_us_c1_1kib": 700.0}
"""The bars that the design sets for two cores with default settings."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and the request sent to it."""

    name: str
    model: str
    input_name: str
    array: np.ndarray

    def body(self) -> tuple[bytes, int]:
        """Return the request as binary, and its JSON's length."""
        buffers, header_length = encode_request([Tensor.from_numpy(self.input_name, self.array)])
        return b"".join(buffers), int(header_length or 0)


def build_picture_model(folder: Path) -> None:
    """Write a model whose input is a picture and whose work is next to nothing."""
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 3, 1, 1])
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["mean"])], "picture", [picture], [mean]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    target = folder / "picture" / "1"
    target.mkdir(parents=True)
    onnx.save(model, target / "model.onnx")


def run_directly(model_file: Path, case: Case) -> tuple[float, float]:
    """Return the median time of a run in microseconds, and runs a second, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model_file, options, providers=["CPUExecutionProvider"])
    feed = {case.input_name: case.array}
    times = []
    began = time.perf_counter()
    for _ in range(DIRECT_RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6, DIRECT_RUNS / (time.perf_counter() - began)


async def measure(nodes: int, seconds: int, console: Console) -> dict[str, object]:
    """Return all figures."""
    rng = np.random.default_rng(SEED)
    samples = Path("build/models")
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        shutil.copytree(samples / "digits", models / "digits")
        build_picture_model(models)
        cases = [
            Case("1 KiB", "digits", "X", rng.random((4, 64), np.float32)),
            Case("600 KB", "picture", "image", rng.random((1, 3, 224, 224), np.float32)),
        ]
        figures: dict[str, object] = {"seed": SEED, "nodes": nodes, "seconds": seconds}
        rows: dict[str, dict[str, object]] = {}
        async with LocalCluster(Path(folder) / "cluster", models, nodes=nodes) as cluster:
            await cluster.wait_routable(nodes, models=[case.model for case in cases])
            for case in cases:
                direct_us, direct_per_second = run_directly(
                    models / case.model / "1" / "model.onnx", case
                )
                body, header_length = case.body()
                url = f"{cluster.http_url}/v2/models/{case.model}/infer"
                await load(url, body, header_length, connections=8, seconds=1)  # warm up
                loads: dict[int, Load] = {
                    count: await load(url, body, header_length, connections=count, seconds=seconds)
                    for count in CONNECTIONS
                }
                rows[case.name] = {
                    "request_bytes": len(body),
                    "direct_p50_us": round(direct_us, 1),
                    "direct_per_second": round(direct_per_second),
                    "added_p50_us_c1": round(loads[1].p50_us - direct_us),
                    **{
                        f"{key}_c{count}": round(getattr(seen, key))
                        for count, seen in loads.items()
                        for key in ("per_second", "p50_us", "p99_us", "failed")
                    },
                }
            figures["cases"] = rows
            figures["memory_mib"] = {
                name: round(memory_bytes(pid) / 2**20) for name, pid in processes(cluster)
            }
    show(rows, figures, console)
    return figures


def processes(cluster: LocalCluster) -> list[tuple[str, int]]:
    """Return every process of the cluster by name."""
    found = []
    for member in (cluster.router, *cluster.nodes):
        status = member.status()
        found.append((member.name, status["pid"]))
        found.append((f"{member.name} mesh sidecar", status["sidecar_pid"]))
        found += [
            (f"{member.name} worker {number}", pid)
            for number, pid in enumerate(status.get("worker_pids", []))
        ]
    return found


def show(rows: dict[str, dict[str, object]], figures: dict[str, object], console: Console) -> None:
    """Print the tables."""
    table = Table(title="through router and node, against ONNX Runtime in one process")
    for column in (
        "request",
        "direct p50",
        "c=1 p50",
        "added p50",
        "c=1 req/s",
        "c=32 req/s",
        "c=32 p50 / p99",
        "failed",
    ):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['direct_p50_us']} µs",
            f"{row['p50_us_c1']} µs",
            f"{row['added_p50_us_c1']} µs",
            str(row["per_second_c1"]),
            str(row["per_second_c32"]),
            f"{row['p50_us_c32']} / {row['p99_us_c32']} µs",
            str(int(str(row["failed_c1"])) + int(str(row["failed_c32"]))),
        )
    console.print(table)
    memory = Table(title="memory")
    memory.add_column("process")
    memory.add_column("MiB", justify="right")
    for name, mib in dict(figures["memory_mib"]).items():  # type: ignore[call-overload]
        memory.add_row(name, str(mib))
    console.print(memory)


def main() -> int:
    """Measure, print, keep; fail when a bar of the design is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=5)
    arguments = parser.parse_args()
    require_wrk()
    console = Console()
    figures = asyncio.run(measure(arguments.nodes, arguments.seconds, console))
    console.print(f"kept in {keep('overhead', figures)}")
    small = dict(figures["cases"])["1 KiB"]  # type: ignore[call-overload]
    seen = {
        "per_second_c32_1kib": small["per_second_c32"],
        "added_p50_us_c1_1kib": small["added_p50_us_c1"],
    }
    failed = sum(
        row[f"failed_c{count}"]
        for row in dict(figures["cases"]).values()  # type: ignore[call-overload]
        for count in CONNECTIONS
    )
    held = (
        failed == 0
        and seen["per_second_c32_1kib"] >= BARS["per_second_c32_1kib"]
        and seen["added_p50_us_c1_1kib"] <= BARS["added_p50_us_c1_1kib"]
    )
    console.print(f"bars {BARS}: {'held' if held else f'MISSED with {seen}, {failed} failed'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
