"""A network's membership: owner, invites, join tokens, chains, revocation, and TLS on top of them."""

from __future__ import annotations

from capamesh.protocol.network.certificates import CLOCK_SKEW, DEFAULT_MEMBERS, MAX_MEMBERS, Role
from capamesh.protocol.network.chain import MAX_CHAIN, Member
from capamesh.protocol.network.drain_order import DRAINS_FILE, MAX_ORDER_BYTES, DrainOrder
from capamesh.protocol.network.folder import (
    CHAIN_FILE,
    IDENTITY_FILE,
    NETWORK_FILE,
    OWNER_KEY_FILE,
)
from capamesh.protocol.network.membership import Membership
from capamesh.protocol.network.owner import NetworkOwner
from capamesh.protocol.network.parsed import MAX_CERTIFICATE_BYTES
from capamesh.protocol.network.revocation import MAX_LIST_BYTES, REVOCATIONS_FILE, RevocationList
from capamesh.protocol.network.tls import ALPN, tls_context
from capamesh.protocol.network.token import JoinToken
from capamesh.protocol.network.trust import NetworkTrust

__all__ = [
    "ALPN",
    "CHAIN_FILE",
    "CLOCK_SKEW",
    "DEFAULT_MEMBERS",
    "DRAINS_FILE",
    "IDENTITY_FILE",
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN",
    "MAX_LIST_BYTES",
    "MAX_MEMBERS",
    "MAX_ORDER_BYTES",
    "NETWORK_FILE",
    "OWNER_KEY_FILE",
    "REVOCATIONS_FILE",
    "DrainOrder",
    "JoinToken",
    "Member",
    "Membership",
    "NetworkOwner",
    "NetworkTrust",
    "RevocationList",
    "Role",
    "tls_context",
]
