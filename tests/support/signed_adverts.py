"""Members of a network that sign what they say: what a router hears. No IO."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

from fleet_fakes import advert

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    KIND_GOODBYE,
    Sequence,
    advert_to_body,
    seal,
)
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import JoinToken, Membership, NetworkOwner, RevocationList, Role
from capamesh.protocol.network.authority import read_authority
from capamesh.protocol.network.chain import read_invite
from capamesh.router.fleet.clocks import Clocks

NOW = dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp()) * 1000


class FakeClocks(Clocks):
    """The clocks of a router at `NOW`; `pass_s` lets time pass, and `jumped_s` sets the time of day wrong by so much."""

    def __init__(self) -> None:
        self.passed_s = self.jumped_s = 0.0
        super().__init__(
            wall_ns=lambda: (NOW_MS + round((self.passed_s + self.jumped_s) * 1000)) * 1_000_000,
            steady_s=lambda: 100.0 + self.passed_s,
        )

    def pass_s(self, seconds: float) -> None:
        """Let time pass, in steps in which the router is seen to run."""
        end_s = self.passed_s + seconds
        while self.passed_s < end_s:
            self.passed_s = min(end_s, self.passed_s + 1.0)
            self.now()


class Network:
    """A network's owner, and what its members say."""

    def __init__(self) -> None:
        self.owner = NetworkOwner.create("test", NOW)

    def invite(self, role: Role = Role.NODE, members: int = 64) -> JoinToken:
        """Return a new invite that admits so many members."""
        expires_at = NOW + dt.timedelta(days=1)
        return self.owner.invite(
            role, expires_at=expires_at, bootstrap=(), now=NOW, members=members
        )

    def member(self, token: JoinToken | None = None, role: Role = Role.NODE) -> Membership:
        """Return a new member, whom `token` admitted, or an invite of its own."""
        return Membership.join(Identity.generate(), token or self.invite(role=role), NOW)

    def revoking(self, *, peer: PeerId | None = None, token: JoinToken | None = None) -> bytes:
        """Return the first revocation list of the network, encoded, that names a node or an invite."""
        authority = read_authority(self.owner.ca_der)
        invites = [read_invite(authority, each.invite_der).serial for each in (token,) if each]
        empty = RevocationList.empty(self.owner.network_id)
        peers = [] if peer is None else [peer]
        return self.owner.revoke(empty, peers=peers, invites=invites, now=NOW).encode()


def says(
    node: Membership, port: int = 7001, counter: int = 1, *, boot_ms: int = NOW_MS, **values: Any
) -> bytes:
    """Return the envelope of a node's advert, started at `boot_ms`; `values` are other fields than usual."""
    sequence = Sequence(boot_ms * 1_000_000, counter)
    usual = advert(node.identity.peer_id, f"127.0.0.1:{port}")
    fields = {"region": "", "price_per_million": 0.0, "name": "gpu-1", **values}
    told = replace(usual, sequence=sequence, **fields)
    return seal(KIND_ADVERT, advert_to_body(told), node, sequence, NOW_MS)


def says_goodbye(node: Membership, counter: int = 2) -> bytes:
    return seal(KIND_GOODBYE, {}, node, Sequence(NOW_MS * 1_000_000, counter), NOW_MS)
