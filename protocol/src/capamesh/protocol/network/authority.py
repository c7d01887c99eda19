"""A network's own certificates: the first owner's key, and the keys to which the network was handed on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from capamesh.protocol.errors import ConfigError, NotMember
from capamesh.protocol.network.certificates import network_id_of
from capamesh.protocol.network.parsed import (
    MAX_CERTIFICATE_BYTES,
    check_authority,
    check_signed,
    parse,
    refuse,
    subject_text,
)

if TYPE_CHECKING:
    from datetime import datetime

    from capamesh.protocol.ids import NetworkId

MAX_SUCCESSORS = 8
"""The most successors (guess: an owner's key that is changed every year lasts for eight; each makes every chain 500 bytes longer)."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A network's own certificates, checked: the root of all trust in it, and the successors that it leads to."""

    network_id: NetworkId
    """The id of the first owner's key, whoever owns the network now."""
    name: str
    certificates: tuple[x509.Certificate, ...]
    """The certificates of all owner's keys, first to newest."""
    keys: tuple[Ed25519PublicKey, ...]
    successors: tuple[bytes, ...]
    """The certificates after the first, DER."""
    not_before: datetime
    not_after: datetime

    @property
    def certificate(self) -> x509.Certificate:
        """The newest owner's key's certificate, which signs invites."""
        return self.certificates[-1]

    @property
    def key(self) -> Ed25519PublicKey:
        """The newest owner's key."""
        return self.keys[-1]

    def is_in_line_with(self, successors: tuple[bytes, ...]) -> bool:
        """Return whether `successors` and those known here are one line, however far each is known."""
        shorter = min(len(successors), len(self.successors))
        return successors[:shorter] == self.successors[:shorter]

    def extended(self, successors: tuple[bytes, ...]) -> Authority:
        """Return the authority with what `successors` has beyond the known ones.

        Raises `NotMember` when they are another line than the known one, too many, or not each signed by the one before.
        """
        if not self.is_in_line_with(successors):
            refuse("wrong owner key", "its network was handed on to another owner's key than ours")
        if len(successors) > MAX_SUCCESSORS:
            refuse(
                "malformed", f"{len(successors)} owner's keys in a row, at most {MAX_SUCCESSORS}"
            )
        extended = self
        for der in successors[len(self.successors) :]:
            extended = _with_successor(extended, der)
        return extended


def split_certificates(joined: bytes, *, most: int = 1 + MAX_SUCCESSORS) -> tuple[bytes, ...]:
    """Return the certificates (DER) that stand behind each other in `joined`; raise `NotMember` when they do not."""
    found: list[bytes] = []
    rest = joined
    while rest:
        # a sequence's tag, then a length of one byte, or of as many as the byte says
        extra = rest[1] - 0x80 if len(rest) > 1 and rest[1] > 0x80 else 0
        size = (
            int.from_bytes(rest[2 : 2 + extra], "big") if extra else rest[1] if len(rest) > 1 else 0
        )
        end = 2 + extra + size
        if rest[0] != 0x30 or extra > 3 or end > len(rest) or len(found) == most:
            refuse("malformed", f"{len(joined)} bytes that are not 1 to {most} certificates")
        found.append(rest[:end])
        rest = rest[end:]
    return tuple(found)


def read_authority(joined: object) -> Authority:
    """Return the authority that `joined` is: the first owner's certificate, then each successor's, in DER.

    Raises `NotMember` when it is none of a network.
    """
    if not isinstance(joined, bytes) or len(joined) > MAX_CERTIFICATE_BYTES * (1 + MAX_SUCCESSORS):
        refuse("malformed", "the network's certificate is no bytes, or too many")
    der, *successors = split_certificates(joined) or (b"",)
    return _first_authority(der).extended(tuple(successors))


def _first_authority(der: bytes) -> Authority:
    parsed = parse(der, "the network's certificate")
    check_authority(parsed, path_length=1)
    match parsed.subject:
        case ((NameOID.COMMON_NAME, str() as name),):
            pass
        case _:
            refuse("malformed", f"{parsed.what} has the subject {subject_text(parsed)}")
    check_signed(parsed, parsed.certificate)
    return Authority(
        network_id=network_id_of(parsed.key.public_bytes_raw()),
        name=name,
        certificates=(parsed.certificate,),
        keys=(parsed.key,),
        successors=(),
        not_before=parsed.not_before,
        not_after=parsed.not_after,
    )


def _with_successor(authority: Authority, der: bytes) -> Authority:
    parsed = parse(der, "the successor of the owner's key")
    check_authority(parsed, path_length=1)
    if parsed.certificate.subject != authority.certificate.subject:
        refuse("malformed", f"{parsed.what} has the subject {subject_text(parsed)}")
    check_signed(parsed, authority.certificate)
    known = [key.public_bytes_raw() for key in authority.keys]
    if parsed.key.public_bytes_raw() in known:
        refuse("malformed", f"{parsed.what} is a key that owned the network before")
    return replace(
        authority,
        certificates=(*authority.certificates, parsed.certificate),
        keys=(*authority.keys, parsed.key),
        successors=(*authority.successors, der),
        not_after=min(authority.not_after, parsed.not_after),
    )


def own_authority(ca_der: bytes) -> Authority:
    """Return the authority of this side's own network; `ConfigError` when its certificate is damaged."""
    try:
        return read_authority(ca_der)
    except NotMember as exc:
        raise ConfigError(f"the network's certificate is not usable: {exc.message}") from exc
