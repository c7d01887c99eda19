from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_load import digits_stream

from capamesh.cli.local_cluster import LocalCluster, Member


async def new_sidecar(member: Member, before: int) -> int:
    """Wait until the member's sidecar is another process and listens; return its pid."""
    async with asyncio.timeout(120):
        while True:
            status = member.status()
            if status["sidecar_pid"] not in (before, None) and status["mesh_addresses"]:
                return status["sidecar_pid"]
            await asyncio.sleep(0.05)


@pytest.mark.smoke
async def test_no_request_fails_while_every_sidecar_is_killed_and_later_adverts_are_heard(
    make_cluster: Callable[[int], LocalCluster], built_models: Path
) -> None:
    async with make_cluster(2) as cluster:
        await cluster.wait_routable(2)
        members = [cluster.router, *cluster.nodes]
        before = [member.status()["sidecar_pid"] for member in members]

        def killing(index: int) -> Callable[[], object]:
            async def kill() -> None:
                os.kill(before[index], signal.SIGKILL)

            return kill

        seen = await digits_stream(
            cluster.http_url,
            built_models.parent / "cases" / "digits.npz",
            count=1000,
            concurrency=8,
            at={200: killing(0), 400: killing(1), 600: killing(2)},
        )
        assert (seen.answered, seen.failures, seen.wrong) == (1000, [], [])
        for member, pid in zip(members, before, strict=True):
            await new_sidecar(member, pid)
        # a node that joins now is heard through the new sidecars
        await cluster.add_node()
        await cluster.wait_routable(3)
