"""A peer's identity: an Ed25519 key, and the libp2p PeerId that holds its public half. Does file IO for keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import base58
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from capamesh.protocol import private_files
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import PeerId

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
"""RFC 8032: an Ed25519 private or public key."""

SIGNATURE_BYTES = 64
"""RFC 8032: an Ed25519 signature."""

_PREFIX = bytes.fromhex("002408011220")
"""libp2p peer-id specification: multihash "identity" of 36 bytes, then protobuf: Ed25519, 32 bytes of key."""

_PEER_ID_CHARS = 52
"""Base58 of 38 bytes that start with `_PREFIX` always has this length."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key pair. Two are equal when their keys are; the text form shows the peer id alone."""

    private_key: Ed25519PrivateKey = field(repr=False, compare=False)
    public_bytes: bytes = field(init=False, repr=False)
    peer_id: PeerId = field(init=False)

    def __post_init__(self) -> None:
        public_bytes = self.private_key.public_key().public_bytes_raw()
        object.__setattr__(self, "public_bytes", public_bytes)
        object.__setattr__(self, "peer_id", peer_id_of(public_bytes))

    @classmethod
    def generate(cls) -> Identity:
        """Return a new identity from the system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> Identity:
        """Return the identity of a raw private key of 32 bytes; raise `ConfigError` at another length."""
        if len(raw) != KEY_BYTES:
            raise ConfigError(f"a private key has {KEY_BYTES} bytes, not {len(raw)}")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Return the identity in the key file `path` (PEM, PKCS 8, not encrypted).

        Raises:
            KeyExposed: other users have rights on the file.
            ConfigError: it is missing, or does not hold an Ed25519 key.
        """
        return cls(load_private_key(path, "the identity key"))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Return the identity in `path`, made first when there is none; safe between processes.

        Raises `KeyExposed` and `ConfigError` as `load` and `save` do.
        """
        if not path.exists():
            private_files.create_private(path, private_key_pem(Ed25519PrivateKey.generate()))
        return cls.load(path)

    def save(self, path: Path) -> None:
        """Write the key to `path` with mode 0600; nothing to do when it is there.

        Raises `ConfigError` when `path` holds another identity: a key is never overwritten.
        """
        if not private_files.create_private(path, private_key_pem(self.private_key)):
            there = Identity.load(path)
            if there != self:
                raise ConfigError(
                    f"{path} already holds the identity {there.peer_id}, not {self.peer_id}: "
                    "choose another folder or move that file away"
                )

    @property
    def private_bytes(self) -> bytes:
        """The raw private key, 32 bytes: a secret."""
        return self.private_key.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of `data`, 64 bytes."""
        return self.private_key.sign(data)


def peer_id_of(public_bytes: bytes) -> PeerId:
    """Return the libp2p PeerId of a raw Ed25519 public key; raise `ConfigError` unless it has 32 bytes."""
    if len(public_bytes) != KEY_BYTES:
        raise ConfigError(f"a public key has {KEY_BYTES} bytes, not {len(public_bytes)}")
    return PeerId(base58.b58encode(_PREFIX + public_bytes).decode("ascii"))


def public_bytes_of(peer_id: str) -> bytes:
    """Return the raw Ed25519 public key, 32 bytes, that `peer_id` holds.

    Raises `ConfigError` for anything but the one true spelling of an Ed25519 PeerId.
    """
    if len(peer_id) != _PEER_ID_CHARS:
        raise ConfigError(
            f"{peer_id[:_PEER_ID_CHARS]!r} is no peer id: it has {len(peer_id)} characters, "
            f"an Ed25519 peer id has {_PEER_ID_CHARS}"
        )
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as exc:
        raise ConfigError(f"{peer_id!r} is no peer id: {exc}") from exc
    # Of so many letters, and with this beginning, only those that `peer_id_of` gives have this length.
    if len(raw) != len(_PREFIX) + KEY_BYTES or not raw.startswith(_PREFIX):
        raise ConfigError(
            f"{peer_id!r} is no peer id of an Ed25519 key; such ids start with 12D3KooW"
        )
    return raw[len(_PREFIX) :]


def verify_signature(peer_id: str, data: bytes, signature: bytes) -> bool:
    """Return whether `signature` is the peer's Ed25519 signature of `data`; junk of any kind is False."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_bytes_of(peer_id))
        key.verify(signature, data)
    except (ConfigError, InvalidSignature, ValueError):
        return False
    return True


def private_key_pem(key: Ed25519PrivateKey) -> bytes:
    """Return `key` as PEM, PKCS 8, not encrypted: a secret."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(path: Path, what: str) -> Ed25519PrivateKey:
    """Return the Ed25519 key in the PEM file `path`; `what` names it in messages.

    Raises:
        KeyExposed: other users have rights on the file.
        ConfigError: it is missing, or does not hold an Ed25519 key in plain PKCS 8.
    """
    pem = private_files.read_private(path, what)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"{what} {path} is no unencrypted PEM key: restore it from a copy"
        ) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{what} {path} is a {type(key).__name__}: an Ed25519 key is needed")
    return key
