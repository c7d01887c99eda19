"""One small network for the tests of this folder, made once: nothing in it changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from capamesh.protocol.identity import Identity
from capamesh.protocol.network import JoinToken, Membership, NetworkOwner, Role

NOW = datetime(2027, 3, 1, 12, 0, 0, tzinfo=UTC)
BOOTSTRAP = ("/dns4/router.example/tcp/7400", "/ip4/192.0.2.7/tcp/7400")


@dataclass(frozen=True)
class Network:
    now: datetime
    owner: NetworkOwner
    node_token: JoinToken
    router_token: JoinToken
    node: Membership
    router: Membership


def make_network(name: str) -> Network:
    owner = NetworkOwner.create(name, NOW)
    expires_at = NOW + timedelta(days=30)
    node_token, router_token = (
        owner.invite(role, expires_at=expires_at, bootstrap=BOOTSTRAP, now=NOW)
        for role in (Role.NODE, Role.ROUTER)
    )
    return Network(
        now=NOW,
        owner=owner,
        node_token=node_token,
        router_token=router_token,
        node=Membership.join(Identity.generate(), node_token, NOW),
        router=Membership.join(Identity.generate(), router_token, NOW),
    )


@pytest.fixture(scope="session")
def home() -> Network:
    return make_network("home")


@pytest.fixture(scope="session")
def stranger() -> Network:
    """Another network that calls itself by the same name."""
    return make_network("home")
