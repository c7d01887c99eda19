"""The membership of a member: its identity and the certificate chain that admits it. Does file IO in `save` and `load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from capamesh.protocol.errors import ConfigError, NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.network.authority import own_authority, split_certificates
from capamesh.protocol.network.certificates import CLOCK_SKEW, issue_leaf
from capamesh.protocol.network.chain import read_invite
from capamesh.protocol.network.folder import (
    CHAIN_FILE,
    IDENTITY_FILE,
    NETWORK_FILE,
    load_certificates,
    load_network,
    save_certificates,
)
from capamesh.protocol.network.token import ASK_FOR_ANOTHER
from capamesh.protocol.network.trust import NetworkTrust

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from capamesh.protocol.ids import NetworkId, PeerId
    from capamesh.protocol.network.certificates import Role
    from capamesh.protocol.network.token import JoinToken


@dataclass(frozen=True, slots=True)
class Membership:
    """An identity's place in a network; all certificates are DER.

    `chain` is leaf, invite, and the successors of the first owner's key that lead to who signed the invite; `ca_der` the
    first owner's certificate with those of all its successors behind it.
    """

    identity: Identity
    network_id: NetworkId
    role: Role
    chain: tuple[bytes, ...] = field(repr=False)
    ca_der: bytes = field(repr=False)
    expires_at: datetime

    @property
    def starts_at(self) -> datetime:
        """Return the time at which the invite was made (UTC)."""
        return x509.load_der_x509_certificate(self.chain[1]).not_valid_before_utc + CLOCK_SKEW

    @classmethod
    def join(cls, identity: Identity, token: JoinToken, now: datetime) -> Membership:
        """Return the membership that `token` gives to `identity`; the token's key is not kept.

        Raises `ConfigError` when the token is expired or not yet valid at `now`.
        """
        token.check_time(now)
        authority = own_authority(token.ca_der)
        invite = read_invite(authority, token.invite_der)
        leaf = issue_leaf(
            Ed25519PrivateKey.from_private_bytes(token.invite_key),
            invite.certificate,
            identity.private_key.public_key(),
            network_id=token.network_id,
            peer_id=identity.peer_id,
        )
        chain = (leaf, token.invite_der, *authority.successors[: invite.signer])
        return cls._checked(identity, chain, token.ca_der, now)

    @classmethod
    def load(cls, folder: Path, now: datetime) -> Membership:
        """Return the membership saved in `folder`, checked as others will check it.

        Raises:
            KeyExposed: other users have rights on the identity's key file.
            ConfigError: a file is missing or damaged, the files do not belong together, or the
                membership is expired.
        """
        identity = Identity.load(folder / IDENTITY_FILE)
        chain = load_certificates(folder / CHAIN_FILE, "the membership's chain", 2)
        try:
            return cls._checked(identity, chain, load_network(folder), now)
        except ConfigError as exc:
            raise ConfigError(f"{folder}: {exc.message}") from exc

    def with_chain(self, chain: tuple[bytes, ...], ca_der: bytes, now: datetime) -> Membership:
        """Return the same identity's membership by another chain; `ConfigError` when it is none, or not this one's."""
        return self._checked(self.identity, chain, ca_der, now)

    def save(self, folder: Path) -> None:
        """Write `identity.key` with mode 0600, `chain.pem` and `network.pem`, replacing an older chain.

        Raises `ConfigError` when the folder holds another identity, which is never overwritten.
        """
        self.identity.save(folder / IDENTITY_FILE)
        save_certificates(folder / NETWORK_FILE, *split_certificates(self.ca_der))
        save_certificates(folder / CHAIN_FILE, *self.chain)

    def publishers(self) -> tuple[PeerId, ...]:
        """Return the publishers of models that the owner named in the invite."""
        return read_invite(own_authority(self.ca_der), self.chain[1]).publishers

    def trust(self) -> NetworkTrust:
        """Return new trust in this membership's network, with nothing revoked yet."""
        return NetworkTrust(self.ca_der)

    @classmethod
    def _checked(
        cls, identity: Identity, chain: tuple[bytes, ...], ca_der: bytes, now: datetime
    ) -> Membership:
        trust = NetworkTrust(ca_der)
        try:
            member = trust.verify(chain, now)
        except NotMember as exc:
            raise ConfigError(
                f"the membership of {identity.peer_id} is not valid: {exc.message}; {ASK_FOR_ANOTHER}"
            ) from exc
        if member.peer_id != identity.peer_id:
            raise ConfigError(
                f"the membership is of {member.peer_id}, the identity key of {identity.peer_id}: "
                f"put back the key it was made with, or {ASK_FOR_ANOTHER}"
            )
        return cls(identity, trust.network_id, member.role, chain, ca_der, member.expires_at)
