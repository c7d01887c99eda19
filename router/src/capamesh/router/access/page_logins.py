"""The logins of the page: who has shown a key that may read the network gets a text for a cookie, which stands for that key. Pure.

The text names the key by its id and says when it ends; nobody can make one without the secret. It is worth less than the key:
a browser sends its cookies to every port of a host, so that whoever listens at another one may read the page, and no more.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from typing_extensions import override

LASTS_S: Final = 12 * 3600
"""The seconds for which a login holds (guess: a working day)."""
_PURPOSE: Final = b"logins of the page"


class PageLogins:
    """Makes and reads the texts of logins."""

    def __init__(self, secret: bytes) -> None:
        """Take a secret, which all processes of a router have."""
        self._secret = hmac.digest(secret, _PURPOSE, sha256)

    @override
    def __repr__(self) -> str:
        return "PageLogins(secret)"

    def text_of(self, key_id: str, wall_s: float) -> str:
        """Return the text that stands for a key from `wall_s` on, in seconds since 1970."""
        said = f"{key_id}.{int(wall_s) + LASTS_S}"
        return f"{said}.{self._mark(said)}"

    def key_id(self, text: str, wall_s: float) -> str:
        """Return the id of the key that a text stands for; empty where it is none, or its time is over."""
        said, _, mark = text.rpartition(".")
        key_id, _, ends = said.partition(".")
        is_own = hmac.compare_digest(mark.encode("utf-8", "replace"), self._mark(said).encode())
        return key_id if is_own and wall_s < int(ends) else ""

    def _mark(self, said: str) -> str:
        return hmac.digest(self._secret, said.encode("utf-8", "replace"), sha256).hex()
