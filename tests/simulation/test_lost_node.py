"""A node is killed: its routers say so by its name within 30 s, on each of their pages, and that it is back once it is."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from capamesh.simulation.world.http_client import Answer, ask
from capamesh.simulation.world.world import HTTP_PORT, Host, World

pytestmark = pytest.mark.pure
SEEN_S = 30.0
"""The longest time until a lost node is told of."""


async def get(router: Host, path: str) -> Answer:
    answer = await ask(router.address, HTTP_PORT, "GET", path)
    assert answer.status == 200, (path, answer)
    return answer


def lost_by_metrics(text: str) -> list[str]:
    return re.findall(r'capamesh_fleet_lost_timestamp_seconds\{name="([^"]*)"', text)


async def until_usable(router: Host, count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            answer = await ask(router.address, HTTP_PORT, "GET", "/v1/nodes")
            nodes: list[dict[str, Any]] = answer.json()["nodes"] if answer.status == 200 else []
            usable = [node for node in nodes if any(link["is_usable"] for link in node["links"])]
            if len(usable) == count:
                return
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("workers", [0, 2])
def test_lost_node_is_told_of_by_name_until_it_is_back(workers: int) -> None:
    world = World(1, routers=2, nodes=2, workers=workers)
    killed, name = world.nodes[0], world.nodes[0].address

    async def story() -> None:
        for host in (*world.routers, *world.nodes):
            world.start(host)
        for router in world.routers:
            await until_usable(router, 2)
        await asyncio.sleep(12)  # routers have heard of each other
        world.kill(killed)
        await asyncio.sleep(SEEN_S)
        for router in world.routers:
            page = (await get(router, "/v1/nodes")).json()
            assert len(page["nodes"]) == 1
            (lost,) = page["lost"]
            assert lost["name"] == name
            assert [model["nodes_before"] for model in lost["models"]] == [2] * len(lost["models"])
            assert lost["models"]
            shown = (await get(router, "/v1/page/snapshot")).json()
            row = shown["nodes"][lost["peer_id"]]
            assert (row["name"], row["state"]) == (name, "lost")
            assert {
                (one["nodes_ready"], one["nodes_before"]) for one in shown["router"]["models_short"]
            } == {(1, 2)}
            metrics = (await get(router, "/metrics")).body.decode()
            assert lost_by_metrics(metrics) == [name]
            missing = re.findall(r"capamesh_model_nodes_missing\{.*\} (.*)", metrics)
            assert missing == ["1.0"] * len(lost["models"])
            routers = (await get(router, "/v1/routers")).json()["routers"]
            assert {one["name"] for one in routers} == {"router-0", "router-1"}
            assert [one["is_this"] for one in routers] == [True, False]
            refused = await ask(router.address, HTTP_PORT, "DELETE", f"/v1/nodes/{name}")
            assert refused.status == 401
        assert sum("node_lost" in line and name in line for line in world.lines) >= len(
            world.routers
        )
        world.start(killed)
        await until_usable(world.routers[0], 2)
        await asyncio.sleep(15)
        for router in world.routers:
            assert (await get(router, "/v1/nodes")).json()["lost"] == []
            assert lost_by_metrics((await get(router, "/metrics")).body.decode()) == []
        assert any("node_returned" in line and name in line for line in world.lines)

    world.play(story())
