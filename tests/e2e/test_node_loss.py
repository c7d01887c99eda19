from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_load import digits_stream
from engine_link import replaced
from polling import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient

REQUESTS = 2000
LIMIT_S = 120.0


async def test_no_request_fails_while_one_node_is_killed_and_another_drains(
    make_cluster: Callable[[int], LocalCluster], built_models: Path
) -> None:
    async with make_cluster(3) as cluster:
        await cluster.wait_routable(3)
        killed, drained, kept = cluster.nodes

        async def kill() -> None:
            killed.signal(signal.SIGKILL)

        async def drain() -> None:
            drained.signal(signal.SIGTERM)

        seen = await digits_stream(
            cluster.http_url,
            built_models.parent / "cases" / "digits.npz",
            count=REQUESTS,
            concurrency=16,
            at={600: kill, 1200: drain},
        )
        assert seen.failures == []
        assert seen.wrong == []
        assert seen.answered == REQUESTS
        assert set(seen.nodes) == {node.status()["peer_id"] for node in (killed, drained, kept)}
        assert await asyncio.wait_for(drained.wait(), LIMIT_S) == 0
        assert drained.status()["state"] == "stopped"


async def test_killed_agent_leaves_no_process_behind(
    make_cluster: Callable[[int], LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await cluster.wait_routable(1)
        status = cluster.nodes[0].status()
        children = [status["sidecar_pid"], *status["worker_pids"]]
        assert all(is_running(pid) for pid in children)
        cluster.nodes[0].signal(signal.SIGKILL)
        await cluster.nodes[0].wait()
        await until(lambda: not any(map(is_running, children)))


async def test_model_whose_only_node_was_killed_is_not_shown_as_ready(
    make_cluster: Callable[[int], LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await cluster.wait_routable(1)
        async with AsyncClient(cluster.http_url) as client:
            cluster.nodes[0].signal(signal.SIGKILL)
            await cluster.nodes[0].wait()

            async def is_unready() -> bool:
                return not any(entry.is_ready for entry in await client.models())

            await until(is_unready)
            # its advert is there still, which expires after 30 s
            assert {entry.state for entry in await client.models()} == {"UNAVAILABLE"}
            assert not await client.is_ready("digits")


@pytest.mark.smoke
async def test_killed_worker_is_back_and_serves_again(
    make_cluster: Callable[[int], LocalCluster], built_models: Path
) -> None:
    async with make_cluster(1) as cluster:
        await cluster.wait_routable(1)
        (before,) = cluster.nodes[0].status()["worker_pids"]
        os.kill(before, signal.SIGKILL)
        await replaced(cluster.nodes[0], before)
        await cluster.wait_routable(1)
        seen = await digits_stream(
            cluster.http_url,
            built_models.parent / "cases" / "digits.npz",
            count=50,
            concurrency=4,
        )
        assert (seen.answered, seen.failures) == (50, [])


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
