"""Nodes that dial, members that are shut out: with real processes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster_load import digits_stream
from polling import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.network import NetworkOwner, RevocationList


async def nodes_of(cluster: LocalCluster) -> list[dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{cluster.http_url}/v1/nodes") as reply,
    ):
        return (await reply.json())["nodes"]


async def test_node_that_nobody_can_dial_dials_the_router_and_serves_over_that_link(
    built_models: Path, tmp_path: Path
) -> None:
    async with LocalCluster(
        tmp_path / "cluster", built_models, nodes=1, node_options=("--dial-only",)
    ) as cluster:
        await cluster.wait_routable(1)

        async def addresses() -> list[str]:
            (node,) = await nodes_of(cluster)
            return [link["address"] for link in node["links"]]

        async def is_one() -> bool:
            return len(await addresses()) == 1

        # it may have dialled twice, and the router notices later which has ended
        await until(is_one)
        (address,) = await addresses()
        assert address.startswith("dialled-in-")  # by number
        assert cluster.nodes[0].status()["data_addresses"] == []
        seen = await digits_stream(
            cluster.http_url,
            built_models.parent / "cases" / "digits.npz",
            count=100,
            concurrency=8,
        )
        assert (seen.answered, seen.failures, seen.wrong) == (100, [], [])


@pytest.mark.smoke
async def test_revoked_node_is_shut_out_at_once_and_stays_out(
    make_cluster: Callable[[int], LocalCluster], built_models: Path
) -> None:
    async with make_cluster(2) as cluster:
        await cluster.wait_routable(2)
        revoked, kept = (node.status()["peer_id"] for node in cluster.nodes)
        owner = NetworkOwner.load(cluster.folder / "network")
        revocations = owner.revoke(
            RevocationList.empty(owner.network_id), peers=[revoked], now=dt.datetime.now(dt.UTC)
        )
        async with aiohttp.ClientSession() as session:
            async with session.post(
                f"{cluster.http_url}/v1/revocations", data=revocations.encode()
            ) as reply:
                assert (reply.status, await reply.json()) == (
                    200,
                    {"version": 1, "is_kept": True},
                )
            async with session.post(
                f"{cluster.http_url}/v1/revocations", data=revocations.encode()[:-1]
            ) as reply:
                assert reply.status == 400
        assert [node["peer_id"] for node in await nodes_of(cluster)] == [kept]
        seen = await digits_stream(
            cluster.http_url,
            built_models.parent / "cases" / "digits.npz",
            count=200,
            concurrency=8,
        )
        assert (seen.answered, seen.failures, seen.wrong) == (200, [], [])
        assert set(seen.nodes) == {kept}
        # the honest node hears of it by gossip and keeps it; the revoked one cannot rejoin
        await until((cluster.nodes[1].data_folder / "revocations.bin").exists)
        cluster.nodes[0].signal(15)
        await cluster.nodes[0].wait()
        assert [node["peer_id"] for node in await nodes_of(cluster)] == [kept]
