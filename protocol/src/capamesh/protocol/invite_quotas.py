"""Bounds the memory of this process that the members of one invite may take: so many members, and so much for all of them. Pure.

Whoever holds a join token makes any number of identities, all of them members. So an invite says how many it admits, and
every router keeps to the first that it hears of: those that are known keep their place until they leave. What they
advertise is weighed by what it costs to keep, and an invite's members share what they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import Member

BYTES_OF_MEMBER: Final = 1 << 20
"""The bytes for each member that an invite admits, shared by all of them. A node with five models takes 33 KB by the figures
below, one with 250 on eight devices 2.7 MB; 64 members as wicked as can be take 64 MB."""

BYTES_FOR_BYTE: Final = 8
"""The bytes kept for each byte of an advert: 2.1 in honest ones (measured: benchmarks/scale.py), 8 in an array of small numbers."""

HOST_BYTES: Final = 1100
"""The bytes kept for one model at one address (measured: benchmarks/scale.py says 5.2 KiB for five)."""

MAX_REFUSED: Final = 1024
"""The most identities of an invite without a place that are counted apart, so that their number can be told."""


def advert_bytes(wire_bytes: int, hosts: int) -> int:
    """Return what it costs to keep an advert of `wire_bytes` whose models at its addresses make `hosts`."""
    return BYTES_FOR_BYTE * wire_bytes + HOST_BYTES * hosts


@dataclass(frozen=True, slots=True)
class OverQuota:
    """An invite more of whose members came than it admits, or that take more than they may."""

    invite: str
    admits: int
    members: int
    """The number of members that have a place."""
    used_bytes: int
    refused: int
    """The number of identities that were refused, up to `MAX_REFUSED`."""


@dataclass(slots=True)
class _Invite:
    admits: int
    costs: dict[PeerId, int] = field(default_factory=dict["PeerId", int])
    used_bytes: int = 0
    refused: set[PeerId] = field(default_factory=set["PeerId"])


class InviteQuotas:
    """The members of each invite that have a place. A place is kept by `keep` until `left`."""

    def __init__(self, spare_places: int = 0) -> None:
        """Give `spare_places` of each invite beyond what it says."""
        self._spare_places = spare_places
        self._invites: dict[str, _Invite] = {}
        self._of_peer: dict[PeerId, Member] = {}

    def __len__(self) -> int:
        return len(self._of_peer)

    @override
    def __repr__(self) -> str:
        return f"InviteQuotas({len(self._of_peer)} members of {len(self._invites)} invites)"

    def invite_of(self, peer: PeerId) -> str:
        """Return the serial of the invite by which `peer` has its place, "" when it has none."""
        member = self._of_peer.get(peer)
        return "" if member is None else member.invite_serial

    def member_of(self, peer: PeerId) -> Member | None:
        """Return the membership by which `peer` has its place, None when it has none."""
        return self._of_peer.get(peer)

    def refusal(self, member: Member, cost_bytes: int = 0) -> str:
        """Return why a member has no place, for people; "" when it has one, or may have, at that cost."""
        invite = self._invites.get(member.invite_serial)
        before = 0
        if invite is not None:
            before = invite.costs.get(member.peer_id, 0)
            places = member.invite_members + self._spare_places
            if member.peer_id not in invite.costs and len(invite.costs) >= places:
                self._refuse(invite, member.peer_id)
                return f"its invite {member.invite_serial} admits {member.invite_members} members, and all have come"
        used_bytes = (invite.used_bytes if invite is not None else 0) - before
        most_bytes = BYTES_OF_MEMBER * member.invite_members
        if used_bytes + cost_bytes <= most_bytes:
            return ""
        if invite is None:
            invite = self._invites[member.invite_serial] = _Invite(member.invite_members)
        self._refuse(invite, member.peer_id)
        return (
            f"the members of its invite {member.invite_serial} would take {used_bytes + cost_bytes} bytes with it; "
            f"{most_bytes} are for them: advertise fewer models, or ask the owner for an invite of more members"
        )

    def keep(self, member: Member, cost_bytes: int) -> None:
        """A member has its place now, at this cost."""
        if self.invite_of(member.peer_id) not in {"", member.invite_serial}:
            self.left(member.peer_id)  # it has come with another invite
        invite = self._invites.get(member.invite_serial)
        if invite is None:
            invite = self._invites[member.invite_serial] = _Invite(member.invite_members)
        invite.used_bytes += cost_bytes - invite.costs.get(member.peer_id, 0)
        invite.costs[member.peer_id] = cost_bytes
        invite.refused.discard(member.peer_id)
        self._of_peer[member.peer_id] = member

    def left(self, peer: PeerId) -> None:
        """A member is gone, and its place is free."""
        member = self._of_peer.pop(peer, None)
        if member is None:
            return
        serial = member.invite_serial
        invite = self._invites[serial]
        invite.used_bytes -= invite.costs.pop(peer)
        if not invite.costs:
            del self._invites[serial]

    def over(self) -> list[OverQuota]:
        """Return the invites some of whose members were refused, worst first."""
        found = [
            OverQuota(serial, one.admits, len(one.costs), one.used_bytes, len(one.refused))
            for serial, one in self._invites.items()
            if one.refused
        ]
        return sorted(found, key=lambda one: -one.refused)

    def _refuse(self, invite: _Invite, peer: PeerId) -> None:
        if len(invite.refused) < MAX_REFUSED:
            invite.refused.add(peer)
