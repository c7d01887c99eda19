"""The network's owner: its key is the authority that invites and revokes. Does file IO in `save` and `load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from capamesh.protocol import private_files
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import load_private_key, private_key_pem
from capamesh.protocol.network.authority import MAX_SUCCESSORS, own_authority, split_certificates
from capamesh.protocol.network.certificates import (
    DEFAULT_MEMBERS,
    in_seconds,
    issue_authority,
    issue_invite,
    issue_successor,
    network_id_of,
)
from capamesh.protocol.network.drain_order import DrainOrder
from capamesh.protocol.network.folder import (
    NETWORK_FILE,
    OWNER_KEY_FILE,
    load_network,
    save_certificates,
)
from capamesh.protocol.network.revocation import RevocationList
from capamesh.protocol.network.token import JoinToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from capamesh.protocol.ids import NetworkId, PeerId
    from capamesh.protocol.network.certificates import Role

NEXT_KEY_FILE = "owner.key.next"
"""The new key while it is put in the place of the old one."""


@dataclass(frozen=True, slots=True)
class NetworkOwner:
    """The owner of a network, who may admit to it: the key and the certificate (DER). The text form hides the key."""

    network_id: NetworkId
    name: str
    ca_der: bytes = field(repr=False)
    private_key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def create(cls, name: str, now: datetime, key: Ed25519PrivateKey | None = None) -> NetworkOwner:
        """Return the owner of a new network called `name`: 1 to 64 bytes of text, else `ConfigError`; without a key it gets a new one."""
        key = key or Ed25519PrivateKey.generate()
        return cls._of(key, issue_authority(key, name, now))

    @classmethod
    def load(cls, folder: Path) -> NetworkOwner:
        """Return the owner saved in `folder`.

        Raises:
            KeyExposed: other users have rights on the key file.
            ConfigError: a file is missing or damaged, or key and certificate are of different networks.
        """
        key = load_private_key(folder / OWNER_KEY_FILE, "the network owner's key")
        ca_der = load_network(folder)
        newest = own_authority(ca_der).key.public_bytes_raw()
        if newest != key.public_key().public_bytes_raw() and (folder / NEXT_KEY_FILE).exists():
            # a change of keys was cut off after the network had the new one
            key = load_private_key(folder / NEXT_KEY_FILE, "the network owner's next key")
        owner = cls._of(key, ca_der)
        if newest != key.public_key().public_bytes_raw():
            raise ConfigError(
                f"{folder / OWNER_KEY_FILE} is not the key of {folder / NETWORK_FILE}: it is of the network "
                f"{_network_of(key)}, the certificate of {owner.network_id}; restore both from the same copy"
            )
        return owner

    def save(self, folder: Path) -> None:
        """Write `owner.key` with mode 0600 and `network.pem`; nothing to do when they are there.

        Raises `ConfigError` when the folder holds another network's owner: a key is never overwritten.
        """
        path = folder / OWNER_KEY_FILE
        if not private_files.create_private(path, private_key_pem(self.private_key)):
            there = load_private_key(path, "the network owner's key")
            if there.private_bytes_raw() != self.private_key.private_bytes_raw():
                raise ConfigError(
                    f"{path} already holds another network's owner, that of {_network_of(there)}: choose "
                    f"another folder for {self.name!r}"
                )
        save_certificates(folder / NETWORK_FILE, *split_certificates(self.ca_der))

    def rotated(self, now: datetime) -> NetworkOwner:
        """Return the owner with a new key, which the present one has signed; `ConfigError` after `MAX_SUCCESSORS`.

        The network id stays. Members take the new key's invites once they hear of it, and the old ones' until those
        are retired.
        """
        authority = own_authority(self.ca_der)
        if len(authority.successors) == MAX_SUCCESSORS:
            raise ConfigError(
                f"the owner's key of {self.name!r} was changed {MAX_SUCCESSORS} times, the limit: make a new network"
            )
        key = Ed25519PrivateKey.generate()
        successor = issue_successor(self.private_key, authority.certificate, key.public_key(), now)
        return self._of(key, self.ca_der + successor)

    def save_rotated(self, folder: Path) -> Path:
        """Put this owner, made by `rotated`, in the place of the one in `folder`; return where the old key is now.

        Cut off at any point, the folder holds one owner or the other, whole: a change that was cut off is finished
        before the next one begins, which would else write over the only copy of the present key.
        """
        _finish_change(folder)
        if load_network(folder) != self.ca_der:
            private_files.replace_private(folder / NEXT_KEY_FILE, private_key_pem(self.private_key))
            save_certificates(folder / NETWORK_FILE, *split_certificates(self.ca_der))
            _finish_change(folder)
        return folder / f"{OWNER_KEY_FILE}.{len(own_authority(self.ca_der).successors)}"

    def invite(
        self,
        role: Role,
        *,
        expires_at: datetime,
        bootstrap: Sequence[str],
        now: datetime,
        members: int = DEFAULT_MEMBERS,
        publishers: Sequence[PeerId] = (),
    ) -> JoinToken:
        """Return a token that admits so many `members` in `role` until `expires_at`: the first that others hear of.

        Routers that come with it accept what the `publishers` sign.
        Raises `ConfigError` when it would expire at once, a bootstrap address is none, or for no sane number of members.
        """
        invite_key = Ed25519PrivateKey.generate()
        authority = own_authority(self.ca_der)
        invite = issue_invite(
            self.private_key,
            authority.certificate,
            invite_key.public_key(),
            role,
            network_id=self.network_id,
            now=now,
            expires_at=expires_at,
            members=members,
            publishers=publishers,
        )
        return JoinToken.assemble(bootstrap, invite_key.private_bytes_raw(), invite, self.ca_der)

    def revoke(
        self,
        current: RevocationList,
        *,
        peers: Iterable[PeerId] = (),
        invites: Iterable[str] = (),
        is_retiring: bool = False,
        now: datetime,
    ) -> RevocationList:
        """Return the list that replaces `current` and shuts out these too (invites by serial).

        With `is_retiring`, all that were admitted by an earlier key than the owner's newest are shut out as well.

        `current` must be the network's newest list: members ignore a list whose version is not higher
        than what they have. Raises `ConfigError` when `current` is not this owner's, when an id is none,
        or when the list grows too large.
        """
        authority = own_authority(self.ca_der)
        current.verify(authority)
        newest = len(authority.successors)
        return RevocationList.sign(
            self.private_key,
            self.network_id,
            version=current.version + 1,
            issued_at=in_seconds(now, "the time"),
            peers=current.peers | frozenset(peers),
            invites=current.invites | frozenset(invites),
            successors=authority.successors,
            oldest_key=newest if is_retiring else current.oldest_key,
        )

    def drain(
        self, current: DrainOrder, peers: Mapping[PeerId, datetime], *, now: datetime
    ) -> DrainOrder:
        """Return the order that replaces `current`: these `peers` are drained, each until its time, and nobody else.

        `current` must be the network's newest order: members ignore one whose version is not higher than what they have.
        Raises `ConfigError` for too many nodes, and for a time that is past or too far away.
        """
        return DrainOrder.sign(
            self.private_key,
            self.network_id,
            version=current.version + 1,
            issued_at=in_seconds(now, "the time"),
            peers={peer: in_seconds(until, "the end") for peer, until in peers.items()},
            successors=own_authority(self.ca_der).successors,
        )

    @classmethod
    def _of(cls, key: Ed25519PrivateKey, ca_der: bytes) -> NetworkOwner:
        authority = own_authority(ca_der)
        return cls(authority.network_id, authority.name, ca_der, key)


def _finish_change(folder: Path) -> None:
    """Put the next key in the place of the owner's, which is kept, where the network has it already.

    A next key that the network does not have was never in use.
    """
    key_path, next_path = folder / OWNER_KEY_FILE, folder / NEXT_KEY_FILE
    if not next_path.exists():
        return
    authority = own_authority(load_network(folder))
    newest = authority.key.public_bytes_raw()
    next_key = load_private_key(next_path, "the network owner's next key")
    if next_key.public_key().public_bytes_raw() != newest:
        return
    key = load_private_key(key_path, "the network owner's key")
    if key.public_key().public_bytes_raw() != newest:
        kept = folder / f"{OWNER_KEY_FILE}.{len(authority.successors)}"
        private_files.replace_private(
            kept, private_key_pem(key)
        )  # not a link: some disks have none
    try:
        next_path.replace(key_path)
    except OSError as exc:
        raise ConfigError(
            f"cannot put the new key in the place of {key_path}: {exc.strerror}"
        ) from exc


def _network_of(key: Ed25519PrivateKey) -> NetworkId:
    return network_id_of(key.public_key().public_bytes_raw())
