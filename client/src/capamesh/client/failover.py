"""Decides which of several routers is asked, and when one that failed is asked again. Pure but for a lock."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from typing_extensions import override

from capamesh.client.address import RouterAddress
from capamesh.client.asks import CutOff, Unreachable
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    KeysUnavailable,
    NoEndpoint,
    ShutOut,
    Unsatisfiable,
)

COOL_DOWN_S = 10.0
"""Seconds in which a router that failed is asked only if all others fail too (guess: a restart takes seconds)."""
MAX_ROUTERS = 16
"""The most routers of one client (guess: one is enough, a few share the load)."""


class Failover:
    """Keeps to one router as long as it answers; threads may share it."""

    def __init__(self, routers: Sequence[RouterAddress]) -> None:
        """Ask the first of `routers` first; `ConfigError`: none, or too many."""
        if not 0 < len(routers) <= MAX_ROUTERS:
            raise ConfigError(f"{len(routers)} routers are named; give 1 to {MAX_ROUTERS} URLs")
        self._routers = tuple(dict.fromkeys(routers))
        self._cool_until_s: dict[RouterAddress, float] = {}
        self._lock = Lock()
        self._favourite = self._routers[0]

    @override
    def __repr__(self) -> str:
        return f"Failover({self._favourite.url} of {len(self._routers)})"

    @property
    def favourite(self) -> RouterAddress:
        """The one that is asked first now."""
        return self._favourite

    def order(self, now_s: float) -> list[RouterAddress]:
        """Return all routers in the order in which to ask them: who failed lately comes last."""
        with self._lock:
            at = self._routers.index(self._favourite)
            turned = self._routers[at:] + self._routers[:at]
            cool = {one: until_s for one, until_s in self._cool_until_s.items() if until_s > now_s}
            self._cool_until_s = cool
        return sorted(turned, key=lambda one: cool.get(one, 0.0))

    def answered(self, router: RouterAddress) -> None:
        """`router` answered: go on with it."""
        with self._lock:
            self._favourite = router
            self._cool_until_s.pop(router, None)

    def failed(self, router: RouterAddress, now_s: float) -> None:
        """`router` could not be reached or cannot serve: ask it last for a while."""
        with self._lock:
            self._cool_until_s[router] = now_s + COOL_DOWN_S


def is_for_another(error: CapameshError, *, is_repeatable: bool) -> bool:
    """Return whether another router may be asked the same.

    It always may where this one did not pass the request on: it could not be reached, is no member of its network any
    more, reaches no node, or cannot read its keys. Where the connection broke in the middle, it may only if the request may run twice.
    """
    match error:
        case Unsatisfiable():
            return False
        case Unreachable() | ShutOut() | NoEndpoint() | KeysUnavailable():
            return True
        case CutOff():
            return is_repeatable
        case _:
            return False


def routers_of(url: str | Sequence[str]) -> list[RouterAddress]:
    """Return the routers of one URL, or of several; raise `ConfigError` for what is none."""
    return [RouterAddress.parse(one) for one in ([url] if isinstance(url, str) else url)]


def none_answered(errors: Sequence[CapameshError]) -> CapameshError:
    """Return the error to raise once every router was asked: the last one's, with those of the others beside it."""
    last = errors[-1]
    if len(errors) > 1:
        said = "; ".join(error.message for error in errors)
        last.args = (f"none of {len(errors)} routers could take it: {said}",)
    return last
