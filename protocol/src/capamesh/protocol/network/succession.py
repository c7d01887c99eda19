"""The owner's keys in front of a statement that the newest of them signs: what members learn of a successor by. Pure.

A statement of a network whose owner's key was changed begins with a prefix of its own, the number of successors (1 byte),
and each successor's certificate behind its length (2 bytes, big-endian). That of the first owner's key has none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.network.authority import MAX_SUCCESSORS, Authority

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def signer_of(authority: Authority, successors: tuple[bytes, ...]) -> Ed25519PublicKey:
    """Return the key that owns the network by `successors`; raise `NotMember` when they lead to none.

    A statement of an earlier key is read too: an honest member may not have heard of the newest yet.
    """
    return authority.extended(successors).keys[len(successors)]


def succession(prefix: bytes, successors: tuple[bytes, ...]) -> bytes:
    """Return what stands in front of a statement that the last of `successors` signs; nothing where there are none."""
    if not successors:
        return b""
    parts = [prefix, bytes([len(successors)])]
    for der in successors:
        parts += (len(der).to_bytes(2, "big"), der)
    return b"".join(parts)


def read_succession(prefix: bytes, raw: bytes, what: str) -> tuple[tuple[bytes, ...], bytes]:
    """Return the successors in front of a statement, and the rest; raise `ProtocolViolation` when they are cut short."""
    if not raw.startswith(prefix):
        return (), raw
    at = len(prefix) + 1
    found: list[bytes] = []
    for _ in range(raw[at - 1] if len(raw) >= at else 0):
        size = int.from_bytes(raw[at : at + 2], "big")
        found.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    if not found or at > len(raw) or len(found) > MAX_SUCCESSORS:
        raise ProtocolViolation(
            f"bad signature: {what} of {len(raw)} bytes is cut short in its {len(found)} owner's keys"
        )
    return tuple(found), raw[at:]
