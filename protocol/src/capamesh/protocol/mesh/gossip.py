"""Names of the gossip topics and the form of what is published on them. Pure.

Two topics a network, both GossipSub with strict signing (the publisher's Ed25519 key stands in its peer id):

    capamesh/<network id>/adverts   nodes publish without subscribing; routers subscribe and form the mesh
    capamesh/<network id>/demand    routers publish, nodes and routers subscribe; low rate

A payload is one kind byte and a body:

    0x45 "E"   a sealed envelope (`capamesh.protocol.adverts`), whose sender must be the publisher
    0x52 "R"   a revocation list signed by the network's owner (`capamesh.protocol.network`), from any member
    0x44 "D"   a drain order signed by the network's owner, likewise

Other kinds are ignored without blame, so that a later version can add one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capamesh.protocol.ids import NetworkId

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""The largest payload (guess: room for a revocation list of some 15,000 peers; an envelope has its own, lower limit)."""


class PayloadKind(Enum):
    """The kind of a payload, which is its first byte."""

    ENVELOPE = b"E"
    REVOCATIONS = b"R"
    DRAINS = b"D"


def adverts_topic(network_id: NetworkId) -> str:
    """Return the topic that nodes advertise on and routers listen to."""
    return f"capamesh/{network_id}/adverts"


def demand_topic(network_id: NetworkId) -> str:
    """Return the low-rate topic that routers publish on and every member listens to."""
    return f"capamesh/{network_id}/demand"


def wrap(kind: PayloadKind, body: bytes) -> bytes:
    """Return the payload that carries `body`."""
    return kind.value + body


def unwrap(payload: bytes) -> tuple[PayloadKind, bytes] | None:
    """Return the kind and the body, or None for an empty payload or an unknown kind."""
    try:
        return PayloadKind(payload[:1]), payload[1:]
    except ValueError:
        return None
