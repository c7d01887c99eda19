"""Checks untrusted certificates against a network's authority: who made them, for whom, as what. Pure.

Nothing here looks at a clock: a chain that passed once passes always, which is what lets `NetworkTrust`
remember it. Every refusal is a `NotMember` whose message starts with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import KEY_BYTES, peer_id_of
from capamesh.protocol.network.authority import MAX_SUCCESSORS, Authority
from capamesh.protocol.network.certificates import (
    CLOCK_SKEW,
    DEFAULT_MEMBERS,
    LEAF_USES,
    MAX_PUBLISHERS,
    MEMBERS_OID,
    PUBLISHERS_OID,
    Role,
    member_uri,
    members_in,
    serial_text,
)
from capamesh.protocol.network.parsed import (
    ParsedCertificate,
    check_authority,
    check_signed,
    parse,
    refuse,
    sized,
    subject_text,
)

if TYPE_CHECKING:
    from datetime import datetime

    from capamesh.protocol.ids import NetworkId, PeerId

MAX_CHAIN = 2 + MAX_SUCCESSORS
"""Certificates of a chain: leaf, invite, and the successors by which the invite's signer owns the network."""

_ROLES = " and ".join(role.value for role in Role)


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite that the authority signed; valid between two times (UTC)."""

    network_id: NetworkId
    role: Role
    serial: str
    certificate: x509.Certificate
    key: Ed25519PublicKey
    not_before: datetime
    not_after: datetime
    members: int
    """The number of members that it admits."""
    signer: int
    """The owner's key that signed it, by its number; 0 is the first."""
    publishers: tuple[PeerId, ...] = ()
    """The publishers whose signatures of models its members are to accept."""


@dataclass(frozen=True, slots=True)
class Member:
    """The member that a verified chain belongs to. `invite_serial` is 40 hexadecimal digits.

    Its life is from `starts_at`, when its invite was made, to `expires_at`; both are UTC.
    """

    peer_id: PeerId
    role: Role
    invite_serial: str
    starts_at: datetime
    expires_at: datetime
    invite_members: int = DEFAULT_MEMBERS
    """The number of members that its invite admits."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The proof of a chain, whatever the time: the member, and the time (UTC) from which it is one."""

    member: Member
    not_before: datetime
    successors: tuple[bytes, ...]
    """The certificates (DER) by which the key that signed the invite owns the network; none: it is the first owner's."""


def read_invite(authority: Authority, der: object) -> Invite:
    """Return the invite that `der` is; raise `NotMember` unless this authority signed it."""
    parsed = parse(der, "the invite")
    check_authority(parsed, path_length=0)
    match parsed.subject:
        case (
            (NameOID.ORGANIZATION_NAME, str() as network_id),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, str() as role_text),
            (NameOID.COMMON_NAME, str() as serial),
        ):
            pass
        case _:
            refuse("malformed", f"{parsed.what} has the subject {subject_text(parsed)}")
    if network_id != authority.network_id:
        refuse(
            "wrong network",
            f"{parsed.what} is of {network_id[:64]!r}, not of {authority.network_id}",
        )
    signer = _signer_of(parsed, authority)
    if serial != serial_text(parsed.certificate.serial_number):
        refuse("malformed", f"{parsed.what} calls itself {serial!r}, against its serial number")
    try:
        role = Role(role_text)
    except ValueError:
        refuse(
            "wrong role", f"{parsed.what} admits as {role_text[:64]!r}; this version knows {_ROLES}"
        )
    return Invite(
        network_id=authority.network_id,
        role=role,
        serial=serial,
        certificate=parsed.certificate,
        key=parsed.key,
        not_before=parsed.not_before,
        not_after=parsed.not_after,
        members=_members_of(parsed),
        publishers=_publishers(parsed),
        signer=signer,
    )


def _publishers(parsed: ParsedCertificate) -> tuple[PeerId, ...]:
    keys = b""
    for extension in parsed.extensions:
        value = extension.value
        if extension.oid == PUBLISHERS_OID and isinstance(value, x509.UnrecognizedExtension):
            keys = value.value
    if len(keys) % KEY_BYTES or len(keys) > MAX_PUBLISHERS * KEY_BYTES:
        refuse("malformed", f"{parsed.what} names its publishers in {len(keys)} bytes")
    return tuple(peer_id_of(keys[at : at + KEY_BYTES]) for at in range(0, len(keys), KEY_BYTES))


def chain_parts(chain: object) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return leaf, invite and successors; raise `NotMember` unless `chain` is a tuple or list of sane sizes of bytes."""
    if not isinstance(chain, (tuple, list)):
        refuse("malformed", f"a chain is a list of certificates, not {type(chain).__name__}")
    parts = cast("tuple[object, ...] | list[object]", chain)
    if not 2 <= len(parts) <= MAX_CHAIN:
        refuse(
            "malformed",
            f"a chain has the leaf, the invite and at most {MAX_SUCCESSORS} successors of the owner's key, not "
            f"{len(parts)} certificates",
        )
    leaf, invite, *successors = parts
    return (
        sized(leaf, "the leaf"),
        sized(invite, "the invite"),
        tuple(sized(one, "the successor of the owner's key") for one in successors),
    )


def admit(
    authority: Authority, leaf_der: bytes, invite_der: bytes, successors: tuple[bytes, ...] = ()
) -> Admission:
    """Return what the chain proves, times and revocations aside; raise `NotMember` when it proves nothing."""
    if successors:
        authority = authority.extended(successors)
    invite = read_invite(authority, invite_der)
    leaf = parse(leaf_der, "the leaf")
    constraints = leaf.extension(x509.BasicConstraints)
    usage = leaf.extension(x509.KeyUsage)
    if constraints is None or constraints.ca or usage is None or usage.key_cert_sign:
        refuse("malformed", f"{leaf.what} is made to sign certificates, or does not exclude it")
    uses = leaf.extension(x509.ExtendedKeyUsage)
    if not usage.digital_signature or uses is None or not set(uses) >= LEAF_USES:
        refuse("malformed", f"{leaf.what} is not made for links: it lacks server or client use")
    check_signed(leaf, invite.certificate)
    peer_id = peer_id_of(leaf.key.public_bytes_raw())
    _check_names(leaf, invite.network_id, peer_id)
    return Admission(
        Member(
            peer_id=peer_id,
            role=invite.role,
            invite_serial=invite.serial,
            starts_at=invite.not_before + CLOCK_SKEW,
            expires_at=min(leaf.not_after, invite.not_after, authority.not_after),
            invite_members=invite.members,
        ),
        not_before=max(leaf.not_before, invite.not_before, authority.not_before),
        successors=authority.successors[: invite.signer],
    )


def leaf_peer_id(leaf_der: bytes) -> PeerId:
    """Return whose key a chain's leaf is on, whatever else it proves; raise `NotMember` when it cannot be read."""
    return peer_id_of(parse(leaf_der, "the leaf").key.public_bytes_raw())


def _members_of(invite: ParsedCertificate) -> int:
    for extension in invite.extensions:
        if extension.oid == MEMBERS_OID and isinstance(extension.value, x509.UnrecognizedExtension):
            members = members_in(extension.value)
            if members is None:
                refuse("malformed", f"{invite.what} tells no sane number of members")
            return members
    return DEFAULT_MEMBERS


def _signer_of(invite: ParsedCertificate, authority: Authority) -> int:
    """Return which of the owner's keys signed the invite, the newest first; raise `NotMember` when none did."""
    for number in range(len(authority.certificates) - 1, 0, -1):
        try:
            check_signed(invite, authority.certificates[number])
        except NotMember:
            continue
        return number
    check_signed(invite, authority.certificates[0])
    return 0


def _check_names(leaf: ParsedCertificate, network_id: NetworkId, peer_id: PeerId) -> None:
    names = leaf.extension(x509.SubjectAlternativeName)
    match list(names) if names is not None else []:
        case [x509.UniformResourceIdentifier(value=uri)]:
            pass
        case _:
            refuse("malformed", f"{leaf.what} does not name its peer by exactly one URI")
    if not uri.startswith(member_uri(network_id, cast("PeerId", ""))):
        refuse("wrong network", f"{leaf.what} is for {uri[:128]!r}, not for {network_id}")
    if uri != member_uri(network_id, peer_id):
        refuse(
            "peer id does not match key", f"{leaf.what} is for {uri[:128]!r}, its key is {peer_id}"
        )
    if leaf.subject != ((NameOID.COMMON_NAME, peer_id),):
        refuse("malformed", f"{leaf.what} has the subject {subject_text(leaf)}, not CN={peer_id}")
