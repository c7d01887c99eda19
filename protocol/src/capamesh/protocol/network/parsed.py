"""Reads one untrusted certificate, all of it or nothing, and checks what it is made for. Pure.

Every refusal is a `NotMember` whose message starts with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtensionOID

from capamesh.protocol.errors import NotMember

if TYPE_CHECKING:
    from datetime import datetime

MAX_CERTIFICATE_BYTES = 8 * 1024
"""The largest certificate (guess: this network's have about 500 bytes)."""

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
class ParsedCertificate:
    """A certificate all of whose parts can be read. `what` calls it in refusals."""

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


def refuse(reason: str, detail: str) -> NoReturn:
    """Raise `NotMember` with a reason, which a program may read, and what it is about, for people."""
    raise NotMember(f"{reason}: {detail}")


def sized(der: object, what: str) -> bytes:
    """Return `der`; raise `NotMember` unless it is bytes, and no more of them than a certificate has."""
    if not isinstance(der, bytes):
        refuse("malformed", f"{what} is {type(der).__name__}, not bytes")
    if len(der) > MAX_CERTIFICATE_BYTES:
        refuse("malformed", f"{what} has {len(der)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    return der


def parse(der: object, what: str) -> ParsedCertificate:
    """Read everything that is ever looked at, so that nothing later meets an unreadable part."""
    der = sized(der, what)
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
        refuse("malformed", f"{what} has a key of kind {type(key).__name__}, not Ed25519")
    if certificate.version is not x509.Version.v3 or not list(issuer):
        refuse("malformed", f"{what} is no X.509 certificate of version 3 with an issuer")
    if not der.endswith(body + _ED25519_SIGNATURE + signature):
        # The parser reads past a wrong count of unused bits: one certificate would have several spellings.
        refuse("malformed", f"{what} is not signed as Ed25519 does")
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            refuse("malformed", f"{what} has the critical extension {extension.oid.dotted_string}")
    return ParsedCertificate(what, certificate, key, subject, extensions, not_before, not_after)


def check_authority(parsed: ParsedCertificate, *, path_length: int) -> None:
    """Raise `NotMember` unless a certificate may sign others, of which chains as long as `path_length` are made."""
    constraints = parsed.extension(x509.BasicConstraints)
    if constraints is None or not constraints.ca or constraints.path_length != path_length:
        refuse("malformed", f"{parsed.what} is no authority of path length {path_length}")
    usage = parsed.extension(x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        refuse("malformed", f"{parsed.what} is not made to sign certificates")


def check_signed(parsed: ParsedCertificate, issuer: x509.Certificate) -> None:
    """Raise `NotMember` unless the key of `issuer` signed a certificate."""
    try:
        parsed.certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise NotMember(f"bad signature: {parsed.what} is not signed by who it should be") from exc


def subject_text(parsed: ParsedCertificate) -> str:
    """Return a certificate's subject for people, cut where it is long."""
    return repr(parsed.certificate.subject.rfc4514_string()[:128])
