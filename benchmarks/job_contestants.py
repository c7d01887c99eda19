"""A data set and those who run a model over it: ONNX Runtime alone, a job, a loop of requests, and Ray Data. Starts processes.

Imported by `jobs.py`, by whose path the tests' support is found.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anchor_models
import environments
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from job_cluster import JobCluster, processes
from job_http import JobHttp
from machine import cpu_s
from onnx import TensorProto, helper

from capamesh.client import AsyncClient

HERE = Path(__file__).parent
RAY = HERE / "anchors" / "ray.txt"
RAY_HOME = HERE.parent / "build" / "anchors" / "ray"
SEED = 20261127
TOKENS = 64
IN_FLIGHT = 64
"""The requests of the loop that are always under way."""
LIMIT_S = 1800.0
"""The longest run of one contestant: it only ends one that hangs."""
NPZ: Final = "npz"
CSV: Final = "csv"
GROUP_ROWS = 8192
"""The rows of a row group of the data set."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and its data set, as arrays [rows, ...] and as a file of each form, which is written when it is needed."""

    name: str
    model: str
    file: Path
    rows: dict[str, np.ndarray]
    data: Path
    """The folder of the data set and its forms; jobs may read it."""

    @property
    def count(self) -> int:
        """The rows of the data set."""
        return len(next(iter(self.rows.values())))

    @property
    def parquet(self) -> Path:
        """The data set as Parquet."""
        return self.data / f"{self.name}.parquet"

    @property
    def npz(self) -> Path:
        """The data set as arrays of numpy."""
        return self.data / f"{self.name}.npz"

    def spec(self, rows: int = 0, form: str = NPZ) -> dict[str, Any]:
        """Return the job of its first `rows`, 0: all, in a form of input; the file is written if it is not there."""
        file = self.data / (f"{self.name}-{rows}.{form}" if rows else f"{self.name}.{form}")
        if not file.exists():
            end = rows or self.count
            WRITERS[form](file, {name: array[:end] for name, array in self.rows.items()})
        columns = {name: [name] for name in self.rows}
        if form == CSV:
            columns = {name: csv_names(name, array) for name, array in self.rows.items()}
        source = {"url": file.as_uri(), "format": form, "columns": columns}
        return {"model": self.model, "input": source, "output": {"format": "parquet"}}


@dataclass(frozen=True, slots=True)
class Ran:
    """The run of a contestant."""

    rows: int
    seconds: float
    cpu_s: float = 0.0
    """The CPU time of all its processes, 0: not looked at."""

    @property
    def per_second(self) -> float:
        """The rows a second."""
        return self.rows / self.seconds


def write_models(models: Path, names: set[str]) -> None:
    """Write the models: `mlp`, and `encoder`, which is MiniLM's size and gives one vector of 384 numbers for each text."""
    if "mlp" in names:
        _write(models / "mlp", anchor_models.mlp())
    if "encoder" in names:
        model = anchor_models.minilm()
        axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
        model.graph.initializer.append(axes)
        model.graph.node.append(
            helper.make_node("ReduceMean", ["last_hidden_state", "axes"], ["vector"], keepdims=0)
        )
        shape = ["N", anchor_models.HIDDEN]
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info("vector", TensorProto.FLOAT, shape))
        onnx.checker.check_model(model)
        _write(models / "encoder", model)


def _write(folder: Path, model: onnx.ModelProto) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())


def cases(models: Path, data: Path, counts: dict[str, int]) -> list[Case]:
    """Return the cases of these names, with so many rows each; their data sets are written."""
    rng = np.random.default_rng(SEED)
    found: list[Case] = []
    for name, count in counts.items():
        if name == "tiny":
            model, rows = "mlp", {"x": rng.random((count, 64), np.float32)}
        else:
            model = "encoder"
            rows = {
                "input_ids": rng.integers(0, anchor_models.VOCABULARY, (count, TOKENS)),
                "attention_mask": np.ones((count, TOKENS), np.int64),
                "token_type_ids": np.zeros((count, TOKENS), np.int64),
            }
        case = Case(name, model, models / model / "1" / "model.onnx", rows, data)
        np.savez(case.npz, **rows)
        found.append(case)
    return found


def write_parquet(file: Path, rows: dict[str, np.ndarray]) -> None:
    """Write arrays [rows, length] as a file with a column of lists for each."""
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
        for name, array in rows.items()
    }
    pq.write_table(pa.table(columns), file, row_group_size=GROUP_ROWS, compression="zstd")


def csv_names(name: str, array: np.ndarray) -> list[str]:
    """Return the names of the columns that an array [rows, length] has in CSV."""
    return [f"{name}{at}" for at in range(array.shape[1])]


def _write_csv(file: Path, rows: dict[str, np.ndarray]) -> None:
    """Write arrays [rows, length] with a column for each number of a row."""
    columns: dict[str, np.ndarray] = {}
    for name, array in rows.items():
        columns |= dict(zip(csv_names(name, array), array.T, strict=True))
    pa_csv.write_csv(pa.table(columns), file)


def _write_jsonl(file: Path, rows: dict[str, np.ndarray]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for at in range(len(next(iter(rows.values())))):
            lines.write(json.dumps({name: array[at].tolist() for name, array in rows.items()}))
            lines.write("\n")


WRITERS: Final[dict[str, Callable[[Path, dict[str, np.ndarray]], None]]] = {
    NPZ: lambda file, rows: np.savez(file, **rows),
    "parquet": write_parquet,
    CSV: _write_csv,
    "jsonl": _write_jsonl,
}


# contestants


async def raw(case: Case, threads: int, batch: int, seconds: float) -> Ran:
    """Let ONNX Runtime loop over the rows in a process of its own."""
    words = (str(case.file), str(case.npz), str(threads), str(batch), str(seconds))
    return Ran(**await _printed(sys.executable, str(HERE / "job_raw.py"), *words))


async def job(
    case: Case, cluster: JobCluster, http: JobHttp, rows: int = 0, form: str = NPZ
) -> Ran:
    """Submit a job and wait for its end. The seconds are the store's, from its submission to its end."""
    spec = case.spec(rows, form)
    before = {pid: cpu_s(pid) for pid in _pids(cluster)}
    submitted = await http.submit({**spec, "client_key": f"{case.name} {time.time()}"})
    ended = await http.ended(submitted["id"], LIMIT_S)
    used_s = sum(cpu_s(pid) - before.get(pid, 0.0) for pid in _pids(cluster))
    wanted = rows or case.count
    if ended["state"] != "completed" or ended["done"]["rows"] != wanted:
        raise SystemExit(
            f"the job of {wanted} rows is {ended['state']}: {ended['reason']} {ended['done']}"
        )
    return Ran(wanted, ended["ended_at"] - ended["created_at"], used_s)


def _pids(cluster: JobCluster) -> list[int]:
    return [pid for member in cluster.members for pid in processes(member)]


async def loop(case: Case, url: str, seconds: float) -> Ran:
    """Ask for one row a request, with so many always under way, as a program does that knows of no jobs."""
    done = 0
    began_s = time.perf_counter()
    numbers = itertools.cycle(range(case.count))

    async def ask(client: AsyncClient) -> None:
        nonlocal done
        while time.perf_counter() < began_s + seconds:
            at = next(numbers)
            await client.infer(
                case.model, {name: array[at : at + 1] for name, array in case.rows.items()}
            )
            done += 1

    async with AsyncClient(url) as client:
        await asyncio.gather(*(ask(client) for _ in range(IN_FLIGHT)))
    return Ran(done, time.perf_counter() - began_s)


def ray_python() -> str:
    """Return the interpreter that has Ray; raises `NotInstalled` with the reason why there is none."""
    return str(environments.python_of(RAY, RAY_HOME))


async def ray(case: Case, python: str, threads: int, batch: int) -> Ran:
    """Let Ray Data run all rows. The seconds are those from the first batch to the last, without the start of its actors."""
    case.spec(form="parquet")  # its file
    out = case.data / f"{case.name}-ray"
    shapes = {name: (array.shape[1:], array.dtype.name) for name, array in case.rows.items()}
    words = (
        str(case.file),
        str(case.parquet),
        json.dumps(shapes),
        str(threads),
        str(batch),
        str(out),
    )
    try:
        seen = await _printed(python, str(HERE / "anchors" / "ray_batches.py"), *words)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return Ran(seen["rows"], seen["busy_s"])


async def _printed(*command: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ray's workers give way to all others unless told
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise SystemExit(f"{command[1]} ended with {process.returncode}: {errors.decode()[-2000:]}")
    return json.loads(out.decode().splitlines()[-1])
