from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator

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


async def test_no_request_fails_when_a_node_is_killed_and_it_is_back_in_rotation_when_started_again(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(3):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def kill() -> None:
            cluster.nodes[0].signal(signal.SIGKILL)
            await cluster.nodes[0].wait()

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(600, TURNS), rate=RATE, seed=1, at={200: kill})
        assert failures(shots) == []
        assert {shot.node for shot in shots[:200]} == set(peers)
        assert {shot.node for shot in shots[-200:]} == set(peers[1:])
        await cluster.start_again(cluster.nodes[0])
        await until_in_rotation(cluster.http_url, *peers)
        shots = await OpenLoad(cluster.http_url, MODEL).run(requests(200, TURNS), rate=RATE, seed=2)
        assert failures(shots) == []
        assert {shot.node for shot in shots} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_no_request_fails_while_all_nodes_are_started_anew_one_after_the_other(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(3):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        rolled = asyncio.Event()

        async def roll() -> None:
            for peer, node in zip(peers, list(cluster.nodes), strict=True):
                node.signal(signal.SIGTERM)
                assert await asyncio.wait_for(node.wait(), 30) == 0
                await cluster.start_again(node)
                await until_in_rotation(cluster.http_url, peer)
            rolled.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10_000, TURNS)
            while not rolled.is_set():
                yield next(numbered)
            yield from requests(100, TURNS)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(stream(), rate=RATE, seed=3, at={50: roll})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-100:]} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}
