"""The access log and the log of slow requests of a real router with two workers, whose files are moved away meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from chaos_cluster import metrics_at
from polling import until
from router_workers import until_all_know

from capamesh.cli.local_cluster import LocalCluster

BODY = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
REQUESTS = 30

pytestmark = pytest.mark.asyncio(loop_scope="session")


def lines_in(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file that have their end; none while it is not there."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


async def lines_of(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the lines of a file once there are so many."""
    await until(lambda: len(lines_in(path)) >= count)
    return lines_in(path)


async def ask(url: str, times: int) -> None:
    """Ask so many times at once, each on a connection of its own: some come to each worker."""

    async def once() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v2/models/digits/infer", json=BODY) as reply,
        ):
            assert reply.status == 200

    await asyncio.gather(*(once() for _ in range(times)))


async def test_requests_are_written_whole_while_files_are_moved_away(
    built_models: Path, tmp_path: Path
) -> None:
    access, slow = tmp_path / "access.log", tmp_path / "slow.log"
    options = (
        "--workers", "2", "--access-log", str(access), "--access-log-sample", "1", "--slow-log", str(slow), "--slow-log-time",
        "0.0001",
    )  # fmt: skip
    async with LocalCluster(
        tmp_path / "cluster", built_models, 1, router_options=options
    ) as cluster:
        await until_all_know(cluster, "digits")
        await ask(cluster.http_url, REQUESTS)

        def is_inference(line: dict[str, Any]) -> bool:
            return line.get("model") == "digits"

        await until(lambda: sum(map(is_inference, lines_in(access))) >= REQUESTS)
        first = lines_in(access)
        access.rename(tmp_path / "access.log.1")
        await ask(cluster.http_url, REQUESTS)
        second = [line for line in await lines_of(access, REQUESTS) if is_inference(line)]
        assert {line["code"] for line in (*filter(is_inference, first), *second)} == {"ok"}
        assert all(line["client"] == "127.0.0.1" and line["took_ms"] > 0 for line in second)
        (line, *_) = await lines_of(slow, 1)
        assert line["explanation"]["chosen"] == [line["node"]]

        async def are_counted() -> bool:
            found = await metrics_at(cluster.http_url)
            written = found.get('capamesh_log_lines_total{log="access",outcome="written"}', 0)
            left_out = found.get('capamesh_log_lines_total{log="slow",outcome="left_out"}', 0)
            return written >= 2 * REQUESTS and left_out > 0

        await until(are_counted)  # a worker that is busy may be late with its part of a page
        os.kill(cluster.router.pid, signal.SIGHUP)  # as logrotate may: nothing ends
        await ask(cluster.http_url, 1)
