"""Files that take the memory or a core of whoever reads them, as inputs of jobs: each job ends with its reason, and all else goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hostile_inputs
import pytest
from hostile import Figures, attacked
from job_files import write_jsonl
from job_http import JobError, JobHttp

HONEST_ROWS = 2000
PATIENCE_S = 180.0
REASONS = {
    "bomb.parquet": ("failed", "ended over it"),
    "bomb.arrow": ("failed", "ended over it"),
    "wide.csv": ("refused", "700000 columns, the limit is 10000"),
    "wide.arrow": ("refused", "200000 columns, the limit is 10000"),
    "line.jsonl": ("completed", ""),
}
"""What becomes of the job of each file."""


async def _ended(jobs: JobHttp, path: Path) -> tuple[str, str]:
    """Submit a job and return the state in which it ends, and why."""
    try:
        job = await jobs.submit(hostile_inputs.job_of(path))
    except JobError as error:
        return "refused", str(error)
    shown = await jobs.until(
        job["id"], lambda job: job["state"] in {"completed", "failed", "paused"}, PATIENCE_S
    )
    return shown["state"], shown.get("reason", "")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("bomb.parquet", "wide.csv"), id="two", marks=pytest.mark.smoke),
        pytest.param(tuple(REASONS), id="all"),
    ],
)
async def test_file_that_ends_its_reader_ends_its_job_and_nothing_else(
    tmp_path: Path, sample_models: Path, figures: Figures, names: tuple[str, ...]
) -> None:
    pytest.importorskip("pyarrow")
    data = tmp_path / "data"
    data.mkdir()
    for name, write in hostile_inputs.FILES.values():
        if name in names:
            write(data / name)
    honest_path = write_jsonl(
        data / "honest.jsonl", [{"x": [0.0] * 64} for _ in range(HONEST_ROWS)]
    )
    options = ("--jobs-place", str(data))
    async with (
        attacked(tmp_path / "net", sample_models, nodes=1, router_options=options) as network,
        JobHttp(lambda: [network.http_url], network.headers) as jobs,
    ):
        pid = network.router.pid
        async with network.honest() as seen:
            honest, *ended = await asyncio.gather(
                *(_ended(jobs, path) for path in (honest_path, *(data / name for name in names)))
            )
        for name, (state, words) in zip(names, ended, strict=True):
            assert (state, REASONS[name][1] in words) == (REASONS[name][0], True), (name, words)
        assert honest == ("completed", "")
        assert seen.failures == []
        assert network.router.pid == pid
        figures.note("honest answers beside hostile inputs", seen.answered)
        figures.note("the slowest of them, s", round(seen.slowest_s, 3))
