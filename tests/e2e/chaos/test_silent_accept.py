from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

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
AFTER = 400
"""The requests after the node is back, enough that each node has some though one measures a little slower for a while."""
RATE = 100.0


async def test_no_request_fails_while_a_node_accepts_and_says_nothing_and_it_is_back_when_it_speaks(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster, cluster.proxied(1) as (silent, proxy):
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        assert peers[0] == peer_of(silent)
        speaks = asyncio.Event()

        async def be_silent() -> None:
            before = proxy.accepted
            proxy.is_held = True
            await until_out(cluster.http_url, peers[0])
            await until_unlinked(cluster.http_url, peers[0])
            while proxy.accepted == before:  # it is dialled again, and accepts
                await asyncio.sleep(0.05)
            proxy.is_held = False
            await until_in_rotation(cluster.http_url, peers[0])
            speaks.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10_000, TURNS)
            while not speaks.is_set():
                yield next(numbered)
            yield from requests(AFTER, TURNS)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(stream(), rate=RATE, seed=1, at={100: be_silent})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-AFTER:]} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}
