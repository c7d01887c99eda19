"""Triton's load generator, unmodified, which learns from a model's metadata and configuration what to send."""

from __future__ import annotations

import asyncio
import csv
import re
from pathlib import Path

import aiohttp
import pytest
from foreign_clients import run

REQUESTS = 50
MORE = 10
"""Times as many, where all were over before it read the server's statistics for the first time; up to twice."""
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("wire", ["http", "grpc"])
@pytest.mark.parametrize(("model", "rows"), [("digits", 1), ("digits", 8), ("breast_cancer", 1)])
async def test_load_generator_needs_no_more_than_the_model_s_name(
    address: str, tmp_path: Path, wire: str, model: str, rows: int
) -> None:
    report = tmp_path / "report.csv"
    for requests in (REQUESTS, MORE * REQUESTS, MORE * MORE * REQUESTS):
        before = await answered(address, model)
        said = await asyncio.to_thread(
            run, "perf-analyzer", "perf_analyzer", "-m", model, "-b", str(rows), "-i", wire, "-u", address,
            "--concurrency-range", "2", "--request-count", str(requests), "-f", report,
        )  # fmt: skip
        # it reads the statistics for the first time when its first requests are under way already, and misses those that are quicker
        served = re.search(r"Server:\s+Inference count: (\d+)", said)
        if served is not None and int(served[1]) > 0:
            break
    assert f"Batch size: {rows}" in said
    (measured,) = csv.DictReader(report.read_text().splitlines())
    assert measured["Concurrency"] == "2"
    assert float(measured["Inferences/Second"]) > 0
    assert int(measured["Server Compute Infer"]) > 0
    # what the server counts is what the client sent
    sent = re.search(r"Client:\s+Request count: (\d+)", said)
    assert sent is not None
    counted = [
        after - was for after, was in zip(await answered(address, model), before, strict=True)
    ]
    assert counted == [int(sent[1]), rows * int(sent[1])]
    assert served is not None
    assert 0 < int(served[1]) <= counted[1]


async def answered(address: str, model: str) -> list[int]:
    """Return how many requests and how many rows of a model the router has answered."""
    url = f"http://{address}/v2/models/{model}/stats"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        (stats,) = (await response.json())["model_stats"]
    return [stats["inference_stats"]["success"]["count"], stats["inference_count"]]
