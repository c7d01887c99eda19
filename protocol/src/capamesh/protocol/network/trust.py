"""Decides whether a certificate chain belongs to a member of the network, now. No IO; the time is an argument."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.network.authority import own_authority
from capamesh.protocol.network.certificates import CLOCK_SKEW
from capamesh.protocol.network.chain import Admission, admit, chain_parts
from capamesh.protocol.network.drain_order import DrainOrder
from capamesh.protocol.network.revocation import RevocationList

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from capamesh.protocol.ids import NetworkId, PeerId
    from capamesh.protocol.network.authority import Authority
    from capamesh.protocol.network.certificates import Role
    from capamesh.protocol.network.chain import Member

MAX_REMEMBERED = 32_768
"""The most chains that are remembered: above the 20,000 peers that a fleet view holds, so that a full fleet's adverts still
hit; about 1 KB each."""

MAX_OLD_DRAINS = 1024
"""The most drain orders that are known to be old without reading them again, 100 bytes each (guess: more than an owner signs in a
month)."""


class NetworkTrust:
    """The verdict on chains: authority, revocation list and drain order of one network, and the chains seen lately.

    Remembers what a chain proves (two signatures, a third of a millisecond), never that it is valid now:
    time, revocation and role are checked on every call. Not to be shared by threads.
    """

    def __init__(self, ca_der: bytes, revocations: RevocationList | None = None) -> None:
        """Trust the authority `ca_der`; `ConfigError` when it, or the list for it, is not usable."""
        self._authority = own_authority(ca_der)
        self._ca_der = ca_der
        self._revocations = RevocationList.empty(self._authority.network_id)
        self._encoded_revocations: bytes | None = None
        self._drains = DrainOrder.empty(self._authority.network_id)
        self._encoded_drains = b""
        self._old_drains: OrderedDict[bytes, None] = OrderedDict()
        self._admissions: OrderedDict[bytes, Admission] = OrderedDict()
        if revocations is not None:
            self.update(revocations)

    @override
    def __repr__(self) -> str:
        return (
            f"NetworkTrust({self.network_id}, revocations version {self._revocations.version}, "
            f"{len(self._admissions)} chains remembered)"
        )

    @property
    def network_id(self) -> NetworkId:
        """The network whose members are trusted."""
        return self._authority.network_id

    @property
    def revocations(self) -> RevocationList:
        """The newest list so far."""
        return self._revocations

    @property
    def encoded_revocations(self) -> bytes:
        """The newest list so far as bytes, which are made once: it has up to a mebibyte, and many may ask."""
        if self._encoded_revocations is None:
            self._encoded_revocations = self._revocations.encode()
        return self._encoded_revocations

    @property
    def authority(self) -> Authority:
        """The owner's keys, as far as they are known here."""
        return self._authority

    @property
    def drains(self) -> DrainOrder:
        """The newest drain order so far."""
        return self._drains

    @property
    def encoded_drains(self) -> bytes:
        """The newest drain order so far as bytes, which are made once, empty where there never was one."""
        return self._encoded_drains

    @property
    def drains_mark(self) -> bytes:
        """The signature of the newest drain order, by which others see whether theirs is another one; empty: there is none that counts."""
        return b"" if self._is_retired(self._drains) else self._drains.signature

    def newer_drains(self, encoded: bytes) -> DrainOrder | None:
        """Return a drain order that replaces the newest so far, None for an older one, or the same again.

        The orders that were read and replace nothing are known by their bytes: a large one takes 14 ms to read, and whoever has seen
        one can send it again. Raises `ProtocolViolation` when it is not this network's owner's, or, the first time, by a retired key.
        """
        fingerprint = hashlib.sha256(encoded).digest()
        if fingerprint in self._old_drains:
            self._old_drains.move_to_end(fingerprint)
            return None
        order = DrainOrder.decode(encoded, self._authority)
        if not self._is_retired(order) and order.is_newer_than(self._drains):
            return order
        self._old_drains[fingerprint] = None
        if len(self._old_drains) > MAX_OLD_DRAINS:
            self._old_drains.popitem(last=False)
        if self._is_retired(order):
            raise ProtocolViolation(
                f"retired owner key: the drain order, version {order.version}, is by the owner's key "
                f"{len(order.successors) + 1}; those before {self._revocations.oldest_key + 1} count no more"
            )
        return None

    def adopt_drains(self, order: DrainOrder) -> None:
        """Take over an order that `newer_drains` has returned."""
        self._drains = order
        self._encoded_drains = order.encode()

    def take_drains(self, encoded: bytes) -> bool:
        """Take a drain order over when it is newer, and say whether it was. Raises as `newer_drains` does."""
        order = self.newer_drains(encoded)
        if order is not None:
            self.adopt_drains(order)
        return order is not None

    def drained_until(self, peer: PeerId, now: datetime) -> datetime | None:
        """Return until when the owner has drained a node, None where routers may send to it."""
        return None if self._is_retired(self._drains) else self._drains.until(peer, now)

    def _is_retired(self, order: DrainOrder) -> bool:
        return len(order.successors) < self._revocations.oldest_key

    def with_revocations(self, revocations: RevocationList) -> NetworkTrust:
        """Return trust in the same network under exactly this list; `ConfigError` as for `update`."""
        return NetworkTrust(self._ca_der, revocations)

    def update(self, revocations: RevocationList) -> bool:
        """Take the list over when it is newer, and say whether it was.

        A list that names successors of the owner's key is how members learn of them: a drain order by others is dropped. Raises `ConfigError` for a list
        of another network, without its owner's signature, or by successors of an older key than the newest known.
        """
        authority = revocations.verify(self._authority)
        if not revocations.is_newer_than(self._revocations):
            return False
        self._authority = authority
        self._revocations = revocations
        self._encoded_revocations = None
        self._old_drains.clear()  # which orders are old is another question under other keys
        if not authority.is_in_line_with(self._drains.successors):
            self._drains, self._encoded_drains = DrainOrder.empty(self.network_id), b""
        return True

    def verify(self, chain: Sequence[bytes], now: datetime, *, role: Role | None = None) -> Member:
        """Return the member whose chain this is: leaf, invite, and the successors that lead to its signer, in DER.

        It proves membership, not presence: the peer must also prove that it has the leaf's key, by TLS
        with that very leaf or by a signature. `role`, when given, is the only one accepted.

        Raises `NotMember`, and nothing else whatever the chain holds; its message starts with the reason:
        malformed, wrong network, wrong owner key, bad signature, peer id does not match key, wrong role,
        expired, not yet valid, retired owner key, revoked peer, revoked invite.
        """
        admission = self._admission(*chain_parts(chain))
        member = admission.member
        who = f"{member.role} {member.peer_id}"
        if not self._authority.is_in_line_with(admission.successors):  # known since it was seen
            raise NotMember(
                f"wrong owner key: {who} came by another successor than ours of an owner's key"
            )
        if len(admission.successors) < self._revocations.oldest_key:
            raise NotMember(
                f"retired owner key: {who} came by an invite of the owner's key {len(admission.successors) + 1}, and "
                f"those before {self._revocations.oldest_key + 1} admit nobody any more, by list version "
                f"{self._revocations.version}: the network's owner gives new tokens"
            )
        if now > member.expires_at:
            raise NotMember(
                f"expired: {who} was a member until {member.expires_at:%Y-%m-%dT%H:%M:%SZ}; it is "
                f"{now:%Y-%m-%dT%H:%M:%S%z}: the network's owner gives new tokens"
            )
        if now + CLOCK_SKEW < admission.not_before:
            raise NotMember(
                f"not yet valid: {who} is a member from {admission.not_before:%Y-%m-%dT%H:%M:%SZ}; it is "
                f"{now:%Y-%m-%dT%H:%M:%S%z}: check the clocks, {CLOCK_SKEW} of difference are allowed"
            )
        if member.peer_id in self._revocations.peers:
            raise NotMember(f"revoked peer: {who}, by list version {self._revocations.version}")
        if member.invite_serial in self._revocations.invites:
            raise NotMember(
                f"revoked invite: {who} came with {member.invite_serial}, "
                f"revoked by list version {self._revocations.version}"
            )
        if role is not None and member.role is not role:
            raise NotMember(f"wrong role: {member.peer_id} is a {member.role}, a {role} is needed")
        return member

    def _admission(
        self, leaf: bytes, invite: bytes, successors: tuple[bytes, ...] = ()
    ) -> Admission:
        # The lengths keep another split of the same bytes from being the same chain.
        sizes = b"".join(len(one).to_bytes(4, "big") for one in (leaf, invite, *successors))
        fingerprint = hashlib.sha256(b"".join((sizes, leaf, invite, *successors))).digest()
        admission = self._admissions.get(fingerprint)
        if admission is None:
            admission = admit(self._authority, leaf, invite, successors)
            self._admissions[fingerprint] = admission
            if len(self._admissions) > MAX_REMEMBERED:
                self._admissions.popitem(last=False)
        else:
            self._admissions.move_to_end(fingerprint)
        return admission
