"""Idempotency keys among the processes of one router: which of them runs the call, and what became of it there. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from capamesh.protocol.errors import CapameshError

if TYPE_CHECKING:
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.cache.entry import Entry

KeyName: TypeAlias = tuple[str, str]
"""The tenant, and its key."""


class Kept(NamedTuple):
    """An answer that another process has kept."""

    entry: Entry
    picker: RequestPicker
    """Stands for the one of a call that was sent nowhere."""


Verdict: TypeAlias = Kept | CapameshError | None
"""The outcome of a call at another process; None: there is none, and this one is to run it."""


class Claims(Protocol):
    """The other processes of this process's router: of all of them, one runs the call with a key."""

    __slots__ = ()

    def claim(self, name: KeyName, fingerprint: bytes, then: Callable[[Verdict], None]) -> None:
        """Ask for a key; `then` is told the verdict once, after this returned, unless the key is freed before.

        `fingerprint` is the digest of the call.
        """
        ...

    def free(self, name: KeyName) -> None:
        """Tell that this process knows nothing of a key any more, and does not ask for it."""
        ...
