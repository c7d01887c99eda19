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

import aiohttp
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from postgres import served

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import LEASE_S, JobId

SECONDS = 600.0
"""Far more than a job takes; it only ends a test that hangs."""
TAKEN_OVER_S = LEASE_S + 1.0
Rows = npt.NDArray[np.float32]


@pytest.fixture
def rows(built_models: Path) -> Rows:
    """Return handwritten digits, of shape [450, 64] and dtype float32."""
    return np.asarray(np.load(built_models.parent / "cases" / "digits.npz")["rows"])


@pytest.fixture
def direct(built_models: Path) -> Callable[[Rows], dict[str, npt.NDArray[Any]]]:
    """Return what runs digits of shape [rows, 64] without a network: labels of shape [rows] and probabilities [rows, 10]."""
    model = built_models / "digits" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(given: Rows) -> dict[str, npt.NDArray[Any]]:
        label, probabilities = session.run(["label", "probabilities"], {"X": given})
        return {"label": np.asarray(label), "probabilities": np.asarray(probabilities)}

    return run


async def submitted(cluster: LocalCluster, **words: object) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(cluster.http_url, headers=cluster.headers) as session,
        session.post("/v1/jobs", json={"model": "digits", **words}) as response,
    ):
        job: dict[str, Any] = await response.json()
        assert response.status == 201, job
        return job


async def until(
    cluster: LocalCluster, job: dict[str, Any], is_so: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return the job as a router tells it once something is so."""
    async with (
        asyncio.timeout(SECONDS),
        aiohttp.ClientSession(cluster.http_url, headers=cluster.headers) as session,
    ):
        while True:
            async with session.get(f"/v1/jobs/{job['id']}") as response:
                now: dict[str, Any] = await response.json()
            if is_so(now):
                return now
            assert now["state"] in {"planning", "running", "completed"}, now
            await asyncio.sleep(0.1)


def is_under_way(job: dict[str, Any]) -> bool:
    """Whether shards are at work; a look that is late sees what they have done."""
    return job["done"]["leased_shards"] > 1 or job["done"]["rows"] > 0


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
async def test_rows_of_a_table_have_the_results_of_a_direct_run(
    built_models: Path,
    tmp_path: Path,
    rows: Rows,
    direct: Callable[[Rows], dict[str, npt.NDArray[Any]]],
) -> None:
    source = table(tmp_path / "in.csv", rows, 4)
    options = ("--jobs-place", str(tmp_path))
    async with LocalCluster(tmp_path / "c", built_models, 2, router_options=options) as cluster:
        await cluster.wait_routable(2)
        output = {"url": str(tmp_path / "out"), "format": "npz"}
        job = await submitted(cluster, input=source, output=output)
        done = await until(cluster, job, lambda each: each["state"] == "completed")
        assert (done["rows"], done["done"]["rows"], done["done"]["bad_rows"]) == (1800, 1800, 0)
        store = str(cluster.router.data_folder / "jobs.db")
        check(await results(store, tmp_path / "out", done), direct(rows), 4)


async def test_node_that_is_killed_costs_no_row(
    built_models: Path,
    tmp_path: Path,
    rows: Rows,
    direct: Callable[[Rows], dict[str, npt.NDArray[Any]]],
) -> None:
    source = table(tmp_path / "in.csv", rows, 400)  # arrays are done before anybody is hurt
    options = ("--jobs-place", str(tmp_path))
    async with LocalCluster(tmp_path / "c", built_models, 2, router_options=options) as cluster:
        await cluster.wait_routable(2)
        output = {"url": str(tmp_path / "out"), "format": "npz"}
        job = await submitted(cluster, input=source, output=output, concurrency=4)
        await until(cluster, job, is_under_way)
        cluster.nodes[0].signal(signal.SIGKILL)
        done = await until(cluster, job, lambda each: each["state"] == "completed")
        assert (done["done"]["rows"], done["done"]["bad_rows"]) == (180_000, 0)
        store = str(cluster.router.data_folder / "jobs.db")
        check(await results(store, tmp_path / "out", done), direct(rows), 400)


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
    direct: Callable[[Rows], dict[str, npt.NDArray[Any]]],
    store: str,
    hurt: signal.Signals,
) -> None:
    source = table(tmp_path / "in.csv", rows, 1600)  # arrays are done before anybody is hurt
    options = (
        *("--jobs-place", str(tmp_path)),
        *("--jobs", store),
        *("--jobs-folder", str(tmp_path / "jobs")),
    )
    async with AsyncExitStack() as stack:
        one, two = [
            LocalCluster(tmp_path / name, built_models, 1, router_options=options)
            for name in ("one", "two")
        ]
        for cluster in (one, two):
            await stack.enter_async_context(cluster)
            await cluster.wait_routable(1)
        output = {"url": str(tmp_path / "out"), "format": "npz"}
        job = await submitted(one, input=source, output=output, concurrency=2)
        await until(two, job, is_under_way)
        one.router.signal(hurt)
        hurt_s = time.monotonic()
        done = await until(two, job, lambda each: each["state"] == "completed")
        if hurt is signal.SIGSTOP:
            await asyncio.sleep(max(0.0, hurt_s + TAKEN_OVER_S - time.monotonic()))
            before = await results(store, tmp_path / "out", done)
            one.router.signal(signal.SIGCONT)
            # the woken router says the same as the other, and has changed nothing
            again = await until(one, job, lambda each: each["state"] == "completed")
            assert again["done"] == done["done"]
            after = await results(store, tmp_path / "out", done)
            assert all(np.array_equal(before[name], after[name]) for name in before)
        assert (done["done"]["rows"], done["done"]["bad_rows"]) == (720_000, 0)
        check(await results(store, tmp_path / "out", done), direct(rows), 1600)
