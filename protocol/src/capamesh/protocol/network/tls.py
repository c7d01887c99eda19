"""The TLS settings of a link between two members: 1.3, both sides proven by the network alone. Reads files."""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity, private_key_pem
from capamesh.protocol.network.folder import (
    CHAIN_FILE,
    IDENTITY_FILE,
    certificates_pem,
    load_certificates,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from capamesh.protocol.network.membership import Membership

ALPN = "capamesh/1"
"""Names the link protocol; it changes when frames can no longer be told apart."""


def tls_context(membership: Membership, folder: Path, *, server_side: bool) -> ssl.SSLContext:
    """Return the context for accepting (`server_side`) or dialling links as this member.

    OpenSSL then refuses every peer whose chain does not lead to this network's owner or is expired by
    the system's clock. It knows neither roles nor revocations: after the handshake, verify the peer's
    chain with `NetworkTrust` and compare its leaf with `getpeercert(binary_form=True)`.

    OpenSSL takes key and chain from files, so `folder` is where the membership is saved; it is saved
    there first when the folder has neither file.

    Raises:
        KeyExposed: other users have rights on the key file.
        ConfigError: the folder holds another membership, or a file is damaged.
    """
    if not (folder / IDENTITY_FILE).exists() and not (folder / CHAIN_FILE).exists():
        membership.save(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a member is its key, wherever it is reached
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    if server_side:
        context.num_tickets = 0  # a resumed session would skip the check of an expired certificate
    key_path, chain_path = folder / IDENTITY_FILE, folder / CHAIN_FILE
    there = Identity.load(key_path)
    if (
        there != membership.identity
        or load_certificates(chain_path, "the membership's chain", 2) != membership.chain
    ):
        raise ConfigError(
            f"{folder} holds another membership than this one of {membership.identity.peer_id}: load "
            "it again after a change"
        )
    _load(context, membership, chain_path, key_path)
    return context


def show_membership(context: ssl.SSLContext, membership: Membership) -> None:
    """Let `context` show this membership from now on; links that are open keep theirs.

    It goes by a file in memory, for a worker may not read its member's folder any more. Raises `ConfigError` when
    that cannot be made.
    """
    pem = private_key_pem(membership.identity.private_key) + certificates_pem(*membership.chain)
    try:
        with _in_memory(pem) as path:
            _load(context, membership, path, path)
    except OSError as exc:  # an ssl.SSLError too
        raise ConfigError(f"the renewed membership cannot be used for links: {exc}") from exc


def _load(context: ssl.SSLContext, membership: Membership, chain: Path, key: Path) -> None:
    context.load_verify_locations(cadata=membership.ca_der)
    # An empty password keeps OpenSSL from ever asking a person for one.
    context.load_cert_chain(chain, key, password="")


@contextmanager
def _in_memory(data: bytes) -> Generator[Path]:
    """Yield a path to `data` that nobody else can open; where there are no files in memory, of a private one."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("capamesh", os.MFD_CLOEXEC), "wb") as file:
            file.write(data)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield Path(file.name)
