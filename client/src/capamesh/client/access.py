"""The things that a router, or a proxy in front of it, asks for: headers such as a key, certificates of both sides.

Reads the certificates' files. Nothing here shows a header's value: it may be a secret.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from typing_extensions import override

from capamesh.protocol.errors import ConfigError

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?", re.ASCII)
_OWN: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "inference-header-content-length",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""The headers that the client writes itself, for the answer is read by them."""
_ROUTING: Final = "x-capamesh-"
MAX_HEADERS: Final = 64
"""The most headers that are added to each request (guess: proxies ask for one or two)."""
MAX_VALUE_CHARS: Final = 4096
"""The longest value (guess: a signed token has 1,000 characters; servers take lines of 8 KiB)."""
NO_HEADERS: Final[Mapping[str, str]] = {}

Certificate: TypeAlias = str | Path | tuple[str | Path, str | Path]
"""A client's certificate: a file that holds its key as well, or the certificate's file and the key's."""


class Access:
    """The headers that each request gets besides its own, and the certificates that are checked and shown."""

    __slots__ = ("__dict__", "_ca", "_cert", "_headers")

    def __init__(
        self,
        headers: Mapping[str, str] = NO_HEADERS,
        ca: str | Path | None = None,
        key: str | None = None,
        cert: Certificate | None = None,
    ) -> None:
        """Take the headers, and the file of the one authority that is trusted; None: those that the system trusts.

        `key` is the router's; it goes as a header of its own where a proxy has `Authorization`. `cert` is shown to routers that
        ask for one; None: none is. Raises `ConfigError`.
        """
        if key is not None:
            has_authorization = any(name.lower() == "authorization" for name in headers)
            name = "X-API-Key" if has_authorization else "Authorization"
            headers = {**headers, name: key if has_authorization else f"Bearer {key}"}
        if len(headers) > MAX_HEADERS:
            raise ConfigError(f"{len(headers)} headers are given; at most {MAX_HEADERS} are taken")
        for name, value in headers.items():
            _check(name, value)
        self._headers = dict(headers)
        self._ca = ca
        self._cert = cert
        if ca is not None or cert is not None:
            self.tls  # noqa: B018 - a file that cannot be used is told at once

    @override
    def __repr__(self) -> str:
        return f"Access({len(self._headers)} headers, ca={None if self._ca is None else str(self._ca)!r})"

    @functools.cached_property
    def tls(self) -> ssl.SSLContext:
        """The way in which certificates are checked and shown; made when it is first asked for."""
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except OSError as exc:  # an SSLError is one
            why = exc.strerror if not isinstance(exc, ssl.SSLError) else "it holds no certificate"
            raise ConfigError(
                f"the authority's file {str(self._ca)!r} cannot be used: {why}; give a file of certificates as PEM"
            ) from exc
        if self._cert is not None:
            _show(context, self._cert)
        return context

    def with_own(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of one request, of which its `own` count where both have one."""
        if not self._headers:
            return dict(own)
        named = {name.lower() for name in own}
        added = {name: value for name, value in self._headers.items() if name.lower() not in named}
        return {**added, **own}


def _show(context: ssl.SSLContext, cert: Certificate) -> None:
    """Show a certificate from now on; raise `ConfigError` when it cannot be used."""
    certificate, key = cert if isinstance(cert, tuple) else (cert, None)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as exc:  # an SSLError is one
        what = f"the certificate {str(certificate)!r}" + (
            "" if key is None else f" with the key {str(key)!r}"
        )
        why = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise ConfigError(
            f"{what} cannot be used ({why}): give a certificate and its key without a password, as PEM, in one file or in two"
        ) from exc


def _no_password() -> bytes:
    """Return what opens no key: else OpenSSL would ask on the terminal."""
    return b""


def _check(name: object, value: object) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"a header's name is {str(name)[:20]!r}…; letters, digits and hyphens are expected"
        )
    if name.lower() in _OWN:
        raise ConfigError(f"the header {name!r} is the client's own: leave it out")
    if name.lower().startswith(_ROUTING):
        raise ConfigError(
            f"the header {name!r} is one of routing: give it as RoutingOptions, or as an option of `capamesh infer`"
        )
    if name.lower() == "idempotency-key":
        raise ConfigError(
            f"the header {name!r} is of one request: give it as idempotency_key= of `infer`, or as --idempotency-key"
        )
    if not isinstance(value, str) or _VALUE.fullmatch(value) is None:
        raise ConfigError(
            f"the value of the header {name!r} is no printable ASCII text without blanks around it"
        )
    if len(value) > MAX_VALUE_CHARS:
        raise ConfigError(
            f"the value of the header {name!r} has {len(value)} characters; at most {MAX_VALUE_CHARS} are taken"
        )
