"""The keys of a story's clients: one that stays, one that is revoked, and some clients have none. IO: the routers' store of keys."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import Scope, Verb

REFUSED_S: Final = 2.0
"""Seconds after which a key that was revoked is refused."""
UNKNOWN: Final = "cm_unknown0_" + 32 * "0"


class ClientKeys:
    """The keys of one story; `wall_s` is the time of day, in seconds since 1970."""

    def __init__(self, place: Path, rng: random.Random, wall_s: Callable[[], float]) -> None:
        self._rng = rng
        self._wall_s = wall_s
        self._store = KeyStore(DatabaseLocation(place), clock=wall_s)
        scope = Scope(verbs=(Verb.INFER, Verb.JOBS))
        _, self.good = self._store.create("good", scope, wall_s())
        self._doomed, self._doomed_text = self._store.create("doomed", scope, wall_s())
        self._revoked_s = float("inf")

    def drawn(self) -> str:
        """Return the key that a client sends: a good one, mostly; empty: it sends none."""
        doomed = self._doomed_text
        return self._rng.choice((self.good, self.good, self.good, doomed, doomed, UNKNOWN, ""))

    def revoke(self) -> None:
        """Revoke the one that is to be."""
        self._store.revoke(self._doomed.id, self._wall_s())
        self._revoked_s = self._wall_s()

    def is_refused(self, key: str, age_s: float, *, has_looked: bool) -> bool:
        """Return whether a request with that key, so many seconds old, may not be served.

        What a frozen router finds when it goes on is let in by the keys of before: it has not looked yet.
        """
        if key == self._doomed_text:
            return has_looked and self._wall_s() - age_s > self._revoked_s + REFUSED_S
        return key != self.good

    def is_taken(self, key: str) -> bool:
        """Return whether a request with that key may not be refused for it."""
        return key == self.good or (key == self._doomed_text and self._revoked_s == float("inf"))


def headers_of(key: str) -> Mapping[str, str]:
    """Return the fields of a request with a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}
