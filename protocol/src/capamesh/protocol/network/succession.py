"""The owner's keys in front of a statement that the newest of them signs: what members learn of a successor by. Pure.

A statement of a network whose owner's key was changed begins with a prefix of its own, the number of successors (1 byte),
and each successor's certificate behind its length (2 bytes, big-endian). That of the first owner's key has none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature

from capamesh.protocol.errors import ConfigError, NotMember, ProtocolViolation
from capamesh.protocol.identity import SIGNATURE_BYTES
from capamesh.protocol.network.authority import MAX_SUCCESSORS, Authority

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from capamesh.protocol.ids import NetworkId


class Statement(Protocol):
    """A value that the owner of a network has signed."""

    @property
    def network_id(self) -> NetworkId:
        """Return the network that it is about."""
        ...

    def encode(self) -> bytes:
        """Return it as bytes; the same one always gives the same bytes."""
        ...


_Statement = TypeVar("_Statement", bound=Statement)


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


def read_statement(
    raw: bytes,
    authority: Authority,
    parse: Callable[[bytes, bytes, tuple[bytes, ...]], _Statement],
    *,
    prefix: bytes,
    domain: bytes,
    most_bytes: int,
    what: str,
) -> _Statement:
    """Return what `parse` makes of a statement's signature, payload and successors, once the signature is found right.

    `prefix` is what successors stand behind, `domain` what is signed before the payload, `what` names it for people. Raises
    `ProtocolViolation`: it is too large, not signed by the owner of `authority`, malformed, or of another network.
    """
    if len(raw) > most_bytes:
        raise ProtocolViolation(f"oversize: a {what} of {len(raw)} bytes, at most {most_bytes}")
    the = f"the {what}"
    successors, rest = read_succession(prefix, raw, the)
    signature, payload = rest[:SIGNATURE_BYTES], rest[SIGNATURE_BYTES:]
    try:
        signer_of(authority, successors).verify(signature, domain + payload)
    except InvalidSignature as exc:
        raise ProtocolViolation(
            f"bad signature: {the} of {len(raw)} bytes is not signed by the owner of {authority.network_id}"
        ) from exc
    except NotMember as exc:
        raise ProtocolViolation(f"bad signature: {the}: {exc.message}") from exc
    try:
        statement = parse(signature, payload, successors)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, ConfigError) as exc:
        raise ProtocolViolation(f"malformed: {the} cannot be read: {exc}") from exc
    if statement.network_id != authority.network_id or statement.encode() != raw:
        raise ProtocolViolation(f"malformed: {the} is not in its one true form")
    return statement
