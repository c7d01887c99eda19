"""The state that a node's status shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fleet_fakes import offer

from capamesh.node.agent.status import Routers, standing
from capamesh.protocol.membership_life import Ended

UNTIL = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)


def test_drained_node_says_until_when_and_one_that_cannot_serve_says_that_first() -> None:
    ready = [offer()]
    assert standing("serving", None, ready, Routers(1, 1, ()), None) == ("ready", "")
    assert standing("serving", None, ready, Routers(1, 1, ()), UNTIL) == (
        "draining",
        "by the network's owner, until 2026-03-01 20:30 UTC",
    )
    assert standing("serving", None, [], Routers(1, 1, ()), UNTIL)[0] == "waiting"
    assert standing("serving", None, ready, Routers(0, 1, ()), UNTIL)[0] == "waiting"
    assert standing("draining", None, ready, Routers(1, 1, ()), UNTIL) == (
        "draining",
        "",
    )
    ended = Ended("revoked", "by list 2")
    assert standing("serving", ended, ready, Routers(1, 1, ()), UNTIL) == (
        "revoked",
        "by list 2",
    )


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
