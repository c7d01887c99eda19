"""Batch jobs on real processes: every row has one result, whichever node or router is killed or frozen meanwhile."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from job_http import JobHttp
from postgres import served

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import LEASE_S, JobId

SECONDS = 600.0
"""Far more than a job takes; it only ends a test that hangs."""
TAKEN_OVER_S = LEASE_S + 1.0
Rows = npt.NDArray[np.float32]
Direct = Callable[[Rows], dict[str, npt.NDArray[Any]]]


@pytest.fixture
def rows(built_models: Path) -> Rows:
    """Return handwritten digits, of shape [450, 64] and dtype float32."""
    return np.asarray(np.load(built_models.parent / "cases" / "digits.npz")["rows"])


@pytest.fixture
def direct(built_models: Path) -> Direct:
    """Return what runs digits of shape [rows, 64] without a network: labels of shape [rows] and probabilities [rows, 10]."""
    model = built_models / "digits" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(given: Rows) -> dict[str, npt.NDArray[Any]]:
        label, probabilities = session.run(["label", "probabilities"], {"X": given})
        return {"label": np.asarray(label), "probabilities": np.asarray(probabilities)}

    return run


def is_under_way(job: dict[str, Any]) -> bool:
    """Whether shards are at work; a look that is late sees what they have done."""
    return job["done"]["leased_shards"] > 1 or job["done"]["rows"] > 0


async def completed(jobs: JobHttp, job: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return a job once it has ended, which must be well, with all rows."""
    done = await jobs.ended(job["id"], SECONDS)
    seen = (done["state"], done["done"]["rows"], done["done"]["bad_rows"])
    assert seen == ("completed", rows, 0), done
    return done


async def results(store: str, folder: Path, job: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return all results, by the number of their row, from the parts that manifests name; each row is there once."""
    opened = await asyncio.to_thread(JobStore.open, store, time.time)
    try:
        manifests = await opened.manifests(JobId(job["id"]), 0, 1000)
    finally:
        await opened.close()
    sink = LocalSink(folder, JobId(job["id"]))
    parts = [dict(np.load(io.BytesIO(sink.read(one.part)))) for _, _, one in manifests if one.part]
    numbers = np.concatenate([part["row"] for part in parts])
    assert numbers.tolist() == list(range(job["rows"]))
    return {
        name: np.concatenate([part[name] for part in parts]) for name in ("label", "probabilities")
    }


def check(
    found: dict[str, npt.NDArray[Any]], expected: dict[str, npt.NDArray[Any]], times: int
) -> None:
    """Look that results are those of a direct run of the rows, repeated so many times."""
    assert np.array_equal(found["label"], np.tile(expected["label"], times))
    wanted = np.tile(expected["probabilities"], (times, 1))
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-5, atol=1e-6)


def table(path: Path, rows: Rows, times: int) -> dict[str, Any]:
    """Write rows, repeated so many times, as CSV; return the input of a job that has them."""
    names = [f"p{at}" for at in range(64)]
    text = io.StringIO()
    csv.writer(text).writerows(rows.tolist())
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(names)
        file.writelines([text.getvalue()] * times)
    return {"url": str(path), "format": "csv", "columns": {"X": names}}


@pytest.mark.smoke
async def test_rows_of_a_table_have_the_results_of_a_direct_run_whichever_node_is_killed(
    built_models: Path, tmp_path: Path, rows: Rows, direct: Direct
) -> None:
    options = ("--jobs-place", str(tmp_path))
    output = {"url": str(tmp_path / "out"), "format": "npz"}
    async with (
        LocalCluster(tmp_path / "c", built_models, 2, router_options=options) as cluster,
        JobHttp(lambda: [cluster.http_url], cluster.headers) as jobs,
    ):
        await cluster.wait_routable(2)
        store = str(cluster.router.data_folder / "jobs.db")
        for times in (4, 200):  # arrays are done before a node is hurt
            source = table(tmp_path / f"in-{times}.csv", rows, times)
            job = await jobs.submit(
                {"model": "digits", "input": source, "output": output, "concurrency": 4}
            )
            if times > 4:
                await jobs.until(job["id"], is_under_way, SECONDS)
                cluster.nodes[0].signal(signal.SIGKILL)
            done = await completed(jobs, job, len(rows) * times)
            check(await results(store, tmp_path / "out", done), direct(rows), times)


@pytest.fixture
def store(hurt: signal.Signals, tmp_path: Path) -> Iterator[str]:
    """Yield the store of two routers: a router that freezes may hold SQLite's file, and never PostgreSQL."""
    if hurt is signal.SIGKILL:
        yield str(tmp_path / "jobs.db")
        return
    with served() as server:
        yield server.new_database()


@pytest.mark.parametrize("hurt", [signal.SIGKILL, signal.SIGSTOP])
async def test_router_that_is_killed_or_frozen_is_taken_over(
    built_models: Path,
    tmp_path: Path,
    rows: Rows,
    direct: Direct,
    store: str,
    hurt: signal.Signals,
) -> None:
    source = table(tmp_path / "in.csv", rows, 1600)  # arrays are done before a router is hurt
    options = ("--jobs-place", str(tmp_path), "--jobs", store)
    shared = ("--jobs-folder", str(tmp_path / "jobs"))
    output = {"url": str(tmp_path / "out"), "format": "npz"}
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                LocalCluster(tmp_path / name, built_models, 1, router_options=(*options, *shared))
            )
            for name in ("one", "two")
        ]
        at_one, at_two = [
            await stack.enter_async_context(
                JobHttp(lambda url=cluster.http_url: [url], cluster.headers)  # type: ignore[misc]
            )
            for cluster in (one, two)
        ]
        for cluster in (one, two):
            await cluster.wait_routable(1)
        job = await at_one.submit(
            {"model": "digits", "input": source, "output": output, "concurrency": 2}
        )
        await at_two.until(job["id"], is_under_way, SECONDS)
        one.router.signal(hurt)
        hurt_s = time.monotonic()
        done = await completed(at_two, job, len(rows) * 1600)
        before = await results(store, tmp_path / "out", done)
        check(before, direct(rows), 1600)
        if hurt is signal.SIGSTOP:
            await asyncio.sleep(max(0.0, hurt_s + TAKEN_OVER_S - time.monotonic()))
            one.router.signal(signal.SIGCONT)
            # the woken router says the same as the other, and has changed nothing
            again = await at_one.ended(job["id"], SECONDS)
            assert again["done"] == done["done"]
            after = await results(store, tmp_path / "out", done)
            assert all(np.array_equal(before[name], after[name]) for name in before)
