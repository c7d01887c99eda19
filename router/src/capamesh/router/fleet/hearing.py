"""Turns the adverts that a router hears into changes of its fleet: who is believed, who has a place. Pure: times come in.

`Hearing` owns the members of the fleet, the quotas of their invites and the clock of the network. It is given three clocks:
the time of day, a steady one, and the mesh's, which stands still while nothing can be heard.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    KIND_GOODBYE,
    KIND_ROUTER,
    AdvertReader,
    Envelope,
    RejectReason,
    open_envelope,
    router_from_body,
)
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.fleet import Change, FleetMembership, Left
from capamesh.protocol.invite_quotas import InviteQuotas, advert_bytes
from capamesh.protocol.network_clock import (
    NetworkClock,
    Skew,
    check_boot_by,
    check_time_by,
    is_order_void,
)
from capamesh.router.fleet.routers_heard import RoutersHeard

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import NetworkTrust
    from capamesh.router.fleet.node_addresses import AddressRule


@dataclass(frozen=True, slots=True)
class Now:
    """One moment, by each of the clocks."""

    wall_ms: int
    """The time of day, in milliseconds since the epoch."""
    steady_s: float
    """Goes on at any setting of the clock."""
    mesh_s: float
    """Stands still while nothing can be heard."""


class Hearing:
    """The members of the fleet, by their adverts and goodbyes."""

    def __init__(self, trust: NetworkTrust, address_rule: AddressRule, now: Now) -> None:
        self._trust = trust
        self._address_rule = address_rule
        self._reader = AdvertReader()
        self.members = FleetMembership()
        self.quotas = InviteQuotas()
        self.routers = RoutersHeard()
        self.clock = NetworkClock(now.wall_ms, now.steady_s)

    @override
    def __repr__(self) -> str:
        return f"Hearing({self.members!r}, {self.quotas!r}, {self.clock!r})"

    def heard(self, raw: bytes, now: Now) -> tuple[PeerId, list[Change]]:
        """Return who sent an envelope and what it changed; raise `AdvertRejected` for what is not believed or has no place."""
        membership_ms = self.clock.membership_ms(now.wall_ms, now.steady_s)
        envelope = open_envelope(raw, self._trust, membership_ms, is_time_checked=False)
        peer = envelope.sender.peer_id
        known = self.members.known_sequence(peer)
        if is_order_void(
            self.clock,
            known,
            envelope.issued_at_ms,
            envelope.sequence,
            now.wall_ms,
            now.steady_s,
        ):
            self.members.forget_order(peer)
            known = None
        if known is None or envelope.sequence > known:
            self.clock.heard(
                peer, envelope.sender.invite_serial, envelope.issued_at_ms, now.steady_s
            )
        if known is None:
            # it may be an old one of a node that is gone, replayed
            check_time_by(
                self.clock,
                envelope.issued_at_ms,
                envelope.sequence,
                now.wall_ms,
                now.steady_s,
            )
        else:
            check_boot_by(self.clock, known, envelope.sequence, now.wall_ms, now.steady_s)
        changes: list[Change] = []
        if envelope.kind == KIND_ADVERT:
            changes = self._heard_advert(envelope, now)
        elif envelope.kind == KIND_GOODBYE:
            changes = self.members.heard_goodbye(peer, envelope.sequence, now.mesh_s)
        elif envelope.kind == KIND_ROUTER:
            router = router_from_body(envelope.body, peer, envelope.sequence)
            self.routers.heard(router, envelope.sender, now.mesh_s)
        return peer, self._settled(changes)

    def restored(self, raw: bytes, now: Now) -> tuple[PeerId, list[Change]]:
        """Return likewise what an advert tells that this router heard before it was started anew.

        Its signature, its sender's membership and its place are checked as ever, its age is not, and it says nothing of
        the time. Raises `AdvertRejected`.
        """
        membership_ms = self.clock.membership_ms(now.wall_ms, now.steady_s)
        envelope = open_envelope(raw, self._trust, membership_ms, is_time_checked=False)
        changes: list[Change] = []
        if envelope.kind == KIND_ADVERT:
            changes = self._heard_advert(envelope, now)
        return envelope.sender.peer_id, self._settled(changes)

    def tick(
        self,
        now: Now,
        is_linked: Callable[[PeerId], bool],
        is_in_vain: Callable[[PeerId], bool] = lambda _: False,
    ) -> list[Change]:
        """Return who is newly suspected or gone. A member that answers on a link is neither, however silent its adverts.

        One that is dialled in vain is gone where another is suspected.
        """
        return self._settled(self.members.tick(now.mesh_s, is_linked, is_in_vain))

    def expel(self, peer: PeerId, now: Now) -> list[Change]:
        """Remove a revoked peer."""
        return self._settled(self.members.expel(peer, now.mesh_s))

    def membership_time(self, now: Now) -> dt.datetime:
        """Return the time of day by which memberships end, as far as it is known."""
        now_ms = self.clock.membership_ms(now.wall_ms, now.steady_s)
        return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)

    def skew(self, now: Now) -> Skew | None:
        """Return how far this machine's time of day is from that of most members; None while they have no majority."""
        return self.clock.skew(now.wall_ms, now.steady_s)

    def correction_ms(self, now: Now) -> int:
        """Return what to add to this machine's time of day so that others take what is stamped by it for new."""
        return self.clock.correction_ms(now.wall_ms, now.steady_s)

    def _heard_advert(self, envelope: Envelope, now: Now) -> list[Change]:
        member = envelope.sender
        self._require_place(
            self.quotas.refusal(member)
        )  # before it is read, which takes memory too
        advert = self._reader.read(envelope.body, member.peer_id, envelope.sequence)
        ready = sum(offer.is_ready for offer in advert.models)
        cost_bytes = advert_bytes(
            envelope.wire_bytes, ready * len(self._address_rule(advert).addresses)
        )
        refusal = self.quotas.refusal(member, cost_bytes)
        if refusal:
            if member.peer_id not in self.members:
                self._reader.forget(member.peer_id)
            self._require_place(refusal)
        changes = self.members.heard(advert, now.mesh_s)
        if member.peer_id in self.members:
            self.quotas.keep(member, cost_bytes)
        else:
            self._reader.forget(member.peer_id)
        return changes

    def _require_place(self, refusal: str) -> None:
        if refusal:
            raise AdvertRejected(RejectReason.QUOTA, refusal)

    def _settled(self, changes: list[Change]) -> list[Change]:
        for change in changes:
            if isinstance(change, Left):
                self.quotas.left(change.peer)
                self._reader.forget(change.peer)
        return changes
