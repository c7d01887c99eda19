"""A publisher's signature of a model: says that a name and version are a digest. Pure.

A publisher is an Ed25519 key, named by its peer id. What is signed is msgpack of a list: the text "capamesh model 1", the
model's name, its version, its digest. The signature travels as 96 bytes, the public key and the signature, and lies in a
file beside the model, "capamesh.sig" in the model's folder or "NAME.capamesh.sig" beside a bare file, one line a version:

    VERSION DIGEST PUBLISHER SIGNATURE          the signature in base64, lines that begin with "#" are for people
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    peer_id_of,
    public_bytes_of,
    verify_signature,
)
from capamesh.protocol.msgpack_codec import pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capamesh.protocol.identity import Identity
    from capamesh.protocol.ids import PeerId

SIGNATURE_FILE = "capamesh.sig"
SIGNED_BYTES = KEY_BYTES + SIGNATURE_BYTES
MAX_OTHERS = 3
"""The most signatures besides one that are advertised of a version, while publishers' keys are changed (guess)."""
MAX_FILE_BYTES = 256 * 1024
"""The largest file of signatures (guess: a thousand versions at some 240 bytes each)."""
_WHAT = "capamesh model 1"
"""Keeps the signature from meaning anything else that a key may sign; the number is the statement's version."""


class SignedVersion(NamedTuple):
    """One line of a signature file."""

    version: str
    digest: str
    signed: bytes
    """Key and signature, as in an advert."""

    @property
    def publisher(self) -> PeerId:
        """The publisher that has signed it, as it says."""
        return publisher_of(self.signed)


def sign(publisher: Identity, model: str, version: str, digest: str) -> bytes:
    """Return the publisher's key and its signature of what the model's version is."""
    return publisher.public_bytes + publisher.sign(_statement(model, version, digest))


def publisher_of(signed: bytes) -> PeerId:
    """Return who is said to have signed; `signed` has `SIGNED_BYTES` bytes, else `ConfigError`."""
    return peer_id_of(signed[:KEY_BYTES])


def is_signed(signed: bytes, model: str, version: str, digest: str) -> bool:
    """Return whether the key in `signed` has signed that the model's version is the digest; junk of any kind has not."""
    if len(signed) != SIGNED_BYTES:
        return False
    statement = _statement(model, version, digest)
    return verify_signature(publisher_of(signed), statement, signed[KEY_BYTES:])


def signatures_to_text(signatures: Iterable[SignedVersion]) -> str:
    """Return the content of a signature file."""
    lines = [
        f"{each.version} {each.digest} {each.publisher} "
        f"{base64.b64encode(each.signed[KEY_BYTES:]).decode()}"
        for each in sorted(signatures, key=lambda each: (int(each.version), each.publisher))
    ]
    head = "# Who has signed which version of this model: made by `capamesh model sign`."
    return "\n".join([head, *lines]) + "\n"


def signatures_from_text(text: str) -> list[SignedVersion]:
    """Return the lines of a signature file, not verified; raise `ConfigError` where one is none."""
    found: list[SignedVersion] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            version, digest, publisher, signature = line.split()
            raw = base64.b64decode(signature, validate=True)
            int(version)
            signed = public_bytes_of(publisher) + raw
        except (ValueError, binascii.Error, ConfigError) as exc:
            raise ConfigError(
                f"line {number} is no signature of a version: sign the model again"
            ) from exc
        if len(signed) != SIGNED_BYTES:
            raise ConfigError(f"line {number} has a signature of {len(raw)} bytes: sign it again")
        found.append(SignedVersion(version, digest, signed))
    return found


def _statement(model: str, version: str, digest: str) -> bytes:
    return pack([_WHAT, model, version, digest])
