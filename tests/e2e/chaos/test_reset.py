from __future__ import annotations

import asyncio
from collections.abc import Callable

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


async def test_no_request_fails_when_links_are_reset_in_the_midst_of_an_answer(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster, cluster.proxied(1) as (_, proxy):
        await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def reset() -> None:
            for _ in range(3):
                proxy.reset_after_bytes = 700  # within the second or third answer
                while proxy.reset_after_bytes is not None:
                    await asyncio.sleep(0.02)
                await until_in_rotation(cluster.http_url, peers[0])

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(600, TURNS), rate=RATE, seed=1, at={50: reset})
        assert failures(shots) == []
        assert proxy.resets == 3
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_no_request_fails_while_a_node_refuses_every_connection(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster, cluster.proxied(1) as (_, proxy):
        await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def cut() -> None:
            proxy.is_cut = True
            await asyncio.sleep(2)
            proxy.is_cut = False

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(400, TURNS), rate=RATE, seed=2, at={100: cut})
        assert failures(shots) == []
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}
