"""The owner's signed list of peers and invites that are members no more. Pure but for `save` and `load`.

The bytes are an Ed25519 signature (64 bytes), then a msgpack map. The signature is checked before anything
is parsed, so junk from a stranger costs one hash. A network whose owner's key was changed has in front of these
`_SUCCESSION`, the number of successors (1 byte), and each successor's certificate behind its length (2 bytes, big-endian):
the newest one's key signs. So the list is also how members learn of a successor, and that the keys before `oldest_key`
admit nobody any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from cryptography.exceptions import InvalidSignature

from capamesh.protocol import private_files
from capamesh.protocol.errors import ConfigError, NotMember, ProtocolViolation
from capamesh.protocol.identity import SIGNATURE_BYTES, peer_id_of, public_bytes_of
from capamesh.protocol.ids import NetworkId, PeerId
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.network.authority import Authority, own_authority
from capamesh.protocol.network.certificates import serial_text
from capamesh.protocol.network.succession import read_statement, signer_of, succession

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_LIST_BYTES = 1024 * 1024
"""The largest list (guess: room for 30,000 peers; beyond that revoke their invites)."""

REVOCATIONS_FILE = "revocations.bin"

_DOMAIN = b"capamesh-revocations-1\0"
"""Keeps a signature on a list from being one on anything else that the owner's key signs."""

_SUCCESSION = b"capamesh-revocations-2\0"
"""No signature begins like that, but one in 2 to the 184."""

_FORMAT = 1
_SERIAL_BYTES = 20
"""RFC 5280, section 4.1.2.2: the longest serial number."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The list of members that are shut out. A list replaces the one before it; `version` 0 is the empty, unsigned beginning.

    `invites` are serials of 40 hexadecimal digits, `issued_at` is UTC in whole seconds.
    """

    network_id: NetworkId
    version: int
    issued_at: datetime
    peers: frozenset[PeerId]
    invites: frozenset[str]
    signature: bytes
    successors: tuple[bytes, ...] = ()
    """Certificates (DER) by which the key that signed this owns the network; none: it is the first owner's."""
    oldest_key: int = 0
    """The first of the owner's keys whose invites still admit; 0 is the network's first."""

    @classmethod
    def empty(cls, network_id: NetworkId) -> RevocationList:
        """Return the list of a network that never revoked anything."""
        return cls(network_id, 0, datetime.fromtimestamp(0, UTC), frozenset(), frozenset(), b"")

    @classmethod
    def sign(
        cls,
        key: Ed25519PrivateKey,
        network_id: NetworkId,
        *,
        version: int,
        issued_at: datetime,
        peers: frozenset[PeerId],
        invites: frozenset[str],
        successors: tuple[bytes, ...] = (),
        oldest_key: int = 0,
    ) -> RevocationList:
        """Return the list signed with the owner's newest `key`, which the last of `successors` is of.

        Raises `ConfigError` for a peer id or serial that is none, and for a list over `MAX_LIST_BYTES`.
        """
        payload = _payload(network_id, version, issued_at, peers, invites, oldest_key)
        size = len(succession(_SUCCESSION, successors)) + SIGNATURE_BYTES + len(payload)
        if size > MAX_LIST_BYTES:
            raise ConfigError(
                f"the revocation list would have {size} bytes, at most "
                f"{MAX_LIST_BYTES}: revoke the invites that admitted the peers instead of each peer"
            )
        signature = key.sign(_DOMAIN + payload)
        return cls(
            network_id, version, issued_at, peers, invites, signature, successors, oldest_key
        )

    def encode(self) -> bytes:
        """Return the list as bytes; the same list always gives the same ones."""
        return succession(_SUCCESSION, self.successors) + self.signature + self._payload()

    @classmethod
    def decode(cls, raw: bytes, ca_der: bytes) -> RevocationList:
        """Return the list that `raw` is.

        Raises:
            ProtocolViolation: it is too large, not signed by the owner of the network, or malformed.
            ConfigError: `ca_der` is no network's certificate.
        """
        return read_statement(
            raw,
            own_authority(ca_der),
            cls._from_payload,
            prefix=_SUCCESSION,
            domain=_DOMAIN,
            most_bytes=MAX_LIST_BYTES,
            what="revocation list",
        )

    def verify(self, authority: Authority) -> Authority:
        """Return the authority with the successors that the list tells of.

        Raises `ConfigError` unless the list is of this network and its owner signed it, or it is the empty one.
        """
        if self.network_id != authority.network_id:
            raise ConfigError(
                f"the revocation list is of {self.network_id}, not of {authority.network_id}"
            )
        if self == RevocationList.empty(self.network_id):
            return authority
        try:
            key = signer_of(authority, self.successors)
            key.verify(self.signature, _DOMAIN + self._payload())
            return authority.extended(self.successors)
        except NotMember as exc:
            raise ConfigError(
                f"the revocation list, version {self.version}: {exc.message}"
            ) from exc
        except InvalidSignature as exc:
            raise ConfigError(
                f"the revocation list, version {self.version}, is not signed by the owner of "
                f"{authority.network_id}"
            ) from exc

    def is_newer_than(self, other: RevocationList) -> bool:
        """Return whether this list replaces `other`.

        One of a newer owner's key always does. Two lists of one version (an owner's key used in two places) are
        ordered too, so that all members settle on the same one.
        """
        return self._order() > other._order()

    def _order(self) -> tuple[int, int, datetime, bytes]:
        return (len(self.successors), self.version, self.issued_at, self.signature)

    def save(self, folder: Path) -> None:
        """Write the list to `folder`; raise `ConfigError` when that fails. The empty list leaves no file."""
        if self.version > 0:
            private_files.replace_public(folder / REVOCATIONS_FILE, self.encode())

    @classmethod
    def load(cls, folder: Path, ca_der: bytes) -> RevocationList:
        """Return the list in `folder`, the empty one without a file; `ConfigError` when it is damaged."""
        path = folder / REVOCATIONS_FILE
        if not path.exists():
            return cls.empty(own_authority(ca_der).network_id)
        raw = private_files.read_public(path, "the revocation list", limit_bytes=MAX_LIST_BYTES)
        try:
            return cls.decode(raw, ca_der)
        except ProtocolViolation as exc:
            raise ConfigError(f"{path}: {exc.message}; restore it from a copy") from exc

    def _payload(self) -> bytes:
        return _payload(
            self.network_id,
            self.version,
            self.issued_at,
            self.peers,
            self.invites,
            self.oldest_key,
        )

    @classmethod
    def _from_payload(
        cls, signature: bytes, payload: bytes, successors: tuple[bytes, ...]
    ) -> RevocationList:
        fields = cast(
            "dict[str, Any]", unpack(payload, max_array_items=MAX_LIST_BYTES // _SERIAL_BYTES)
        )
        if fields["v"] != _FORMAT:
            raise ValueError(
                f"its format is {fields['v']!r}, this version reads {_FORMAT}: upgrade"
            )
        version = fields["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"its version is {version!r}, not a number from 1")
        oldest_key = fields.get("oldest", 0)
        if type(oldest_key) is not int or not 0 <= oldest_key <= len(successors):
            raise ValueError(f"its oldest key is {oldest_key!r}, not one of {1 + len(successors)}")
        # Another shape of the other fields fails here or does not encode to the same bytes again.
        return cls(
            network_id=NetworkId(fields["net"]),
            version=version,
            issued_at=datetime.fromtimestamp(fields["at"], UTC),
            peers=frozenset(peer_id_of(key) for key in fields["peers"]),
            invites=frozenset(
                serial_text(int.from_bytes(serial, "big")) for serial in fields["invites"]
            ),
            signature=signature,
            successors=successors,
            oldest_key=oldest_key,
        )


def _is_serial(text: str) -> bool:
    return len(text) == 2 * _SERIAL_BYTES and all(digit in "0123456789abcdef" for digit in text)


def _payload(
    network_id: NetworkId,
    version: int,
    issued_at: datetime,
    peers: frozenset[PeerId],
    invites: frozenset[str],
    oldest_key: int,
) -> bytes:
    for serial in invites:
        if not _is_serial(serial):
            raise ConfigError(f"{serial[:64]!r} is no invite's serial: one has 40 digits 0-9 a-f")
    fields = {
        "v": _FORMAT,
        "net": network_id,
        "version": version,
        "at": int(issued_at.timestamp()),
        "peers": sorted(public_bytes_of(peer) for peer in peers),
        "invites": sorted(bytes.fromhex(serial) for serial in invites),
        **({"oldest": oldest_key} if oldest_key else {}),
    }
    return pack(fields)
