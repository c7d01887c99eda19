"""The listening socket for HTTP, its connections and what they share. IO: asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.links.listener import bind
from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import Verb
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.connections import Connection, Connections
from capamesh.router.http.front_context import FrontContext
from capamesh.router.http.handshakes import MOST, Handshakes
from capamesh.router.http.head_end import HeadEnd
from capamesh.router.http.heads import Heads
from capamesh.router.http.key_check import KeyCheck
from capamesh.router.http.limits import HANDSHAKES_PER, FrontLimits
from capamesh.router.http.tls_door import TlsDoor
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.http.exchange import Inference
    from capamesh.router.http.guests import Guests, Upgrades
    from capamesh.router.http.open_requests import OpenRequests
    from capamesh.router.http.tls_files import ServerTls
    from capamesh.router.telemetry import Telemetry

SCRATCH_BYTES = 16 * 1024
"""The bytes of one read of all but large bodies: some small requests, or a body's beginning, which is copied to where it stays
(measured: 64 KiB cost 4 % more at 600 KB a request). aiohttp keeps what it got of a body that waits for room, an object for
each read."""
LARGE_SCRATCH_BYTES = 256 * 1024
"""The bytes of one read for a guest that takes so much: it copies a large message to where it stays (guess)."""
BACKLOG = 1024
"""Connections that the kernel accepts before this process does (guess: a burst of new clients)."""
LEAVE_S = 1.0
"""Seconds for which a front that stops answers those who are still connected (guess): a client that is busy comes again
within that time and is asked to leave, one that is hung up on just then would have to send its request once more."""
SWEEP_EVERY_S = 1.0
"""Seconds between two looks at who is idle or slow (measured: 1 ms for a thousand connections)."""


class Front(FrontContext):
    """Serves HTTP on one socket."""

    def __init__(
        self,
        inference: Inference,
        requests: OpenRequests,
        *,
        arrival_s: float,
        limits: FrontLimits | None = None,
        tls: ServerTls | None = None,
        audience: Audience = Audience.ALL,
        origin_check: OriginCheck,
    ) -> None:
        """Take how long a request may take to arrive, and an answer to leave. `tls` is what clients speak; None: they do not.

        Operators alone run no models.
        """
        self.inference = inference
        self.make_pages: Callable[[], RequestHandler]
        """Makes aiohttp's handler for a connection, which must not end idle ones itself. To be set before `listen`."""
        self.guests: Guests | None = None
        """Takes over connections that begin with another protocol. To be set before `listen`."""
        self.upgrades: Upgrades | None = None
        """Takes over connections on which another protocol is asked for. To be set before `listen`."""
        self.requests = requests
        self.audience: Final = audience
        """The ones for whom it is."""
        self.arrival_s = arrival_s
        self.limits = limits = limits or FrontLimits()
        self.head_s = min(arrival_s, limits.first_head_s)
        """Seconds that a head may take."""
        self.keys = KeyCheck(inference.ring, inference.operator)
        inference.ring.on_change(self._keep_names)
        self._keep_names()
        """The check of what clients send; the application makes it, too."""
        self.origin_check = origin_check
        """The check of where it comes from, likewise."""
        self.heads = Heads(
            inference.limits,
            self.keys,
            origin_check,
            has_inference=audience.is_served((Verb.INFER,)),
        )
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """The memory where all connections read; nothing is left there when a read has been told."""
        self.large_scratch = memoryview(bytearray(LARGE_SCRATCH_BYTES))
        """The same for connections of other protocols, whose bodies come that way, too."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.now_s = loop.time
        self.head_end = HeadEnd(loop.time, partial(formatdate, usegmt=True))
        self.connections = Connections(
            limits.connections, limits.connections_per_site, limits.trusted
        )
        self.budget = BodyBudget(
            limits.body_bytes,
            limits.arriving_bytes,
            clock=loop.time,
            is_trusted=self.connections.is_trusted,
        )
        self._tls = tls
        self._handshakes = Handshakes(
            self.connections.is_trusted,
            most=min(MOST, max(1, limits.connections // HANDSHAKES_PER)),
        )
        self._door: TlsDoor | None = None
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    @override
    def __repr__(self) -> str:
        return f"Front({len(self.connections)} connections, {self.requests.count} requests)"

    async def listen(
        self, host: str, port: int, shared: Sequence[socket.socket] = ()
    ) -> tuple[str, int]:
        """Begin to accept connections; return the first address. Raises `OSError`.

        `shared` are sockets that listen already, perhaps in other processes too: then `host` and `port` are not used.
        """
        self._sweeper = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        if self._tls is not None:
            return await self._listen_by_tls(self._tls, host, port, shared)
        create = partial(self._loop.create_server, lambda: FrontConnection(self), backlog=BACKLOG)
        if shared:
            self._servers = [await create(sock=each) for each in shared]
        else:
            self._servers = [await create(host, port)]
        name = self._servers[0].sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def _listen_by_tls(
        self, tls: ServerTls, host: str, port: int, shared: Sequence[socket.socket]
    ) -> tuple[str, int]:
        sockets = shared or await bind(host, port, BACKLOG)
        self._door = TlsDoor(
            sockets,
            self._handshakes,
            lambda: tls.context,
            lambda: FrontConnection(self),
            self.inference.log,
        )
        name = sockets[0].getsockname()
        return str(name[0]), int(name[1])

    def stop_accepting(self) -> None:
        """Accept no connection any more; those that are open go on."""
        for server in self._servers:
            server.close()
        if self._door is not None:
            self._door.close()

    def ask_to_leave(self) -> None:
        """Ask those who can be asked at any time; clients of HTTP/1.1 are asked by the answers to what they send next."""
        for connection in self._open():
            connection.ask_to_leave()

    async def wait_left(self) -> None:
        """Wait until no client is connected, or those that are had time to come again and be asked to leave."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._nobody.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Hang up on all, once what they were answered is sent."""
        self.stop_accepting()
        self._handshakes.give_up_all()
        self.inference.slices.close()
        self.inference.packer.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._open():
            connection.close()

    def _keep_names(self) -> None:
        """Have errors name no models of others, once keys are asked for."""
        if self.inference.ring.is_required:
            self.inference.fleet.are_names_secret = True

    def _open(self) -> list[FrontConnection]:
        return [each for each in self.connections if isinstance(each, FrontConnection)]

    def watch(self, telemetry: Telemetry) -> None:
        """Export how much of the limits is taken."""
        budget, connections, watch = self.budget, self.connections, telemetry.watch
        watch(metrics.HTTP_CONNECTIONS, lambda: len(connections))
        watch(metrics.HTTP_CONNECTIONS_MOST, lambda: connections.most)
        watch(metrics.HTTP_TURNED_AWAY, lambda: connections.turned_away)
        watch(metrics.HTTP_HUNG_UP, lambda: connections.hung_up)
        tls, handshakes = self._tls, self._handshakes
        if tls is not None:
            watch(metrics.TLS_HANDSHAKES, lambda: len(handshakes))
            watch(metrics.TLS_TURNED_AWAY, lambda: handshakes.turned_away)
            watch(metrics.TLS_FAILED, lambda: 0 if self._door is None else self._door.failed)
            watch(metrics.CERTIFICATE_EXPIRY, lambda: tls.expires_s)
            watch(metrics.CERTIFICATE_REFUSED, lambda: tls.is_refused)
        watch(metrics.BODY_BYTES, lambda: budget.used_bytes)
        watch(metrics.BODY_BYTES_MOST, lambda: budget.most_bytes)
        watch(metrics.BODY_BYTES_ARRIVING, lambda: budget.arriving_bytes)
        watch(metrics.BODIES_REFUSED, lambda: budget.refused)
        watch(metrics.BODIES_ENDED, lambda: budget.ended)

    # for connections

    @override
    def opened(self, connection: Connection) -> bool:
        now_s = self._loop.time()
        is_taken = self.connections.opened(connection, now_s) or (
            self.budget.end_slowest() and self.connections.opened(connection, now_s)
        )
        if is_taken:
            self._nobody.clear()
        return is_taken

    @override
    def closed(self, connection: Connection) -> None:
        self.connections.closed(connection)
        if not len(self.connections):
            self._nobody.set()

    @override
    def after(self, seconds: float, then: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, then)

    @override
    def soon(self, then: Callable[[], None]) -> None:
        self._loop.call_soon(then)

    # inside

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        now_s = self._loop.time()
        for connection in self._open():
            if connection.is_over(now_s):
                connection.close()
        self.budget.look()
