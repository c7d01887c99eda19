"""Checks untrusted certificates against a network's authority: who made them, for whom, as what. Pure.

Nothing here looks at a clock: a chain that passed once passes always, which is what lets `NetworkTrust`
remember it. Every refusal is a `NotMember` whose message starts with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtensionOID, NameOID

from capamesh.protocol.errors import ConfigError, NotMember
from capamesh.protocol.identity import KEY_BYTES, peer_id_of
from capamesh.protocol.network.certificates import (
    DEFAULT_MEMBERS,
    LEAF_USES,
    MAX_PUBLISHERS,
    MEMBERS_OID,
    PUBLISHERS_OID,
    Role,
    member_uri,
    members_in,
    network_id_of,
    serial_text,
)

if TYPE_CHECKING:
    from datetime import datetime

    from capamesh.protocol.ids import NetworkId, PeerId

MAX_CERTIFICATE_BYTES = 8 * 1024
"""Guess: this network's certificates have about 500 bytes."""

MAX_SUCCESSORS = 8
"""Guess: an owner's key that is changed every year lasts for eight; each makes every chain 500 bytes longer."""

MAX_CHAIN = 2 + MAX_SUCCESSORS
"""Certificates of a chain: leaf, invite, and the successors by which the invite's signer owns the network."""

_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # what the parser only tolerates is refused where Python turns warnings into errors
)
"""All that `cryptography` raises for a certificate that it cannot read."""

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""RFC 5280, section 4.2: a critical extension that is not understood refuses the certificate."""

_ED25519_SIGNATURE = bytes.fromhex("300506032b6570034100")
"""RFC 8410: the algorithm's identifier, then the head of a bit string of 64 bytes with no unused bits."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Authority:
    """A network's own certificates, checked: the root of all trust in it, and the successors that it leads to."""

    network_id: NetworkId
    """Of the first owner's key, whoever owns the network now."""
    name: str
    certificates: tuple[x509.Certificate, ...]
    """Of all owner's keys, first to newest."""
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
        """Whether `successors` and those known here are one line, however far each is known."""
        shorter = min(len(successors), len(self.successors))
        return successors[:shorter] == self.successors[:shorter]

    def extended(self, successors: tuple[bytes, ...]) -> Authority:
        """Return the authority with what `successors` has beyond the known ones.

        Raises `NotMember` when they are another line than the known one, too many, or not each signed by the one before.
        """
        if not self.is_in_line_with(successors):
            _refuse("wrong owner key", "its network was handed on to another owner's key than ours")
        if len(successors) > MAX_SUCCESSORS:
            _refuse(
                "malformed", f"{len(successors)} owner's keys in a row, at most {MAX_SUCCESSORS}"
            )
        extended = self
        for der in successors[len(self.successors) :]:
            extended = _with_successor(extended, der)
        return extended


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
    """How many members it admits."""
    signer: int
    """Which of the owner's keys signed it; 0 is the first."""
    publishers: tuple[PeerId, ...] = ()
    """Whose signatures of models its members are to accept."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who a verified chain belongs to. `invite_serial` is 40 hexadecimal digits, `expires_at` UTC."""

    peer_id: PeerId
    role: Role
    invite_serial: str
    expires_at: datetime
    invite_members: int = DEFAULT_MEMBERS
    """How many members its invite admits."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a chain proves, whatever the time: the member, and the time (UTC) from which it is one."""

    member: Member
    not_before: datetime
    successors: tuple[bytes, ...]
    """By which the key that signed the invite owns the network, DER; none: it is the first owner's."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    what: str
    certificate: x509.Certificate
    key: Ed25519PublicKey
    subject: tuple[tuple[x509.ObjectIdentifier, str | bytes], ...]
    extensions: x509.Extensions
    not_before: datetime
    not_after: datetime

    def extension(self, kind: type[_Extension]) -> _Extension | None:
        """Return the extension of this kind, None where the certificate has none."""
        for extension in self.extensions:
            if isinstance(extension.value, kind):
                return extension.value
        return None


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
            _refuse("malformed", f"{len(joined)} bytes that are not 1 to {most} certificates")
        found.append(rest[:end])
        rest = rest[end:]
    return tuple(found)


def read_authority(joined: object) -> Authority:
    """Return the authority that `joined` is: the first owner's certificate, then each successor's, in DER.

    Raises `NotMember` when it is none of a network.
    """
    if not isinstance(joined, bytes) or len(joined) > MAX_CERTIFICATE_BYTES * (1 + MAX_SUCCESSORS):
        _refuse("malformed", "the network's certificate is no bytes, or too many")
    der, *successors = split_certificates(joined) or (b"",)
    return _first_authority(der).extended(tuple(successors))


def _first_authority(der: bytes) -> Authority:
    parsed = _parse(der, "the network's certificate")
    _check_authority(parsed, path_length=1)
    match parsed.subject:
        case ((NameOID.COMMON_NAME, str() as name),):
            pass
        case _:
            _refuse("malformed", f"{parsed.what} has the subject {_subject_text(parsed)}")
    _check_signed(parsed, parsed.certificate)
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
    parsed = _parse(der, "the successor of the owner's key")
    _check_authority(parsed, path_length=1)
    if parsed.certificate.subject != authority.certificate.subject:
        _refuse("malformed", f"{parsed.what} has the subject {_subject_text(parsed)}")
    _check_signed(parsed, authority.certificate)
    known = [key.public_bytes_raw() for key in authority.keys]
    if parsed.key.public_bytes_raw() in known:
        _refuse("malformed", f"{parsed.what} is a key that owned the network before")
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


def read_invite(authority: Authority, der: object) -> Invite:
    """Return the invite that `der` is; raise `NotMember` unless this authority signed it."""
    parsed = _parse(der, "the invite")
    _check_authority(parsed, path_length=0)
    match parsed.subject:
        case (
            (NameOID.ORGANIZATION_NAME, str() as network_id),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, str() as role_text),
            (NameOID.COMMON_NAME, str() as serial),
        ):
            pass
        case _:
            _refuse("malformed", f"{parsed.what} has the subject {_subject_text(parsed)}")
    if network_id != authority.network_id:
        _refuse(
            "wrong network",
            f"{parsed.what} is of {network_id[:64]!r}, not of {authority.network_id}",
        )
    signer = _signer_of(parsed, authority)
    if serial != serial_text(parsed.certificate.serial_number):
        _refuse("malformed", f"{parsed.what} calls itself {serial!r}, against its serial number")
    try:
        role = Role(role_text)
    except ValueError:
        _refuse(
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


def _publishers(parsed: _Parsed) -> tuple[PeerId, ...]:
    keys = b""
    for extension in parsed.extensions:
        value = extension.value
        if extension.oid == PUBLISHERS_OID and isinstance(value, x509.UnrecognizedExtension):
            keys = value.value
    if len(keys) % KEY_BYTES or len(keys) > MAX_PUBLISHERS * KEY_BYTES:
        _refuse("malformed", f"{parsed.what} names its publishers in {len(keys)} bytes")
    return tuple(peer_id_of(keys[at : at + KEY_BYTES]) for at in range(0, len(keys), KEY_BYTES))


def chain_parts(chain: object) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return leaf, invite and successors; raise `NotMember` unless `chain` is a tuple or list of sane sizes of bytes."""
    if not isinstance(chain, (tuple, list)):
        _refuse("malformed", f"a chain is a list of certificates, not {type(chain).__name__}")
    parts = cast("tuple[object, ...] | list[object]", chain)
    if not 2 <= len(parts) <= MAX_CHAIN:
        _refuse(
            "malformed",
            f"a chain has the leaf, the invite and at most {MAX_SUCCESSORS} successors of the owner's key, not "
            f"{len(parts)} certificates",
        )
    leaf, invite, *successors = parts
    return (
        _sized(leaf, "the leaf"),
        _sized(invite, "the invite"),
        tuple(_sized(one, "the successor of the owner's key") for one in successors),
    )


def admit(
    authority: Authority, leaf_der: bytes, invite_der: bytes, successors: tuple[bytes, ...] = ()
) -> Admission:
    """Return what the chain proves, times and revocations aside; raise `NotMember` when it proves nothing."""
    if successors:
        authority = authority.extended(successors)
    invite = read_invite(authority, invite_der)
    leaf = _parse(leaf_der, "the leaf")
    constraints = leaf.extension(x509.BasicConstraints)
    usage = leaf.extension(x509.KeyUsage)
    if constraints is None or constraints.ca or usage is None or usage.key_cert_sign:
        _refuse("malformed", f"{leaf.what} is made to sign certificates, or does not exclude it")
    uses = leaf.extension(x509.ExtendedKeyUsage)
    if not usage.digital_signature or uses is None or not set(uses) >= LEAF_USES:
        _refuse("malformed", f"{leaf.what} is not made for links: it lacks server or client use")
    _check_signed(leaf, invite.certificate)
    peer_id = peer_id_of(leaf.key.public_bytes_raw())
    _check_names(leaf, invite.network_id, peer_id)
    return Admission(
        Member(
            peer_id=peer_id,
            role=invite.role,
            invite_serial=invite.serial,
            expires_at=min(leaf.not_after, invite.not_after, authority.not_after),
            invite_members=invite.members,
        ),
        not_before=max(leaf.not_before, invite.not_before, authority.not_before),
        successors=authority.successors[: invite.signer],
    )


def leaf_peer_id(leaf_der: bytes) -> PeerId:
    """Return whose key a chain's leaf is on, whatever else it proves; raise `NotMember` when it cannot be read."""
    return peer_id_of(_parse(leaf_der, "the leaf").key.public_bytes_raw())


_ROLES = " and ".join(role.value for role in Role)


def _refuse(reason: str, detail: str) -> NoReturn:
    raise NotMember(f"{reason}: {detail}")


def _sized(der: object, what: str) -> bytes:
    if not isinstance(der, bytes):
        _refuse("malformed", f"{what} is {type(der).__name__}, not bytes")
    if len(der) > MAX_CERTIFICATE_BYTES:
        _refuse("malformed", f"{what} has {len(der)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    return der


def _parse(der: object, what: str) -> _Parsed:
    """Read everything that is ever looked at, so that nothing later meets an unreadable part."""
    der = _sized(der, what)
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        issuer = certificate.issuer
        subject = tuple((attribute.oid, attribute.value) for attribute in certificate.subject)
        extensions = certificate.extensions
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        body, signature = certificate.tbs_certificate_bytes, certificate.signature
    except _UNREADABLE as exc:
        raise NotMember(f"malformed: {what} of {len(der)} bytes cannot be read: {exc}") from exc
    if not isinstance(key, Ed25519PublicKey):
        _refuse("malformed", f"{what} has a key of kind {type(key).__name__}, not Ed25519")
    if certificate.version is not x509.Version.v3 or not list(issuer):
        _refuse("malformed", f"{what} is no X.509 certificate of version 3 with an issuer")
    if not der.endswith(body + _ED25519_SIGNATURE + signature):
        # The parser reads past a wrong count of unused bits: one certificate would have several spellings.
        _refuse("malformed", f"{what} is not signed as Ed25519 does")
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            _refuse("malformed", f"{what} has the critical extension {extension.oid.dotted_string}")
    return _Parsed(what, certificate, key, subject, extensions, not_before, not_after)


def _check_authority(parsed: _Parsed, *, path_length: int) -> None:
    constraints = parsed.extension(x509.BasicConstraints)
    if constraints is None or not constraints.ca or constraints.path_length != path_length:
        _refuse("malformed", f"{parsed.what} is no authority of path length {path_length}")
    usage = parsed.extension(x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        _refuse("malformed", f"{parsed.what} is not made to sign certificates")


def _check_signed(parsed: _Parsed, issuer: x509.Certificate) -> None:
    try:
        parsed.certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise NotMember(f"bad signature: {parsed.what} is not signed by who it should be") from exc


def _members_of(invite: _Parsed) -> int:
    for extension in invite.extensions:
        if extension.oid == MEMBERS_OID and isinstance(extension.value, x509.UnrecognizedExtension):
            members = members_in(extension.value)
            if members is None:
                _refuse("malformed", f"{invite.what} tells no sane number of members")
            return members
    return DEFAULT_MEMBERS


def _signer_of(invite: _Parsed, authority: Authority) -> int:
    """Return which of the owner's keys signed the invite, the newest first; raise `NotMember` when none did."""
    for number in range(len(authority.certificates) - 1, 0, -1):
        try:
            _check_signed(invite, authority.certificates[number])
        except NotMember:
            continue
        return number
    _check_signed(invite, authority.certificates[0])
    return 0


def _check_names(leaf: _Parsed, network_id: NetworkId, peer_id: PeerId) -> None:
    names = leaf.extension(x509.SubjectAlternativeName)
    match list(names) if names is not None else []:
        case [x509.UniformResourceIdentifier(value=uri)]:
            pass
        case _:
            _refuse("malformed", f"{leaf.what} does not name its peer by exactly one URI")
    if not uri.startswith(member_uri(network_id, cast("PeerId", ""))):
        _refuse("wrong network", f"{leaf.what} is for {uri[:128]!r}, not for {network_id}")
    if uri != member_uri(network_id, peer_id):
        _refuse(
            "peer id does not match key", f"{leaf.what} is for {uri[:128]!r}, its key is {peer_id}"
        )
    if leaf.subject != ((NameOID.COMMON_NAME, peer_id),):
        _refuse("malformed", f"{leaf.what} has the subject {_subject_text(leaf)}, not CN={peer_id}")


def _subject_text(parsed: _Parsed) -> str:
    return repr(parsed.certificate.subject.rfc4514_string()[:128])
