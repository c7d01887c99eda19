"""The other processes of a router, as the pages of one see them: what they add to a page, and who is told. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.overrides import Hold

METRICS: Final = "metrics"
NODES: Final = "nodes"
REQUESTS: Final = "requests"
HISTORY: Final = "history"
"""The names of the pages to which each process of a router has a part. Behind a slash there may be a part of the page:
`nodes/PEER`, `history/SECONDS/MODEL`."""


class Elsewhere(Protocol):
    """The other processes of this process's router."""

    __slots__ = ()

    async def whole(self, page: str, own: bytes) -> bytes:
        """Return a page as all processes have it, of which `own` is this one's part."""
        ...

    async def hold(self, hold: Hold) -> None:
        """Let the others take the operator's word, and return when they have."""
        ...

    def forget(self, peer: PeerId) -> None:
        """Let the others forget a lost node."""


class NobodyElse(Elsewhere):
    """Stands for the others where a router is one process."""

    __slots__ = ()

    @override
    async def whole(self, page: str, own: bytes) -> bytes:
        return own

    @override
    async def hold(self, hold: Hold) -> None:
        """Do nothing: nobody else is to be told."""

    @override
    def forget(self, peer: PeerId) -> None:
        """Do nothing: nobody else is to be told."""


NOBODY_ELSE: Final = NobodyElse()
