from __future__ import annotations

from collections.abc import Callable

import pytest
from chaos_cluster import (
    MODEL,
    ChaosCluster,
    gray_node,
    metrics_at,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
)
from open_load import OpenLoad, failures, share_asked

TURNS = 250
RATE = 120.0
FAIR = 1 / 3


@pytest.mark.parametrize(
    ("known", "most"),
    [
        pytest.param(9, 0.75 * FAIR, id="one run in ten fails"),
        pytest.param(1, 0.25 * FAIR, id="nine runs in ten fail, in no time"),
    ],
)
async def test_node_whose_runs_fail_loses_its_share_and_no_request_fails(
    make_chaos: Callable[[], ChaosCluster], known: int, most: float
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        async with gray_node(cluster, TURNS, lambda index: index % 10 >= known) as gray:
            await until_in_rotation(cluster.http_url, gray)
            load = OpenLoad(cluster.http_url, MODEL)
            shots = await load.run(requests(1200, TURNS), rate=RATE, seed=1)
        assert failures(shots) == []
        assert 0 < share_asked(shots[300:], gray) < most
        metrics = await metrics_at(cluster.http_url)
        failed = f'capamesh_attempts_failed_total{{code="run_failed",model="{MODEL}"}}'
        assert metrics[failed] > 0
        assert await still_in_flight(cluster.http_url) == {}


async def test_nodes_that_are_all_overloaded_are_not_ejected(
    make_chaos: Callable[[], ChaosCluster],
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(requests(2000, TURNS, timeout_s=0.2), rate=2000.0, seed=2)
        assert {shot.status for shot in shots} <= {200, 503, 504}
        assert any(shot.status != 200 for shot in shots)
        await until_in_rotation(cluster.http_url, *peers)
        assert '"node_ejected"' not in cluster.router.log_file.read_text()
        assert await still_in_flight(cluster.http_url) == {}
