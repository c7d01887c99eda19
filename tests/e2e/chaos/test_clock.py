from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import WallClock, why_no_clock
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
WITHIN_S = 300.0
"""Less than the ten minutes by which members' clocks may differ."""


@pytest.mark.skipif(bool(why_no_clock()), reason=why_no_clock())
@pytest.mark.parametrize("whose", ["the node's", "the router's"])
async def test_no_request_fails_when_a_wall_clock_jumps_and_adverts_are_heard_all_the_while(
    make_chaos: Callable[[], ChaosCluster], tmp_path: Path, whose: str
) -> None:
    clock = WallClock(tmp_path, "hurt")
    cluster = make_chaos()
    if whose == "the router's":
        with clock.applied():
            await cluster.start()
    else:
        await cluster.start()
    try:
        if whose == "the node's":
            with clock.applied():
                await cluster.add()
        await cluster.add()
        if whose == "the router's":
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)

        async def jump() -> None:
            for offset_s in (WITHIN_S, -WITHIN_S, 0.0):
                clock.jump_to(offset_s)
                await asyncio.sleep(1)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(500, TURNS), rate=RATE, seed=1, at={50: jump})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-100:]} == set(peers)
        # whoever joins afterwards is heard by the one whose clock was set
        await cluster.add()
        await until_in_rotation(cluster.http_url, *peers, peer_of(cluster.nodes[2]))
        assert await still_in_flight(cluster.http_url) == {}
    finally:
        await cluster.stop()
