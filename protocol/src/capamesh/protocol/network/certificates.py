"""Issues a network's certificates: the owner's authority and its successors, invites, leaves. Pure but for serials.

    authority   CN=<network name>, self-signed, CA, path length 1
    successor   CN=<network name>, signed by the owner's key before it, CA, path length 1
    invite      O=<network id>, OU=<role>, CN=<serial>, signed by the authority, CA, path length 0
                may say how many members it admits, in an extension of its own: an INTEGER
    leaf        CN=<peer id>, URI capamesh://<network id>/<peer id>, signed by the invite

The network id is made of the first owner's key, and stays when a successor takes over. A successor is what RFC 4210
(section 4.4) calls "new with old": issued by its own name, it does not count against a path length (RFC 5280, 4.2.1.9).

All keys are Ed25519. Every key usage and key identifier that RFC 5280 asks for is there, so that OpenSSL
verifies in strict mode.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import public_bytes_of
from capamesh.protocol.ids import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

MAX_NAME_BYTES = 64
"""RFC 5280, appendix A.1: ub-common-name."""

CLOCK_SKEW = timedelta(minutes=10)
"""The most that members' clocks may differ (guess). Certificates start this much early, because OpenSSL allows none."""

NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280, section 4.1.2.5: a certificate without an end; a network lives as long as its owner's key."""

MAX_PUBLISHERS = 16
"""The most publishers of an invite (guess: an organisation's release keys, with some to spare while they change)."""

PUBLISHERS_OID = x509.ObjectIdentifier("2.25.212874753844187836096650672460506710078")
"""The identifier of the extension in which an invite names the publishers of models: their public keys, one after the
other. It is that of a random UUID (ITU-T X.667). It is not critical: a reader that does not know it accepts no publisher."""

LEAF_USES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
"""Either side may dial, so that a member is server and client."""


DEFAULT_MEMBERS = 64
"""The members that an invite admits which does not say (guess: a rack, or a group of friends)."""

MAX_MEMBERS = 20_000
"""The most that an invite may say: as many as a router's view of the fleet holds."""

MEMBERS_OID = x509.ObjectIdentifier("2.25.15525095132771991964520509670452808161")
"""The identifier of the invite's extension with the number of members; a UUID of our own under ITU-T X.667's arc. Not critical:
members of an earlier version admit any number."""


class Role(StrEnum):
    """The role that an invite admits its holder in."""

    NODE = "node"
    ROUTER = "router"


def network_id_of(owner_public_bytes: bytes) -> NetworkId:
    """Return the id of the network whose owner has this raw public key."""
    return NetworkId("cm-" + hashlib.sha256(owner_public_bytes).digest()[:16].hex())


def member_uri(network_id: NetworkId, peer_id: PeerId) -> str:
    """Return the name that a leaf carries for its peer."""
    return f"capamesh://{network_id}/{peer_id}"


def serial_text(serial: int) -> str:
    """Return an invite's serial number as it is written everywhere: 40 hexadecimal digits."""
    return f"{serial:040x}"


def in_seconds(when: datetime, what: str) -> datetime:
    """Return `when` in UTC without the fraction, as certificates hold it; `ConfigError` without a time zone."""
    if when.tzinfo is None:
        raise ConfigError(f"{what} {when.isoformat()} has no time zone: give it in UTC")
    return when.astimezone(UTC).replace(microsecond=0)


def issue_authority(key: Ed25519PrivateKey, name: str, now: datetime) -> bytes:
    """Return the authority's certificate (DER), valid from `now` without an end.

    Raises `ConfigError` unless `name` is 1 to 64 bytes of printable text without outer blanks.
    """
    if (
        not name.isprintable()
        or name != name.strip()
        or not 0 < len(name.encode()) <= MAX_NAME_BYTES
    ):
        raise ConfigError(
            f"{name[:MAX_NAME_BYTES]!r} cannot name a network: "
            f"use 1 to {MAX_NAME_BYTES} bytes of printable text without blanks around it"
        )
    subject = _name((NameOID.COMMON_NAME, name))
    builder = _builder(subject, key.public_key(), subject, x509.random_serial_number())
    return _sign_authority(
        builder.not_valid_before(in_seconds(now, "the time") - CLOCK_SKEW).not_valid_after(NEVER),
        key,
        path_length=1,
    )


def issue_successor(
    owner_key: Ed25519PrivateKey,
    authority: x509.Certificate,
    successor: Ed25519PublicKey,
    now: datetime,
) -> bytes:
    """Return the certificate (DER) with which the owner's present key hands a network on to the key `successor`.

    `authority` is the present key's own certificate.
    """
    builder = _builder(authority.subject, successor, authority.subject, x509.random_serial_number())
    return _sign_authority(
        builder.not_valid_before(in_seconds(now, "the time") - CLOCK_SKEW).not_valid_after(NEVER),
        owner_key,
        path_length=1,
    )


def issue_invite(
    owner_key: Ed25519PrivateKey,
    authority: x509.Certificate,
    invite_key: Ed25519PublicKey,
    role: Role,
    *,
    network_id: NetworkId,
    now: datetime,
    expires_at: datetime,
    members: int = DEFAULT_MEMBERS,
    publishers: Sequence[PeerId] = (),
) -> bytes:
    """Return an invite's certificate (DER) that admits so many `members` and names these publishers of models.

    Raises `ConfigError` unless `now` < `expires_at` <= `NEVER` and 1 <= `members` <= `MAX_MEMBERS`, and for publishers
    that are too many or no peer ids.
    """
    if not 1 <= members <= MAX_MEMBERS:
        raise ConfigError(f"an invite for {members} members; it may say 1 to {MAX_MEMBERS}")
    if len(publishers) > MAX_PUBLISHERS:
        raise ConfigError(
            f"an invite names at most {MAX_PUBLISHERS} publishers, not {len(publishers)}"
        )
    starts_at, ends_at = in_seconds(now, "the time"), in_seconds(expires_at, "the expiry")
    if not starts_at < ends_at:
        raise ConfigError(f"an invite that expires at {ends_at} is of no use at {starts_at}")
    serial = x509.random_serial_number()
    subject = _name(
        (NameOID.ORGANIZATION_NAME, network_id),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
        (NameOID.COMMON_NAME, serial_text(serial)),
    )
    builder = _builder(subject, invite_key, authority.subject, serial)
    if members != DEFAULT_MEMBERS:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(MEMBERS_OID, _der_integer(members)), critical=False
        )
    if publishers:
        keys = b"".join(map(public_bytes_of, publishers))
        builder = builder.add_extension(
            x509.UnrecognizedExtension(PUBLISHERS_OID, keys), critical=False
        )
    return _sign_authority(
        builder.not_valid_before(starts_at - CLOCK_SKEW).not_valid_after(ends_at),
        owner_key,
        path_length=0,
    )


def issue_leaf(
    invite_key: Ed25519PrivateKey,
    invite: x509.Certificate,
    key: Ed25519PublicKey,
    *,
    network_id: NetworkId,
    peer_id: PeerId,
) -> bytes:
    """Return a member's certificate (DER), valid exactly as long as its invite.

    It starts with the invite, not at the joiner's time: a joiner whose clock is ahead can link at once.
    """
    builder = (
        _builder(
            _name((NameOID.COMMON_NAME, peer_id)),
            key,
            invite.subject,
            x509.random_serial_number(),
        )
        .not_valid_before(invite.not_valid_before_utc)
        .not_valid_after(invite.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(sorted(LEAF_USES, key=lambda oid: oid.dotted_string)),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(member_uri(network_id, peer_id))]
            ),
            critical=False,
        )
    )
    return _sign(builder, invite_key)


def members_in(extension: x509.UnrecognizedExtension) -> int | None:
    """Return the number of members that an invite's extension tells, None when it is another or out of bounds."""
    if extension.oid != MEMBERS_OID:
        return None
    members = int.from_bytes(extension.value[2:], "big", signed=True)
    is_canonical = 1 <= members <= MAX_MEMBERS and extension.value == _der_integer(members)
    return members if is_canonical else None


def _der_integer(value: int) -> bytes:
    """Return a small positive integer in DER (X.690, section 8.3)."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
    return bytes([0x02, len(content)]) + content


def _name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


def _builder(
    subject: x509.Name, key: Ed25519PublicKey, issuer: x509.Name, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .issuer_name(issuer)
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign_authority(
    builder: x509.CertificateBuilder, key: Ed25519PrivateKey, *, path_length: int
) -> bytes:
    return _sign(
        builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        ).add_extension(_key_usage(is_authority=True), critical=True),
        key,
    )


def _sign(builder: x509.CertificateBuilder, key: Ed25519PrivateKey) -> bytes:
    certificate = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    ).sign(key, algorithm=None)
    return certificate.public_bytes(Encoding.DER)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
