"""Triton's load generator, unmodified, which learns from a model's metadata and configuration what to send."""

from __future__ import annotations

import asyncio
import csv
import shutil
from pathlib import Path

import pytest

from capamesh.cli.local_cluster import LocalCluster

PROGRAM = shutil.which("perf_analyzer")
REQUESTS = 50
LIMIT_S = 60

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        PROGRAM is None,
        reason="perf_analyzer is not there: pip install perf-analyzer, which takes glibc 2.38 or newer",
    ),
]


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("model", ["digits", "breast_cancer"])
async def test_load_generator_needs_no_more_than_the_model_s_name(
    cluster: LocalCluster, tmp_path: Path, model: str, rows: int
) -> None:
    assert PROGRAM is not None
    report = tmp_path / "report.csv"
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "-m", model, "-b", str(rows), "-u", cluster.http_url.removeprefix("http://"),
        "--concurrency-range", "2", "--request-count", str(REQUESTS), "-f", str(report),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert f"Batch size: {rows}" in said.decode()
    (measured,) = csv.DictReader(report.read_text().splitlines())
    assert measured["Concurrency"] == "2"
    assert float(measured["Inferences/Second"]) > 0
    assert int(measured["Server Compute Infer"]) > 0
