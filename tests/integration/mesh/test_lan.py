"""Members on one network find each other without being told an address."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from capamesh.protocol.network import Role

if TYPE_CHECKING:
    from conftest import MemberOf, Network

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_node_finds_a_router_by_multicast_and_is_heard(
    outsiders: Network, member: MemberOf, multicast_address: str
) -> None:
    listen = (f"/ip4/{multicast_address}/tcp/0",)
    router_membership, node_membership = outsiders.join(Role.ROUTER), outsiders.join(Role.NODE)
    async with (
        member(router_membership, network=outsiders, listen=listen, use_mdns=True) as router,
        member(node_membership, network=outsiders, use_mdns=True) as node,
    ):
        await node.until(lambda: outsiders.adverts in node.reachable, "found")
        envelope = node.say({"found": True})
        await router.until(partial(router.has_heard, envelope))
