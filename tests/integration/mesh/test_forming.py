"""Members find each other and hear each other; everybody else stays outside."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_router_hears_what_a_node_publishes_exactly_once(fleet: Fleet) -> None:
    for node in fleet.nodes:
        envelope = node.say({"from": node.peer})
        for router in fleet.routers:
            await router.until(partial(router.has_heard, envelope))
    await fleet.hears()
    for router in fleet.routers:
        assert len(router.heard) == len({data for _, data, _ in router.heard})
        assert {(fleet.network.adverts, node.peer) for node in fleet.nodes} <= {
            (topic, sender) for topic, _, sender in router.heard
        }
    assert all(node.heard == [] for node in fleet.nodes)


async def test_members_know_each_others_roles(fleet: Fleet) -> None:
    first = fleet.routers[0].client
    assert first.members[fleet.nodes[0].peer] == "node"
    assert first.members[fleet.routers[1].peer] == "router"


async def test_every_member_hears_a_routers_demand(fleet: Fleet) -> None:
    envelope = fleet.routers[2].say({"wanted": "model"}, fleet.network.demand)
    for member in (*fleet.routers[:2], *fleet.nodes):
        await member.until(partial(member.has_heard, envelope))
    for node in fleet.nodes:
        node.heard.clear()
    for router in fleet.routers:
        router.heard.clear()
