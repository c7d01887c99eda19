"""The certificate of a router, its key and the authority of its clients, read from files, and again once they change. IO: files.

A pair that cannot be used is refused: at the start by an error, later by keeping the one before and saying so.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import read_public

PROTOCOLS: Final = ("http/1.1", "h2")
"""The protocols that a client may choose by ALPN. HTTP/1.1 goes first: HTTP/2 has gRPC alone, whose clients offer nothing else."""
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The suites of TLS 1.2: those that RFC 9113 allows for HTTP/2, which have forward secrecy. Those of TLS 1.3 all have."""
MAX_FILE_BYTES: Final = 2**20
"""The largest file (guess: a bundle of the world's authorities has 250 KB)."""

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The paths of the files, as PEM."""

    certificate: Path
    """The certificate, and those that lead to its authority."""
    key: Path
    """The key of the certificate."""
    client_ca: Path | None = None
    """The authorities, one of which has signed each client's certificate; None: clients need none."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The things that were read."""

    context: ssl.SSLContext
    expires_s: float
    """The time at which the certificate expires, in seconds since 1970."""
    is_exposed: bool
    """Other users of the machine may read the key."""
    names: frozenset[str]
    """The names of hosts that the certificate is for, in small letters; `*.NAME` for all one level below."""


class ServerTls:
    """The TLS of a router's front, by its files as they are now."""

    def __init__(self, files: TlsFiles, wall_clock: Callable[[], float]) -> None:
        """Read the files; raise `ConfigError` when they cannot be used. `wall_clock` is in seconds since 1970."""
        self.files = files
        self._wall_clock = wall_clock
        self._stamp = _stamp_of(files)
        loaded = load(files)
        self.context = loaded.context
        """The context of the next handshake."""
        self.expires_s = loaded.expires_s
        self.is_exposed = loaded.is_exposed
        self.names = loaded.names
        self.is_refused = False
        """The files that are there now cannot be used."""

    @override
    def __repr__(self) -> str:
        return f"ServerTls({str(self.files.certificate)!r})"

    @property
    def is_expired(self) -> bool:
        """Return whether the certificate has expired, by this machine's clock."""
        return self.expires_s <= self._wall_clock()

    def look(self) -> bool:
        """Read the files again if they have changed; return whether they are used from now on.

        Raises:
            ConfigError: they cannot be used, and were not looked at before: what was there before goes on.
        """
        stamp = _stamp_of(self.files)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.is_refused = True
        loaded = load(self.files)
        if loaded.expires_s <= self._wall_clock():
            raise ConfigError(
                f"the certificate {self.files.certificate} has expired: give one that has not"
            )
        self.context, self.expires_s = loaded.context, loaded.expires_s
        self.is_exposed, self.names = loaded.is_exposed, loaded.names
        self.is_refused = False
        return True


def load(files: TlsFiles) -> Loaded:
    """Return what the files say; raise `ConfigError`, whose text names the file and what is wrong with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([*PROTOCOLS])
    certificates = read_public(files.certificate, "--tls-cert", limit_bytes=MAX_FILE_BYTES)
    read_public(files.key, "--tls-key", limit_bytes=MAX_FILE_BYTES)
    try:
        certificate = x509.load_pem_x509_certificates(certificates)[0]
        names = _names_of(certificate)
    except ValueError as exc:
        raise ConfigError(
            f"--tls-cert {files.certificate} holds no certificate: give a file of certificates as PEM"
        ) from exc
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(_why_no_pair(files, exc)) from exc
    if files.client_ca is not None:
        read_public(files.client_ca, "--tls-client-ca", limit_bytes=MAX_FILE_BYTES)
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"--tls-client-ca {files.client_ca} holds no certificate: give a file of authorities as PEM"
            ) from exc
        context.verify_mode = ssl.CERT_REQUIRED
    expires_s = certificate.not_valid_after_utc.timestamp()
    return Loaded(context, expires_s, _is_exposed(files.key), names)


def _names_of(certificate: x509.Certificate) -> frozenset[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:  # no client takes it for any name
        return frozenset()
    return frozenset(map(str.lower, found.value.get_values_for_type(x509.DNSName)))


def _why_no_pair(files: TlsFiles, error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    if reason == "KEY_VALUES_MISMATCH":
        return f"--tls-key {files.key} is not the key of --tls-cert {files.certificate}"
    return (
        f"--tls-cert {files.certificate} and --tls-key {files.key} cannot be used ({reason}): give a certificate, "
        "and its key without a password, as PEM"
    )


def _no_password() -> bytes:
    """Return what opens no key: else OpenSSL would ask on the terminal."""
    return b""


def _is_exposed(key: Path) -> bool:
    """Return whether users beside the owner and the group may read the key."""
    try:
        return bool(key.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _stamp_of(files: TlsFiles) -> _Stamp:
    """Return what differs once a file was written or replaced; a link counts as what it leads to."""
    stamp: list[tuple[int, int, int] | None] = []
    for path in (files.certificate, files.key, files.client_ca):
        try:
            status = None if path is None else path.stat()
        except OSError:
            status = None
        stamp.append(status and (status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamp)
