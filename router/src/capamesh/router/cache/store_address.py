"""The place of a store that routers share, as a URL names it. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.values import Value

DEFAULT_PORT: Final = 6379
MOST_DATABASES: Final = 1024
"""Numbers of databases are below that (guess: a server has 16 unless it is told otherwise)."""
_SCHEMES: Final = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes, and whether they are by TLS."""
_NO_URL: Final = (
    "the URL of the shared cache is none; expected is valkey://HOST:PORT/DB or redis://, valkeys:// or rediss:// for TLS, with"
    " USER:PASSWORD@ before the host where the store asks for it"
)


class StoreAddress(Value):
    """The place of a store, and how to log in there."""

    __slots__ = ("database", "host", "is_tls", "password", "port", "user")

    def __init__(
        self, host: str, port: int, is_tls: bool, user: str, password: str, database: int
    ) -> None:
        self.host = host
        self.port = port
        self.is_tls = is_tls
        self.user = user
        """The name to log in by; empty: the store's default user."""
        self.password = password
        """The password; empty: nobody logs in."""
        self.database = database

    @override
    def __repr__(self) -> str:
        return f"StoreAddress({self.host}:{self.port}/{self.database})"  # the password is nobody's


def address_of(url: str) -> StoreAddress:
    """Return the address that a URL names, such as `valkey://:password@host:6379/0`.

    Raises `ConfigError`, whose text does not have the password.
    """
    try:
        parts = urlsplit(url)
        port, path = parts.port, parts.path.strip("/")
    except ValueError:
        raise ConfigError(_NO_URL) from None
    is_plain = parts.hostname and not parts.query and not parts.fragment
    is_number = path.isascii() and path.isdigit() and len(path) <= len(str(MOST_DATABASES))
    if parts.scheme not in _SCHEMES or not is_plain or (path and not is_number):
        raise ConfigError(_NO_URL)
    database = int(path or "0")
    if port == 0 or database >= MOST_DATABASES:
        raise ConfigError(_NO_URL)
    return StoreAddress(
        str(parts.hostname),
        DEFAULT_PORT if port is None else port,
        _SCHEMES[parts.scheme],
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        database,
    )
