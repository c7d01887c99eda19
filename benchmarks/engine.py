"""Measures how close a node is to ONNX Runtime itself. One node, asked over its link as a router asks, no router between.

`python benchmarks/engine.py [--seconds 20]`. Compared in one run: ONNX Runtime in a loop in a process of its own,
at every batch; the same behind a link, at its best batch and one request at a time (`bare_server.py`), so that the
client and the wire cost both sides the same; and the node. `added` is the node's median over the bare server's at
one request in flight, `node / bare` their throughputs under load, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anchor_models
import numpy as np
import onnxruntime as ort
import uvloop
from link_load import RouterEnd, Seen, ask, load
from machine import keep
from overhead import build_picture_model
from rich.console import Console
from rich.table import Table

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall, encode_call
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import Membership, NetworkOwner, Role
from capamesh.protocol.tensors import Tensor

SEED = 20260801
ROUNDS = 5
"""The machine's mood changes within seconds: both sides are asked in turns."""
WARM_UP_S = 1.0
"""Seconds before the first turn (guess: arenas have grown and threads are there after some batches)."""
HOUR = dt.timedelta(hours=1)
BARS = {
    "tiny_per_second": 25_000.0,
    "tiny_added_us": 60.0,
    "minilm_ratio": 0.97,
    "resnet_ratio": 0.97,
    "picture_added_us": 250.0,
}
"""The bars that the design sets for a node."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the request that is sent to it, and how many are in flight under load."""

    name: str
    model: str
    arrays: dict[str, np.ndarray]
    in_flight: int


def raw_loop(model: Path, arrays: dict[str, np.ndarray], threads: int, seconds: float) -> dict:
    """Return rows a second of ONNX Runtime alone at each batch size, and a run of one request's median."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rates: dict[int, float] = {}
    single: list[float] = []
    rows = 1
    while rows <= 1024:
        feed = {name: np.repeat(array[:1], rows, 0) for name, array in arrays.items()}
        session.run(None, feed)
        count, began_s = 0, time.perf_counter()
        while time.perf_counter() - began_s < seconds:
            start_s = time.perf_counter()
            session.run(None, feed)
            if rows == 1:
                single.append(time.perf_counter() - start_s)
            count += 1
        rates[rows] = count * rows / (time.perf_counter() - began_s)
        if len(rates) > 2 and max(list(rates.values())[-2:]) < max(rates.values()):
            break  # two doublings without a gain
        rows *= 2
    return {"rates": rates, "p50_us": statistics.median(single) * 1e6}


def in_own_process(model: Path, case: Case, threads: int, seconds: float) -> dict:
    """Run `raw_loop` in a process that does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **case.arrays)
        out = subprocess.run(
            [
                sys.executable,
                __file__,
                "--raw",
                str(model),
                str(inputs),
                str(threads),
                str(seconds),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return json.loads(out)


@asynccontextmanager
async def bare_server(  # noqa: ANN201 - a context manager of an address and a pid
    folder: Path, model: Path, threads: int, batch: int, case: Case, owner: NetworkOwner
):
    """Start `bare_server.py` and give its address and process id."""
    member(owner, Role.NODE, folder)
    shapes = {name: (list(array.shape), array.dtype.str) for name, array in case.arrays.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("bare_server.py")),
        str(folder),
        str(model),
        str(threads),
        str(batch),
        json.dumps(shapes),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - asked for above
        port = int(await process.stdout.readline())
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        await process.wait()


def member(owner: NetworkOwner, role: Role, folder: Path) -> Membership:
    """Admit a new member whose files are in `folder`."""
    now = dt.datetime.now(dt.UTC)
    token = owner.invite(role, expires_at=now + HOUR, bootstrap=(), now=now)
    membership = Membership.join(Identity.generate(), token, now)
    folder.mkdir(exist_ok=True)
    membership.save(folder)
    return membership


def cases() -> list[Case]:
    """Return what is measured."""
    rng = np.random.default_rng(SEED)
    ids = {
        "input_ids": rng.integers(0, 30_000, (1, 64)),
        "attention_mask": np.ones((1, 64), np.int64),
        "token_type_ids": np.zeros((1, 64), np.int64),
    }
    return [
        Case("tiny", "mlp", {"x": rng.random((1, 64), np.float32)}, 64),
        Case("picture", "picture", {"image": rng.random((1, 3, 224, 224), np.float32)}, 8),
        Case("minilm", "minilm", ids, 32),
        Case("resnet", "resnet", {"image": rng.random((1, 3, 224, 224), np.float32)}, 32),
    ]


async def measure(seconds: float, names: list[str], threads: int, console: Console) -> dict:
    """Return all figures."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        anchor_models.build(models)
        build_picture_model(models)
        for path in models.iterdir():
            if path.name not in names:
                (path).rename(folder / f"unused-{path.name}")
        wanted = [case for case in cases() if case.model in names]
        options = ("--threads", str(threads)) if threads else ()
        async with LocalCluster(
            folder / "cluster", models, nodes=1, node_options=options
        ) as cluster:
            await cluster.wait_routable(1, models=[case.model for case in wanted])
            owner = NetworkOwner.load(cluster.folder / "network")
            membership = member(owner, Role.ROUTER, folder / "asker")
            transport = LinkTransport(membership, folder / "asker", agent_version="bench")
            asker = RouterEnd(membership)
            status = cluster.nodes[0].status()
            node = await transport.dial(status["data_addresses"][0], asker)
            worker = status["worker_pids"][0]
            freeze_loaded_objects()
            for case in wanted:
                model = models / case.model / "1" / "model.onnx"
                with console.status(f"{case.name}: ONNX Runtime alone"):
                    raw = await asyncio.to_thread(
                        in_own_process, model, case, threads or 2, min(seconds, 2.0)
                    )
                best_rows, best = max(raw["rates"].items(), key=lambda item: item[1])
                call = InferCall(
                    ModelName(case.model),
                    ModelVersion(""),
                    tuple(Tensor.from_numpy(key, array) for key, array in case.arrays.items()),
                )
                meta, body = encode_call(call, 60_000)
                figures: dict[str, float] = {
                    "raw_p50_us": raw["p50_us"],
                    "raw_best_per_second": best,
                    "raw_best_rows": float(best_rows),
                }
                batch = min(int(best_rows), case.in_flight // 2)
                serving = partial(
                    bare_server, model=model, threads=threads or 2, case=case, owner=owner
                )
                async with (
                    serving(folder / f"{case.name}-1", batch=1) as (single_at, single_pid),
                    serving(folder / f"{case.name}-n", batch=batch) as (stacked_at, stacked_pid),
                ):
                    single = await transport.dial(single_at, asker)
                    stacked = await transport.dial(stacked_at, asker)
                    ones: list[tuple[Seen, Seen]] = []
                    many: list[tuple[Seen, Seen]] = []
                    with console.status(f"{case.name}: the node and the bare server in turns"):
                        warmed = (
                            (node, meta, case.in_flight),
                            (single, b"\x80", 1),
                            (stacked, b"\x80", case.in_flight),
                        )
                        for link, head, in_flight in warmed:
                            ends_s = time.perf_counter() + WARM_UP_S
                            await load(link, head, body, in_flight, ends_s)
                        for _ in range(ROUNDS):
                            part_s = seconds / ROUNDS
                            ones.append(
                                (
                                    await ask(single, b"\x80", body, 1, part_s, single_pid),
                                    await ask(node, meta, body, 1, part_s, worker),
                                )
                            )
                            many.append(
                                (
                                    await ask(
                                        stacked, b"\x80", body, case.in_flight, part_s, stacked_pid
                                    ),
                                    await ask(node, meta, body, case.in_flight, part_s, worker),
                                )
                            )
                    for link in (single, stacked):
                        link.close("done")
                        await link.wait_ended()
                figures |= {
                    "bare_p50_us_1": statistics.median(bare.p50_us for bare, _ in ones),
                    "node_p50_us_1": statistics.median(node.p50_us for _, node in ones),
                    "added_us": statistics.median(node.p50_us - bare.p50_us for bare, node in ones),
                    "bare_batch": float(batch),
                    "bare_per_second": statistics.median(bare.per_second for bare, _ in many),
                    "node_per_second": statistics.median(node.per_second for _, node in many),
                    "node_p99_us": statistics.median(node.p99_us for _, node in many),
                    "bare_cpu_us": statistics.median(bare.cpu_us for bare, _ in many),
                    "node_cpu_us": statistics.median(node.cpu_us for _, node in many),
                    "in_flight": float(case.in_flight),
                    "ratio": statistics.median(
                        node.per_second / bare.per_second for bare, node in many
                    ),
                }
                rows[case.name] = {key: round(value, 3) for key, value in figures.items()}
            node.close("done")
            await node.wait_ended()
    show(rows, console)
    return {"seed": SEED, "seconds": seconds, "threads": threads or 2, "cases": rows}


def show(rows: dict[str, dict[str, float]], console: Console) -> None:
    """Print the table."""
    table = Table(title="a node over its link, against ONNX Runtime")
    columns: list[tuple[str, Callable[[dict[str, float]], str]]] = [
        ("raw p50", lambda row: f"{row['raw_p50_us']:,.0f} µs"),
        (
            "raw best",
            lambda row: f"{row['raw_best_per_second']:,.0f}/s at {row['raw_best_rows']:.0f}",
        ),
        ("bare p50", lambda row: f"{row['bare_p50_us_1']:,.0f} µs"),
        ("node p50", lambda row: f"{row['node_p50_us_1']:,.0f} µs"),
        ("added", lambda row: f"{row['added_us']:,.0f} µs"),
        ("bare", lambda row: f"{row['bare_per_second']:,.0f}/s at {row['bare_batch']:.0f}"),
        ("node", lambda row: f"{row['node_per_second']:,.0f}/s at {row['in_flight']:.0f}"),
        ("p99", lambda row: f"{row['node_p99_us'] / 1000:,.1f} ms"),
        ("node CPU", lambda row: f"{row['node_cpu_us']:,.1f} µs"),
        ("node / bare", lambda row: f"{row['ratio']:.3f}"),
    ]
    table.add_column("model")
    for title, _ in columns:
        table.add_column(title, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(text(row) for _, text in columns))
    console.print(table)


def main() -> int:
    """Measure, print, keep; fail when a bar of the design is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each side under each load")
    parser.add_argument("--models", default="mlp,picture,minilm,resnet")
    parser.add_argument("--threads", type=int, default=0, help="of one run; 0: the node's default")
    arguments = parser.parse_args()
    console = Console()
    names = arguments.models.split(",")
    figures = uvloop.run(measure(arguments.seconds, names, arguments.threads, console))
    console.print(f"kept in {keep('engine', figures)}")
    rows = figures["cases"]
    seen = {
        "tiny_per_second": rows.get("tiny", {}).get("node_per_second"),
        "tiny_added_us": rows.get("tiny", {}).get("added_us"),
        "minilm_ratio": rows.get("minilm", {}).get("ratio"),
        "resnet_ratio": rows.get("resnet", {}).get("ratio"),
        "picture_added_us": rows.get("picture", {}).get("added_us"),
    }
    missed = {
        name: value
        for name, value in seen.items()
        if value is not None
        and (value > BARS[name] if name.endswith("_us") else value < BARS[name])
    }
    console.print(f"bars {BARS}: {f'MISSED with {missed}' if missed else 'held'}")
    return 1 if missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--raw"]:
        with np.load(sys.argv[3]) as loaded:
            given = {name: loaded[name] for name in loaded.files}
        print(json.dumps(raw_loop(Path(sys.argv[2]), given, int(sys.argv[4]), float(sys.argv[5]))))
        sys.exit(0)
    sys.exit(main())
