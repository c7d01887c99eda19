"""Is Capamesh ahead of other servers on the same model? Starts them side by side and measures them in turn.

    python benchmarks/anchors.py [--models minilm resnet] [--servers capamesh mosec mlserver]
                                 [--connections 8 32] [--seconds 20] [--rounds 3] [--spinning]

Needs wrk, the client of all. Every server has the same two cores and the same model; an answer of each is checked
against ONNX Runtime in this process, before and after. Rounds take turns, so that a slow minute of the machine
hits all alike. mosec and MLServer are installed into environments of their own under build/anchors/ at the
first run. docs/explanation/benchmarks/anchors.md says what each is set to and why.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anchor_models
import numpy as np
import onnxruntime as ort
from anchor_servers import BUILD, SERVERS, Case, Target, versions_of
from machine import keep, wait_quiet
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from wrk import Load, load, require_wrk

SEED = 20260704
CORES = 2
TOKENS = 64
WARM_UP_S = 2
"""The time before the first measurement (guess: profiles and arenas are settled after some hundred requests)."""
RTOL, ATOL = 1e-3, 1e-3
"""Batch size alone changes sums slightly; a wrong row differs in the first digit."""
OWN = "capamesh"

Cells = dict[tuple[str, str, int], list[Load]]
"""The loads of each (model, server, connections), one a round."""


def inputs_of(model: str) -> dict[str, np.ndarray]:
    """Return one row of seeded input."""
    rng = np.random.default_rng(SEED)
    match model:
        case "mlp":
            return {"x": rng.random((1, 64), np.float32)}
        case "resnet":
            return {"image": rng.standard_normal((1, 3, 224, 224), np.float32)}
        case "minilm":
            return {
                "input_ids": rng.integers(0, anchor_models.VOCABULARY, (1, TOKENS)),
                "attention_mask": np.ones((1, TOKENS), np.int64),
                "token_type_ids": np.zeros((1, TOKENS), np.int64),
            }
        case _:
            raise SystemExit(f"no inputs are known for model {model!r}")


def case_of(model: str, file: Path, *, is_spinning: bool) -> Case:
    """Return a model's case, its answer taken from ONNX Runtime in this process."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = inputs_of(model)
    return Case(model, file, inputs, session.run(None, inputs)[0], is_spinning)


async def check(server: str, target: Target, case: Case) -> None:
    """Ask once; exit when the answer is not what ONNX Runtime gives."""
    answer = await target.ask()
    if answer.status != 200:
        raise SystemExit(f"{server} answered {answer.status}: {answer.body[:500]!r}")
    given = target.read(answer).reshape(case.expected.shape)
    if not np.allclose(given, case.expected, RTOL, ATOL):
        difference = np.abs(given - case.expected).max()
        raise SystemExit(f"{server} answers {case.model} wrongly: off by up to {difference}")


async def hit(target: Target, connections: int, seconds: int) -> Load:
    """Return what wrk sees."""
    return await load(
        target.url,
        target.body,
        target.header_length,
        connections=connections,
        seconds=seconds,
        content_type=target.content_type,
    )


async def measure(
    case: Case, servers: Sequence[str], options: argparse.Namespace, progress: Progress
) -> Cells:
    """Start the servers with one model and measure them in turn."""
    cells: Cells = {}
    task = progress.add_task(
        f"{case.model}: starting", total=options.rounds * len(options.connections) * len(servers)
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets: dict[str, Target] = {}
        for server in servers:
            progress.update(task, description=f"{case.model}: starting {server}")
            targets[server] = await stack.enter_async_context(SERVERS[server](case, folder))
            await check(server, targets[server], case)
            await hit(targets[server], max(options.connections), WARM_UP_S)
        for number in range(1, options.rounds + 1):
            for connections in options.connections:
                for server, target in targets.items():
                    what = f"{case.model}: round {number}, c={connections}, {server}"
                    progress.update(task, description=what)
                    await wait_quiet()
                    seen = await hit(target, connections, options.seconds)
                    cells.setdefault((case.model, server, connections), []).append(seen)
                    progress.advance(task)
        for server, target in targets.items():
            await check(server, target, case)
        progress.update(task, description=f"{case.model}: stopping")
    return cells


def row_of(loads: Sequence[Load]) -> dict[str, Any]:
    """Return the medians over rounds; failures are summed."""
    return {
        "per_second": round(statistics.median(seen.per_second for seen in loads), 1),
        "p50_us": round(statistics.median(seen.p50_us for seen in loads)),
        "p99_us": round(statistics.median(seen.p99_us for seen in loads)),
        "failed": sum(seen.failed for seen in loads),
        "rounds_per_second": [round(seen.per_second, 1) for seen in loads],
    }


def rows_of(cells: Cells) -> list[dict[str, Any]]:
    """Return a row for each cell, with Capamesh's lead where it was measured too."""
    rows = []
    for (model, server, connections), loads in cells.items():
        row = {"model": model, "connections": connections, "server": server, **row_of(loads)}
        own = cells.get((model, OWN, connections))
        if own is not None and server != OWN:
            row["capamesh_ratio"] = round(row_of(own)["per_second"] / row["per_second"], 2)
        rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title="the same model, cores and client: requests a second, medians of rounds")
    for column in ("model", "c", "server", "req/s", "p50", "p99", "failed", "Capamesh / it"):
        is_text = column in {"model", "server"}
        table.add_column(column, justify="left" if is_text else "right")
    for row in rows:
        table.add_row(
            row["model"],
            str(row["connections"]),
            row["server"],
            f"{row['per_second']:.1f}",
            f"{row['p50_us'] / 1000:.1f} ms",
            f"{row['p99_us'] / 1000:.1f} ms",
            str(row["failed"]),
            f"{row['capamesh_ratio']:.2f}" if "capamesh_ratio" in row else "",
        )
    console.print(table)


def stay_on_two_cores() -> list[int]:
    """Bind this process, and so all that it starts, to two cores; return them."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def main() -> int:
    """Measure, print, keep; fail when Capamesh failed a request."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=anchor_models.BUILDERS, default=["minilm", "resnet"]
    )
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--connections", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--seconds", type=int, default=20, help="of one server in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--spinning", action="store_true", help="let the other servers' idle threads spin"
    )
    options = parser.parse_args()
    require_wrk()
    console = Console()
    cores = stay_on_two_cores()
    console.print(f"building the models into {BUILD / 'models'}")
    files = anchor_models.build(BUILD / "models")
    others = [server for server in options.servers if server != OWN]
    versions = {}
    for server in others:
        console.print(f"looking after {server}'s environment")
        versions[server] = versions_of(server)
    cells: Cells = {}
    with Progress(console=console) as progress:
        for model in options.models:
            case = case_of(model, files[model], is_spinning=options.spinning)
            cells |= asyncio.run(measure(case, options.servers, options, progress))
    rows = rows_of(cells)
    show(rows, console)
    figures = {
        "seed": SEED,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "is_spinning": options.spinning,
        "cores": cores,
        "rows": rows,
        "versions": {
            server: {name: seen[name] for name in (server, "onnxruntime", "numpy")}
            for server, seen in versions.items()
        },
    }
    console.print(f"kept in {keep('anchors', figures)}")
    return 1 if any(row["failed"] for row in rows if row["server"] == OWN) else 0


if __name__ == "__main__":
    sys.exit(main())
