"""The front as its connections see it: what each of them may ask. Does no IO."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.access.origin_check import OriginCheck
    from capamesh.router.http.body_budget import BodyBudget
    from capamesh.router.http.connections import Connection
    from capamesh.router.http.exchange import Inference
    from capamesh.router.http.guests import Guests, Upgrades
    from capamesh.router.http.head_end import HeadEnd
    from capamesh.router.http.heads import Heads
    from capamesh.router.http.key_check import KeyCheck
    from capamesh.router.http.limits import FrontLimits
    from capamesh.router.http.open_requests import OpenRequests


class FrontContext(Protocol):
    """The front of a connection, as the connection sees it."""

    inference: Inference
    make_pages: Callable[[], RequestHandler]
    """Makes aiohttp's handler for a connection, which must not end idle ones itself."""
    guests: Guests | None
    """The one who takes over connections that begin with another protocol; None: nobody does."""
    upgrades: Upgrades | None
    """The one who takes over connections on which another protocol is asked for; None: nobody does."""
    keys: KeyCheck
    origin_check: OriginCheck
    requests: OpenRequests
    limits: FrontLimits
    arrival_s: float
    """Seconds that a request may take to arrive, and an answer to leave."""
    head_s: float
    """Seconds that a head may take."""
    heads: Heads
    head_end: HeadEnd
    budget: BodyBudget
    scratch: memoryview
    """The memory where all connections read; nothing is left there when a read has been told."""
    large_scratch: memoryview
    """The same for guests that take large reads."""
    now_s: Callable[[], float]

    def opened(self, connection: Connection) -> bool:
        """Take a client that has connected; False: there are too many, and none of them can be spared."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget a connection that is gone."""

    def after(self, seconds: float, then: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `then` after so long."""
        ...

    def soon(self, then: Callable[[], None]) -> None:
        """Call `then` behind all that the loop is about to do."""
