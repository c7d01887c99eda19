"""The key with which a router's operator commands it: who can read the data folder has it. IO: one file.

The router's HTTP port is for clients; what takes a node out of use must not be open to all of them. A file that
its owner alone can read tells the operator from a client, without a password to choose, to hand out or to forget.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.private_files import read_private, replace_private
from capamesh.router.access.page_logins import PageLogins

KEY_FILE: Final = "operator.key"
KEY_BYTES: Final = 32
"""256 bits, as many as a node's own key has."""
SCHEME: Final = "Bearer"


class OperatorKey:
    """One run's key."""

    __slots__ = ("_key", "is_kept")

    def __init__(self, key: str, *, is_kept: bool = True) -> None:
        self._key = key.encode()
        self.is_kept = is_kept
        """True if it was written where the operator can read it."""

    @override
    def __repr__(self) -> str:
        return "OperatorKey(secret)"

    @classmethod
    def create(cls, folder: Path) -> OperatorKey:
        """Draw a new key and leave it in `folder`, for its owner alone; the one of the last run is void.

        Where it cannot be written, the last run's key stays in use, if its owner alone could read it; else nobody can
        command this run, whose router serves all the same (see `is_kept`).
        """
        key = secrets.token_hex(KEY_BYTES)
        try:
            replace_private(folder / KEY_FILE, f"{key}\n".encode())
        except ConfigError:
            try:
                return cls(_key_in(folder))
            except (ConfigError, KeyExposed):
                return cls(key, is_kept=False)
        return cls(key)

    @classmethod
    def kept(cls, folder: Path) -> OperatorKey:
        """Return the key that the router's main process has left in `folder`; where there is none, nobody has it."""
        try:
            return cls(_key_in(folder))
        except (ConfigError, KeyExposed):
            return cls(secrets.token_hex(KEY_BYTES), is_kept=False)

    def page_logins(self) -> PageLogins:
        """Return what makes and reads logins of the page in this run."""
        return PageLogins(self._key)

    def opens(self, authorization: str) -> bool:
        """Return whether the header `Authorization` carries it; how long that takes says nothing of the key."""
        scheme, _, given = authorization.strip().partition(" ")
        return scheme.lower() == SCHEME.lower() and hmac.compare_digest(
            given.strip().encode("utf-8", "replace"), self._key
        )


def authorization_from(folder: Path) -> str:
    """Return the header `Authorization` for the router whose data folder is `folder`.

    Raises `ConfigError` when there is no key, `KeyExposed` when others could have read it.
    """
    try:
        return f"{SCHEME} {_key_in(folder)}"
    except KeyExposed:
        raise
    except ConfigError as exc:
        raise ConfigError(
            f"{exc.message}; --data is the folder of the router that is to obey, and it must be running"
        ) from exc


def _key_in(folder: Path) -> str:
    key = read_private(folder / KEY_FILE, "the operator's key")
    text = key.decode("ascii", "replace").strip()
    if len(text) != 2 * KEY_BYTES or not text.isalnum() or not text.isascii():
        raise ConfigError(
            f"{folder / KEY_FILE} holds no operator's key; restart the router to have it written anew"
        )
    return text
