from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
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
from namespaces import Namespace
from open_load import OpenLoad, failures

TURNS = 250
RATE = 100.0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    reason = Namespace.why_not()
    if reason:
        pytest.skip(reason)
    with Namespace(1).made() as made:
        yield made


@pytest.fixture
def far_cluster(tmp_path: Path, models: Path, namespace: Namespace) -> ChaosCluster:
    """A cluster whose router's mesh can be reached from the namespace."""
    return ChaosCluster(
        tmp_path / "cluster", models, router_options=("--mesh", f"{namespace.near_address}:0")
    )


async def test_no_request_fails_while_a_node_is_partitioned_off_and_it_is_back_when_the_net_heals(
    far_cluster: ChaosCluster, namespace: Namespace
) -> None:
    async with far_cluster as cluster:
        with namespace.entered():
            await cluster.add("--host", namespace.address)
        await cluster.add("--host", namespace.near_address)
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        healed = asyncio.Event()

        async def partition() -> None:
            namespace.partition()
            await until_out(cluster.http_url, peers[0])
            await until_unlinked(cluster.http_url, peers[0])
            namespace.heal()
            await until_in_rotation(cluster.http_url, peers[0])
            healed.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10_000, TURNS)
            while not healed.is_set():
                yield next(numbered)
            yield from requests(100, TURNS)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(stream(), rate=RATE, seed=1, at={100: partition})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-100:]} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_no_request_fails_over_a_wire_that_delays_and_loses_packets(
    far_cluster: ChaosCluster, namespace: Namespace
) -> None:
    reason = namespace.shape("delay", "20ms", "5ms", "loss", "3%")
    if reason:
        pytest.skip(f"no netem here: {reason}")
    async with far_cluster as cluster:
        with namespace.entered():
            await cluster.add("--host", namespace.address)
        await cluster.add("--host", namespace.near_address)
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        shots = await OpenLoad(cluster.http_url, MODEL).run(requests(400, TURNS), rate=RATE, seed=2)
        assert failures(shots) == []
        assert await still_in_flight(cluster.http_url) == {}
