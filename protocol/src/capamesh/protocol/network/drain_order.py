"""The owner's signed list of nodes that routers send no new requests to, each until a time of its own. Pure.

The bytes are as those of a revocation list: an Ed25519 signature (64 bytes), then a msgpack map, with the owner's later keys
in front where there are any (`succession`). The signature is checked before anything is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import peer_id_of, public_bytes_of
from capamesh.protocol.ids import NetworkId, PeerId
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.network.certificates import CLOCK_SKEW
from capamesh.protocol.network.succession import read_statement, succession

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from capamesh.protocol.network.authority import Authority

MAX_ORDER_BYTES: Final = 64 * 1024
"""The largest order: `MAX_DRAINED` nodes take 41 KiB, and eight successors of the owner's key 4 KiB."""

MAX_DRAINED: Final = 1024
"""The most nodes of an order (guess: a data centre that is worked on); whole fleets are not drained by name."""

MAX_DRAIN: Final = timedelta(days=30)
"""The longest time of a drain (guess: a repair); a node that is gone for longer is stopped, or revoked."""

DRAINS_FILE: Final = "drains.bin"

_DOMAIN: Final = b"capamesh-drain-1\0"
"""Keeps a signature on an order from being one on anything else that the owner's key signs."""

_SUCCESSION: Final = b"capamesh-drain-2\0"
"""No signature begins like that, but one in 2 to the 136."""

_FORMAT: Final = 1
_VERSIONS: Final = 2**63
"""Versions are below this number, so that they fit everywhere."""


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """All nodes that are drained, and until when. An order replaces the one before it; `version` 0 is the empty, unsigned beginning.

    The times are UTC in whole seconds.
    """

    network_id: NetworkId
    version: int
    issued_at: datetime
    peers: Mapping[PeerId, datetime]
    signature: bytes
    successors: tuple[bytes, ...] = ()
    """Certificates (DER) by which the key that signed this owns the network; none: it is the first owner's."""

    @classmethod
    def empty(cls, network_id: NetworkId) -> DrainOrder:
        """Return the order of a network that never drained a node."""
        return cls(network_id, 0, datetime.fromtimestamp(0, UTC), {}, b"")

    @classmethod
    def sign(
        cls,
        key: Ed25519PrivateKey,
        network_id: NetworkId,
        *,
        version: int,
        issued_at: datetime,
        peers: Mapping[PeerId, datetime],
        successors: tuple[bytes, ...] = (),
    ) -> DrainOrder:
        """Return the order signed with the owner's newest `key`, which the last of `successors` is of.

        Raises `ConfigError` for an order beyond the bounds of one.
        """
        try:
            _check(version, issued_at, peers)
        except ValueError as exc:
            raise ConfigError(f"there can be no such drain order: {exc}") from exc
        signature = key.sign(_DOMAIN + _payload(network_id, version, issued_at, peers))
        return cls(network_id, version, issued_at, dict(peers), signature, successors)

    def encode(self) -> bytes:
        """Return the order as bytes; the same order always gives the same ones."""
        payload = _payload(self.network_id, self.version, self.issued_at, self.peers)
        return succession(_SUCCESSION, self.successors) + self.signature + payload

    @classmethod
    def decode(cls, raw: bytes, authority: Authority) -> DrainOrder:
        """Return the order that `raw` is; raise `ProtocolViolation` unless it is the network's owner's, whole and within bounds."""
        return read_statement(
            raw,
            authority,
            cls._from_payload,
            prefix=_SUCCESSION,
            domain=_DOMAIN,
            most_bytes=MAX_ORDER_BYTES,
            what="drain order",
        )

    @property
    def rank(self) -> tuple[int, int]:
        """The owner's key that signed this, by its number, and the version: two orders of one rank were signed beside each other."""
        return (len(self.successors), self.version)

    def is_newer_than(self, other: DrainOrder) -> bool:
        """Return whether this order replaces `other`: by a newer owner's key, or by its version.

        Two of one version (an owner's key used in two places) are ordered too, so that all members settle on the same one.
        """
        return self._order() > other._order()

    def until(self, peer: PeerId, now: datetime) -> datetime | None:
        """Return until when `peer` is drained, None where it is not.

        An order that is not yet issued, but for the difference that clocks may have, drains nobody: else one that was
        signed by a wrong clock would hold for longer than a drain may.
        """
        until = self.peers.get(peer)
        if until is None or now > until or now + CLOCK_SKEW < self.issued_at:
            return None
        return until

    def _order(self) -> tuple[int, int, datetime, bytes]:
        return (*self.rank, self.issued_at, self.signature)

    @classmethod
    def _from_payload(
        cls, signature: bytes, payload: bytes, successors: tuple[bytes, ...]
    ) -> DrainOrder:
        fields = cast("dict[str, Any]", unpack(payload, max_array_items=MAX_DRAINED))
        if fields["v"] != _FORMAT:
            raise ValueError(
                f"its format is {fields['v']!r}, this version reads {_FORMAT}: upgrade"
            )
        # Another shape of the fields fails here or does not encode to the same bytes again.
        peers = {peer_id_of(key): datetime.fromtimestamp(end, UTC) for key, end in fields["peers"]}
        issued_at = datetime.fromtimestamp(fields["at"], UTC)
        _check(fields["version"], issued_at, peers)
        return cls(
            NetworkId(fields["net"]), fields["version"], issued_at, peers, signature, successors
        )


def _check(version: object, issued_at: datetime, peers: Mapping[PeerId, datetime]) -> None:
    """Raise `ValueError` for what no order may say."""
    if type(version) is not int or not 1 <= version < _VERSIONS:
        raise ValueError(f"its version is {version!r}, not a number from 1 to 2**63 - 1")
    if len(peers) > MAX_DRAINED:
        raise ValueError(f"it drains {len(peers)} nodes, at most {MAX_DRAINED}")
    for peer, until in peers.items():
        if not issued_at < until <= issued_at + MAX_DRAIN:
            raise ValueError(
                f"it drains {peer} until {until:%Y-%m-%dT%H:%M:%SZ}: a drain ends within {MAX_DRAIN.days} days"
            )


def _payload(
    network_id: NetworkId, version: int, issued_at: datetime, peers: Mapping[PeerId, datetime]
) -> bytes:
    return pack(
        {
            "v": _FORMAT,
            "net": network_id,
            "version": version,
            "at": int(issued_at.timestamp()),
            "peers": sorted(
                [public_bytes_of(peer), int(until.timestamp())] for peer, until in peers.items()
            ),
        }
    )
