"""Another protocol on a connection of the front, from its first byte on or when a request asks for it. Does no IO.

It is what each knows of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

    from capamesh.router.http.replies import Reply

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""The first line of HTTP/2, and the empty one: no request of HTTP/1.1 begins so (RFC 9113, section 3.4)."""


class Host(Protocol):
    """The connection, as the guest sees it."""

    used_s: float
    """The time when something last began or ended, on the loop's clock."""
    site: str
    """The site of the client's address."""

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of its socket."""
        ...

    def refuse(self, reply: Reply) -> None:
        """Answer with a reply what would have become another protocol, send the guest away, and hang up."""


class Guest(Protocol):
    """The guest, as the connection sees it."""

    __slots__ = ()

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is under way, nor a part of a request here."""
        ...

    @property
    def is_dispensable(self) -> bool:
        """Return whether no request would be lost with the connection."""
        ...

    @property
    def takes_large_reads(self) -> bool:
        """Return whether it keeps nothing of a read beyond what it has room for, so that it may be large."""
        ...

    def received(self, data: memoryview) -> None:
        """Take bytes of the client; they change afterwards."""

    def lost(self) -> None:
        """Give back all that is held: the client is gone."""

    def paused(self) -> None:
        """Write no more, until told: the client reads slowly."""

    def resumed(self) -> None:
        """Write again."""

    def ask_to_leave(self) -> None:
        """Ask the client to begin nothing new, where the protocol has words for that; what is under way goes on."""

    def leave(self) -> None:
        """Write the last that the client is to hear: the connection is closed then."""


class Guests(Protocol):
    """The one who takes over connections."""

    __slots__ = ()

    def welcome(self, host: Host) -> Guest:
        """Return the guest of a connection on which the preface has come; that is given to it with all that follows."""
        ...


class Upgrades(Protocol):
    """The one who takes over connections on which a request asks for another protocol."""

    __slots__ = ()

    def upgrade(self, host: Host, head: bytes) -> Guest | Reply | None:
        """Return the guest of a connection on which a request's `head` has come, and write to it that it is taken.

        A reply says why not, and None that the request asks for nothing of the kind.
        """
        ...
