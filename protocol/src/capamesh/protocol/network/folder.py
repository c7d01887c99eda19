"""Names the files of an owner's and a member's folder, and reads the certificates in them. Does file IO.

owner       owner.key (0600), network.pem, revocations.bin once something was revoked or the key was changed
membership  identity.key (0600), chain.pem (leaf, invite), network.pem, revocations.bin once heard of

Where the owner's key was changed, network.pem has each successor's certificate behind the first one, and chain.pem those
that lead to the invite's signer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from capamesh.protocol import private_files
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.network.authority import MAX_SUCCESSORS

if TYPE_CHECKING:
    from pathlib import Path

OWNER_KEY_FILE = "owner.key"
IDENTITY_FILE = "identity.key"
CHAIN_FILE = "chain.pem"
NETWORK_FILE = "network.pem"


def save_certificates(path: Path, *certificates: bytes) -> None:
    """Write DER certificates to `path` as PEM, in the order given; raise `ConfigError` when that fails."""
    private_files.replace_public(path, certificates_pem(*certificates))


def certificates_pem(*certificates: bytes) -> bytes:
    """Return DER certificates as PEM, in the order given."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
    )


def load_network(folder: Path) -> bytes:
    """Return the network's certificates in `folder`, joined; raise `ConfigError` as `load_certificates` does."""
    return b"".join(load_certificates(folder / NETWORK_FILE, "the network's certificate", 1))


def load_certificates(path: Path, what: str, count: int) -> tuple[bytes, ...]:
    """Return the certificates of the PEM file `path` as DER, in its order; `what` names it in messages.

    Raises `ConfigError` when it is missing, unreadable or does not hold `count`, successors of the owner's key apart.
    """
    pem = private_files.read_public(path, what)
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{what} {path} is damaged: it holds no PEM certificates") from exc
    if not count <= len(certificates) <= count + MAX_SUCCESSORS:
        raise ConfigError(
            f"{what} {path} is damaged: it has {len(certificates)} certificates, not {count}"
        )
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
