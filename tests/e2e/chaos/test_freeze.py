from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from chaos import frozen, own_pids
from chaos_cluster import (
    MODEL,
    ChaosCluster,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
    until_out,
    until_unlinked,
)
from open_load import OpenLoad, failures

TURNS = 250
RATE = 100.0


async def test_no_request_fails_while_a_node_is_frozen_and_it_is_back_when_it_thaws(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(3):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        thawed = asyncio.Event()

        async def freeze() -> None:
            with frozen(own_pids(cluster.nodes[0])):
                await until_out(cluster.http_url, peers[0])
                await until_unlinked(cluster.http_url, peers[0])
            await until_in_rotation(cluster.http_url, peers[0])
            thawed.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10_000, TURNS)
            while not thawed.is_set():
                yield next(numbered)
            yield from requests(100, TURNS)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(stream(), rate=RATE, seed=1, at={100: freeze})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-100:]} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_worker_that_is_frozen_alone_costs_no_request_either(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        (worker,) = own_pids(cluster.nodes[0])[1:]

        async def freeze() -> None:
            with frozen([worker]):
                await asyncio.sleep(2)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(400, TURNS), rate=RATE, seed=2, at={100: freeze})
        assert failures(shots) == []
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}
