"""Which routers a node behind NAT dials."""

from __future__ import annotations

from capamesh.node.agent.known_routers import MAX_ADDRESSES, MAX_ROUTERS, KnownRouters
from capamesh.node.contract.messages import Routers
from capamesh.protocol.adverts import RouterAdvert, Sequence
from capamesh.protocol.ids import PeerId


def router(peer: str, *addresses: str) -> RouterAdvert:
    return RouterAdvert(PeerId(peer), Sequence(1, 1), addresses, "eu", "0.1")


def test_router_not_heard_of_for_ten_minutes_is_dialled_no_more() -> None:
    routers = KnownRouters()
    routers.heard(router("R", "r:1"), 0.0)
    routers.heard(router("S", "s:1"), 500.0)
    assert not routers.heard(router("S", "s:1"), 600.0)
    assert routers.heard(router("S", "s:1"), 600.1)
    assert routers.message() == Routers({PeerId("S"): ("s:1",)})


def test_first_routers_are_dialled_at_a_few_addresses_and_endless_ones_are_not() -> None:
    routers = KnownRouters()
    many = tuple(f"r:{port}" for port in range(1, 65))
    for number in range(MAX_ROUTERS):
        assert routers.heard(router(f"R{number}", *many), 0.0)
    assert not routers.heard(router("one too many", "s:1"), 1.0)
    assert len(routers) == MAX_ROUTERS
    assert routers.message().routers[PeerId("R0")] == many[:MAX_ADDRESSES]
    assert routers.heard(router("one too many", "s:1"), 601.0)  # the others have fallen silent
    assert routers.heard(router("one too many", "s:1"), 602.0) is True
    assert routers.message() == Routers({PeerId("one too many"): ("s:1",)})
