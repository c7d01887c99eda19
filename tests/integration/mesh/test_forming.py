"""Members find each other and hear each other; everybody else stays outside."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from capamesh.protocol.network import Role

if TYPE_CHECKING:
    from conftest import Fleet, MemberOf, Network

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


async def test_router_is_found_by_its_name(fleet: Fleet, member: MemberOf) -> None:
    router = fleet.routers[2]
    address = router.client.addrs[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
    async with member(bootstrap=[address]) as node:
        await node.until(lambda: router.peer in node.client.members)


@pytest.fixture
def multicast_address() -> str:
    """This machine's address on a network whose multicast comes back to it; skips where there is none."""
    group = "224.0.0.251"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        try:
            sender.connect((group, 9))
            address = sender.getsockname()[0]
            receiver.bind(("", 0))
            membership = socket.inet_aton(group) + socket.inet_aton(address)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            receiver.settimeout(2)
            sender.connect((group, receiver.getsockname()[1]))
            sender.send(b"hello")
            receiver.recv(10)
        except OSError as exc:
            pytest.skip(f"this machine's network has no multicast: {exc}")
    return address


async def test_node_finds_a_router_by_multicast_and_is_heard(
    outsiders: Network, member: MemberOf, multicast_address: str
) -> None:
    listen = (f"/ip4/{multicast_address}/tcp/0",)
    router_membership = outsiders.join(Role.ROUTER)
    async with (
        member(router_membership, network=outsiders, listen=listen, use_mdns=True) as router,
        member(network=outsiders, use_mdns=True) as node,
    ):
        await node.until(lambda: outsiders.adverts in node.reachable, "found")
        envelope = node.say({"found": True})
        await router.until(partial(router.has_heard, envelope))
