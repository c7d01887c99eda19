from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from chaos import Proxy, crowded, own_pids, slowed
from chaos_cluster import (
    MODEL,
    ChaosCluster,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
)
from open_load import OpenLoad, failures

from capamesh.cli.member import Member

TURNS = 250
RATE = 80.0


@asynccontextmanager
async def stopped_most_of_the_time(node: Member, proxy: Proxy) -> AsyncIterator[None]:
    with slowed(dict.fromkeys(own_pids(node), 0.3)):
        yield


@asynccontextmanager
async def on_a_crowded_core(node: Member, proxy: Proxy) -> AsyncIterator[None]:
    with crowded(own_pids(node), core=0, hogs=2):
        yield


@asynccontextmanager
async def far_away(node: Member, proxy: Proxy) -> AsyncIterator[None]:
    proxy.delay_s = 0.03
    try:
        yield
    finally:
        proxy.delay_s = 0.0


@asynccontextmanager
async def on_a_thin_wire(node: Member, proxy: Proxy) -> AsyncIterator[None]:
    proxy.bytes_per_s = 20_000.0
    try:
        yield
    finally:
        proxy.bytes_per_s = 0.0


@pytest.mark.parametrize(
    "slow", [stopped_most_of_the_time, on_a_crowded_core, far_away, on_a_thin_wire]
)
async def test_node_that_becomes_slow_costs_no_request_and_stays_in_the_fleet(
    make_chaos: Callable[[], ChaosCluster],
    slow: Callable[[Member, Proxy], AbstractAsyncContextManager[None]],
) -> None:
    async with make_chaos() as cluster, cluster.proxied(1) as (node, proxy):
        await cluster.add()
        peers = [peer_of(each) for each in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def slow_down() -> None:
            async with slow(node, proxy):
                await asyncio.sleep(3)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(480, TURNS), rate=RATE, seed=1, at={80: slow_down})
        assert failures(shots) == []
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}
