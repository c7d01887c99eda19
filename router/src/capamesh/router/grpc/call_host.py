"""The connection of a call, as the call sees it. Does no IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.grpc.http2 import Http2Session
    from capamesh.router.http.front_context import FrontContext


class CallHost(Protocol):
    """The connection of a call, as the call sees it."""

    __slots__ = ()

    front: FrontContext
    session: Http2Session
    site: str
    """The site of the client's address."""

    @property
    def is_clogged(self) -> bool:
        """Return whether so much waits to be read by the client that no more is to be asked of anybody for it."""
        ...

    def flush_soon(self) -> None:
        """Write what is to be sent, behind all that is about to be sent."""

    def await_room(self, look: Callable[[], None]) -> None:
        """Have `look` called once when the client has read more, however often this is asked for."""

    def over(self, stream: int) -> None:
        """Forget a call that has ended."""
