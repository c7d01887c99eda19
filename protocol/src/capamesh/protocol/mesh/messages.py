"""The messages between the mesh sidecar and its owner, as values. Pure.

The channel is private and both ends are one installation, so a message that does not fit is a bug or a
mix of versions: it raises `ProtocolViolation` and the channel ends.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from typing_extensions import override

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.schema import Mismatch, read

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Start:
    """Owner to sidecar, first: everything it needs to join. Holds the private key: never logged."""

    TYPE: ClassVar[str] = "start"
    private_key: bytes
    """Raw Ed25519 private key, 32 bytes."""
    chain: list[bytes]
    """The member's certificate and the invite's, DER."""
    ca_der: bytes
    """The network owner's certificate, DER."""
    revocations: bytes
    """An encoded revocation list, or empty."""
    drains: bytes
    """An encoded drain order, or empty."""
    listen: list[str]
    """Multiaddresses to listen on; empty: dial only."""
    bootstrap: list[str]
    """Multiaddresses that end in `/p2p/<peer id>`, dialled whenever they are not connected."""
    use_mdns: bool
    """True if members on the local network are to be found."""
    subscribe: list[str]
    """Topics to listen to."""

    @override
    def __repr__(self) -> str:
        return (
            f"Start(listen={self.listen}, bootstrap={self.bootstrap}, subscribe={self.subscribe})"
        )


@dataclass(frozen=True, slots=True)
class Publish:
    """Owner to sidecar: gossip a sealed envelope."""

    TYPE: ClassVar[str] = "publish"
    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Revocations:
    """Either way: a revocation list that is newer than what the receiver may have."""

    TYPE: ClassVar[str] = "revocations"
    data: bytes


@dataclass(frozen=True, slots=True)
class Drains:
    """Either way: a drain order that is newer than what the receiver may have."""

    TYPE: ClassVar[str] = "drains"
    data: bytes


@dataclass(frozen=True, slots=True)
class Dial:
    """Owner to sidecar: keep connections to these as well, from now on."""

    TYPE: ClassVar[str] = "dial"
    addrs: list[str]


@dataclass(frozen=True, slots=True)
class Stop:
    """Owner to sidecar: leave in order."""

    TYPE: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class Ready:
    """Sidecar to owner: it listens, on these addresses, each ending in `/p2p/<peer id>`."""

    TYPE: ClassVar[str] = "ready"
    peer_id: str
    addrs: list[str]


@dataclass(frozen=True, slots=True)
class Heard:
    """Sidecar to owner: an envelope that passed every check."""

    TYPE: ClassVar[str] = "message"
    topic: str
    data: bytes
    sender: str
    """Peer id of the member that sealed and published it."""
    via: str
    """Peer id of the neighbour that forwarded it."""


@dataclass(frozen=True, slots=True)
class Members:
    """Sidecar to owner, on change: the peer ids of who is connected and proved membership, by role."""

    TYPE: ClassVar[str] = "members"
    nodes: list[str]
    routers: list[str]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Sidecar to owner: a topic got its first remote listener, so that a publication now has a reader."""

    TYPE: ClassVar[str] = "subscribed"
    topic: str
    peers: list[str]


@dataclass(frozen=True, slots=True)
class Warned:
    """Sidecar to owner: what happened `count` times since it was last told; `detail` is of the last time."""

    TYPE: ClassVar[str] = "warning"
    event: str
    detail: str
    count: int


ToSidecar: TypeAlias = Start | Publish | Revocations | Drains | Dial | Stop
ToOwner: TypeAlias = Ready | Heard | Members | Subscribed | Revocations | Drains | Warned

_TYPES: Final[dict[str, type[ToSidecar | ToOwner]]] = {
    kind.TYPE: kind
    for kind in (
        Start,
        Publish,
        Revocations,
        Drains,
        Dial,
        Stop,
        Ready,
        Heard,
        Members,
        Subscribed,
        Warned,
    )
}


def to_wire(message: ToSidecar | ToOwner) -> dict[str, Any]:
    """Return the channel message of `message`."""
    return {"type": message.TYPE} | {
        field.name: getattr(message, field.name) for field in fields(message)
    }


def from_wire(raw: Mapping[str, Any]) -> ToSidecar | ToOwner:
    """Return the value of a channel message.

    Raises:
        ProtocolViolation: an unknown type, a missing field or one of the wrong type.
    """
    name = str(raw.get("type"))
    kind = _TYPES.get(name)
    if kind is None:
        raise ProtocolViolation(
            f"unknown mesh message {name!r}; are both processes of one version?"
        )
    try:
        return read(raw, kind, is_secret=True)
    except Mismatch as exc:
        raise ProtocolViolation(f"mesh message {name!r}: {exc}") from exc
