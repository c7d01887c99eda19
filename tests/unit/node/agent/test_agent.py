"""What a node's agent says of itself, and the routers that it knows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fleet_fakes import offer

from capamesh.node.agent.known_routers import MAX_ADDRESSES, MAX_ROUTERS, KnownRouters
from capamesh.node.agent.status import Routers, standing
from capamesh.node.contract import messages
from capamesh.protocol.adverts import (
    RouterAdvert,
    Sequence,
)
from capamesh.protocol.ids import PeerId
from capamesh.protocol.membership_life import Ended

UNTIL = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)
DRAINED = "by the network's owner, until 2026-03-01 20:30 UTC"
NO_MODEL = "no model is ready: there are none"
NO_LINK = "no router has a link to it (1 met in the mesh)"


@pytest.mark.parametrize(
    ("life", "ended", "models", "links", "until", "expected"),
    [
        ("serving", None, 1, 1, None, ("ready", "")),
        ("serving", None, 1, 1, UNTIL, ("draining", DRAINED)),
        ("draining", None, 1, 1, UNTIL, ("draining", "")),
        ("serving", Ended("revoked", "by list 2"), 1, 1, UNTIL, ("revoked", "by list 2")),
        ("serving", None, 0, 1, UNTIL, ("waiting", NO_MODEL)),
        ("serving", None, 1, 0, UNTIL, ("waiting", NO_LINK)),
    ],
)
def test_drained_node_says_until_when_and_one_that_cannot_serve_says_that_first(
    life: str,
    ended: Ended | None,
    models: int,
    links: int,
    until: datetime | None,
    expected: tuple[str, str],
) -> None:
    assert standing(life, ended, [offer()] * models, Routers(links, 1, ()), until) == expected


PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


@pytest.mark.parametrize(
    ("routers", "said"),
    [
        (Routers(0, 2, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}"]), "2 met in the mesh"),
        (Routers(0, 0, ()), "none met in the mesh; it has no router's address to dial"),
        (
            Routers(0, 0, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}", "/ip4/10.0.0.5/tcp/4001"]),
            "none met in the mesh; it dials /ip4/10.0.0.5/tcp/4001",
        ),
        (
            Routers(0, 0, [f"/dns/r{number}/tcp/4001/p2p/{PEER}" for number in range(5)]),
            "none met in the mesh; it dials /dns/r0/tcp/4001, /dns/r1/tcp/4001, /dns/r2/tcp/4001 and 2 more",
        ),
    ],
)
def test_node_without_a_link_says_where_it_looks_for_routers(routers: Routers, said: str) -> None:
    assert standing("serving", None, [offer()], routers, None) == (
        "waiting",
        f"no router has a link to it ({said})",
    )


def router(peer: str, *addresses: str) -> RouterAdvert:
    return RouterAdvert(PeerId(peer), Sequence(1, 1), addresses, "eu", "0.1")


def test_router_not_heard_of_for_ten_minutes_is_dialled_no_more() -> None:
    routers = KnownRouters()
    routers.heard(router("R", "r:1"), 0.0)
    routers.heard(router("S", "s:1"), 500.0)
    assert not routers.heard(router("S", "s:1"), 600.0)
    assert routers.heard(router("S", "s:1"), 600.1)
    assert routers.message() == messages.Routers({PeerId("S"): ("s:1",)})


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
    assert routers.message() == messages.Routers({PeerId("one too many"): ("s:1",)})
