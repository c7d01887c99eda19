from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from chaos import frozen, sidecar_pid
from chaos_cluster import (
    MODEL,
    ChaosCluster,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
)
from open_load import OpenLoad, failures

TURNS = 250
RATE = 100.0


async def test_requests_do_not_need_the_mesh_its_processes_may_freeze_and_die_again_and_again(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        members = [cluster.router, *cluster.nodes]

        async def hurt() -> None:
            with frozen([sidecar_pid(member) for member in members]):
                await asyncio.sleep(1)
            for member in members:
                before = sidecar_pid(member)
                os.kill(before, signal.SIGKILL)
                while member.status()["sidecar_pid"] in (before, None):
                    await asyncio.sleep(0.05)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(600, TURNS), rate=RATE, seed=1, at={50: hurt})
        assert failures(shots) == []
        # a node that joins now is heard through the new processes
        await cluster.add()
        await until_in_rotation(cluster.http_url, *peers, peer_of(cluster.nodes[2]))
        assert await still_in_flight(cluster.http_url) == {}
