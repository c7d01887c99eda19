from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from chaos import frozen
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
RATE = 100.0


async def second_router(cluster: ChaosCluster) -> tuple[Member, str, list[str]]:
    """Return one more router, its URL, and the nodes' peers, which both routers know."""
    for _ in range(2):
        await cluster.add()
    router = await cluster.add_router()
    url = str(router.status()["http_address"])
    peers = [peer_of(node) for node in cluster.nodes]
    await until_in_rotation(cluster.http_url, *peers)
    await until_in_rotation(url, *peers)
    return router, url, peers


async def test_one_of_two_routers_can_be_started_anew_without_a_failed_request(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        router, url, peers = await second_router(cluster)

        async def start_anew() -> None:
            router.signal(signal.SIGTERM)
            assert await asyncio.wait_for(router.wait(), 30) == 0
            await cluster.add_router(url.removeprefix("http://"))
            await until_in_rotation(url, *peers)

        load = OpenLoad([cluster.http_url, url], MODEL)
        shots = await load.run(requests(800, TURNS), rate=RATE, seed=1, at={100: start_anew})
        assert failures(shots) == []
        shots = await OpenLoad(url, MODEL).run(requests(100, TURNS), rate=RATE, seed=2)
        assert failures(shots) == []
        for each in (cluster.http_url, url):
            assert await still_in_flight(each) == {}


async def test_killed_router_costs_nothing_where_another_is_asked_in_its_place(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        router, url, peers = await second_router(cluster)

        async def kill() -> None:
            router.signal(signal.SIGKILL)
            await router.wait()

        load = OpenLoad([cluster.http_url, url], MODEL)
        shots = await load.run(requests(400, TURNS), rate=RATE, seed=3, at={100: kill})
        assert failures(shots) == []
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_frozen_router_keeps_its_requests_and_answers_them_when_it_thaws(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def freeze() -> None:
            with frozen([cluster.router.pid]):
                await asyncio.sleep(3)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(300, TURNS), rate=50.0, seed=4, at={100: freeze})
        assert failures(shots) == []
        await until_in_rotation(cluster.http_url, *peers)
        assert await still_in_flight(cluster.http_url) == {}
