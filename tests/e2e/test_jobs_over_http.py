"""Batch jobs at a router with two workers, by HTTP: each worker has the jobs that the other was told of, and a stop ends who follows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from clusters import until_all_know
from job_files import write_jsonl

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.errors import LocalError

PATIENCE_S = 120.0
CONNECTIONS = 16
"""So many fresh connections come to both workers."""


async def told(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and JSON of an answer, on a connection of its own."""
    async with (
        aiohttp.ClientSession(url) as session,
        session.request(method, path, json=body) as response,
    ):
        return response.status, await response.json()


async def test_job_is_known_to_all_workers_and_to_the_next_start(
    built_models: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "digits.jsonl", [{"pixels": [0.0] * 64} for _ in range(20)])
    options = ("--workers", "2", "--jobs-place", str(data))
    cluster = LocalCluster(tmp_path / "cluster", built_models, 1, router_options=options)
    body = {
        "model": "digits",
        "input": {"url": f"{data}/digits.jsonl", "columns": {"X": ["pixels"]}},
        "client_key": "digits, first try",
    }
    async with cluster:
        url = cluster.http_url
        await until_all_know(cluster, "digits")
        status, job = await told(url, "POST", "/v1/jobs", body)
        assert (status, job["version"]) == (201, "1")
        path = f"/v1/jobs/{job['id']}"
        for _ in range(CONNECTIONS):
            assert (await told(url, "POST", "/v1/jobs", body))[0] == 200
            status, shown = await told(url, "GET", path)
            assert (status, shown["digest"]) == (200, job["digest"])
        secret = {**body, "input": {"url": f"{cluster.router.data_folder}/operator.key"}}
        secret["input"] |= {"format": "csv", "columns": {"X": ["a"]}}
        status, refusal = await told(url, "POST", "/v1/jobs", secret)
        assert status == 400
        assert "--jobs-place" in refusal["error"]
        async with (
            aiohttp.ClientSession(url) as session,
            session.get(f"{path}/events?follow=true") as events,
        ):
            first = (await events.content.readuntil(b"\n\n")).decode()
            assert first.startswith("id: 1\nevent: submitted\n")
            status, _ = await told(url, "POST", f"{path}/cancel")
            assert status in {200, 409}  # it may have been done before
            async with asyncio.timeout(PATIENCE_S):
                rest = (await events.read()).decode()
            last = rest.strip().split("\n\n")[-1]
            _, shown = await told(url, "GET", path)
            assert shown["state"] == ("cancelled" if status == 200 else "completed")
            assert json.loads(last.split("data: ")[1])["state"] == shown["state"]
    async with cluster:
        status, listed = await told(cluster.http_url, "GET", "/v1/jobs")
        assert [each["id"] for each in listed["data"]] == [job["id"]]


async def test_store_that_cannot_be_opened_ends_the_start(
    built_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = (
        ("--jobs", str(tmp_path / "file" / "jobs.db")),
        ("--jobs", str(tmp_path / "file" / "jobs.db"), "--workers", "2"),
        ("--jobs-place", "relative", "--workers", "2"),
    )
    for number, options in enumerate(given):
        cluster = LocalCluster(tmp_path / str(number), built_models, 0, router_options=options)
        with pytest.raises(LocalError, match=r"cannot make the folder|--jobs-place"):
            await cluster.start()
