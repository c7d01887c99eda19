"""The URL of a router as a user gives it, taken apart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from capamesh.protocol.errors import ConfigError

DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""The address where `capamesh router run` listens when it is told nothing else."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class RouterAddress:
    """A router's place: `https` behind a proxy that ends TLS, `prefix` where that proxy puts it."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def url(self) -> str:
        """The whole of it, as error messages show it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @classmethod
    def parse(cls, url: str) -> RouterAddress:
        """Return the address that `url` is; `host:port` alone is HTTP. Raises `ConfigError`."""
        text = url.strip()
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise _no_url(url, str(exc)) from exc
        if parts.scheme not in _PORTS:
            raise _no_url(url, f"the scheme {parts.scheme!r} is neither http nor https")
        if not host:
            raise _no_url(url, "it names no host")
        if not text.isprintable() or " " in text:
            raise _no_url(url, "it has blanks or control characters")
        if parts.username is not None:
            raise _no_url(
                url,
                "a user name and password do not belong in it: give them as a header, "
                '`headers={"Authorization": ...}` or `capamesh infer --header "Authorization: ..."`',
            )
        if parts.query or parts.fragment:
            raise _no_url(url, "a query or fragment has no meaning here")
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


def _no_url(url: str, why: str) -> ConfigError:
    # what stands before an @ may be a password
    before, at, after = url.rpartition("@")
    shown = f"{before[: before.find('://') + 3] if '://' in before else ''}…@{after}" if at else url
    return ConfigError(f"{shown!r} is no router's URL: {why}; give one like {DEFAULT_URL}")
