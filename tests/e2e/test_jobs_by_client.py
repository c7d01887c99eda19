"""Jobs by the command and by the SDK, at a real router whose nodes run real models: each row as a direct request has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient, Client, InvalidRequest, JobNotFound

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROWS = 300
BAD = (3, 250)
LIMIT_S = 120.0
"""Far more than a command takes, for machines that do much else."""


def pixels() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 17, (ROWS, 64)).astype(np.float32)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def network(
    built_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[LocalCluster, Path]]:
    """Yield a network, and a folder that its jobs may read."""
    folder = tmp_path_factory.mktemp("jobs")
    data = folder / "data"
    data.mkdir()
    np.save(data / "rows.npy", pixels())
    with (data / "rows.jsonl").open("w") as lines:
        for number, row in enumerate(pixels().tolist()):
            columns = {"X": ["no number"] if number in BAD else row, "name": f"n{number}"}
            lines.write(json.dumps(columns) + "\n")
    options = ("--jobs-place", str(data))
    async with LocalCluster(folder / "c", built_models, 2, router_options=options) as running:
        await running.wait_routable(2, {"digits"})
        yield running, data


async def labels(cluster: LocalCluster) -> list[int]:
    async with AsyncClient(cluster.http_url) as client:
        found: list[int] = (await client.infer("digits", {"X": pixels()}))["label"].tolist()
        return found


async def test_results_come_to_the_sdk_as_direct_answers_and_bad_rows_are_told(
    network: tuple[LocalCluster, Path],
) -> None:
    cluster, data = network
    wanted = await labels(cluster)
    async with AsyncClient(cluster.http_url) as client:
        for output_format in ("jsonl", "npz"):
            job = await client.jobs.submit(
                (data / "rows.jsonl").as_uri(),
                model="digits",
                id_column="name",
                output_format=output_format,
            )
            found = [row async for row in job.results()]
            assert (await job).state == "completed"
            good = [number for number in range(ROWS) if number not in BAD]
            assert [row.row for row in found] == good
            assert [row.id for row in found] == [f"n{number}" for number in good]
            assert [int(row.outputs["label"]) for row in found] == [wanted[row] for row in good]
            assert found[0].outputs["probabilities"].dtype == np.float32
            bad = [(row.row, row.id, row.code) async for row in job.errors()]
            assert bad == [(number, f"n{number}", "input_invalid") for number in BAD]
            assert (job.info.done.rows, job.info.done.bad_rows) == (len(good), len(BAD))
            kinds = [event.kind async for event in job.events(follow=True)]
            assert (kinds[0], kinds[-1]) == ("submitted", "completed")
            rest = [row.row async for row in job.results(from_row=ROWS - 5, in_order=False)]
            assert rest == list(range(ROWS - 5, ROWS))
            assert job.id in [each.id async for each in client.jobs.list(state="completed")]


async def test_job_is_one_under_its_client_key_and_refusals_are_typed(
    network: tuple[LocalCluster, Path],
) -> None:
    cluster, data = network

    def ask() -> None:
        with Client(cluster.http_url) as client:
            url = (data / "rows.npy").as_uri()
            ids = {client.jobs.submit(url, model="digits", client_key="k").id for _ in range(2)}
            assert len(ids) == 1
            client.jobs.get(ids.pop()).wait(LIMIT_S)
            with pytest.raises(JobNotFound):
                client.jobs.get("job-0")
            with pytest.raises(InvalidRequest, match="--jobs-place"):
                client.jobs.submit("file:///etc/passwd", model="digits", format="csv")
            with pytest.raises(InvalidRequest, match="has no such input"):
                client.jobs.submit(url, model="digits", columns={"Z": "array"})
            promise = client.jobs.promise(url, model="digits")
            assert promise.rows == ROWS

    await asyncio.to_thread(ask)
