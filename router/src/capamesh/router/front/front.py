"""The listening socket for HTTP, its connections and what they share. IO: asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING

from capamesh.router.front.connection import FrontConnection
from capamesh.router.front.heads import Heads

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.api.application import OpenRequests
    from capamesh.router.api.exchange import Inference

SCRATCH_BYTES = 64 * 1024
"""What is read at once of all but large bodies (guess: some small requests, or a body's beginning)."""
BACKLOG = 1024
"""Connections that the kernel accepts before this process does (guess: a burst of new clients)."""
LEAVE_S = 1.0
"""How long a front that stops answers those who are still connected (guess): a client that is busy comes again within
that time and is asked to leave, one that is hung up on just then would have to send its request once more."""
KEEP_ALIVE_S = 3630.0
"""How long a connection may be idle: longer than proxies keep theirs, as aiohttp."""
SWEEP_EVERY_S = 60.0
"""How exactly (guess)."""


class Front:
    """Serves HTTP on one socket."""

    def __init__(
        self,
        inference: Inference,
        make_pages: Callable[[], RequestHandler],
        requests: OpenRequests,
        *,
        arrival_s: float,
    ) -> None:
        """Take how long a request may take to arrive, and an answer to leave.

        `make_pages` makes aiohttp's handler for a connection; it must not end idle ones itself.
        """
        self.inference = inference
        self.make_pages = make_pages
        self.requests = requests
        self.arrival_s = arrival_s
        self.heads = Heads(inference.limits.max_message_bytes)
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """Where all connections read; nothing is left there when a read has been told."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.now_s = loop.time
        self._connections: set[FrontConnection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._date = ""
        self._date_until_s = 0.0

    def __repr__(self) -> str:
        return f"Front({len(self._connections)} connections, {self.requests.count} requests)"

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begin to accept connections; return the address. Raises `OSError`."""
        self._server = await self._loop.create_server(
            lambda: FrontConnection(self), host, port, backlog=BACKLOG
        )
        self._sweeper = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    def stop_accepting(self) -> None:
        """Accept no connection any more; those that are open go on."""
        if self._server is not None:
            self._server.close()

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
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.close()

    # for connections

    def opened(self, connection: FrontConnection) -> None:
        """A client has connected."""
        self._connections.add(connection)
        self._nobody.clear()

    def closed(self, connection: FrontConnection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._nobody.set()

    def later(self, overdue: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `overdue` when the patience with a client has ended."""
        return self._loop.call_later(self.arrival_s, overdue)

    def date(self) -> str:
        """Return the time for an answer's head."""
        now_s = self._loop.time()
        if now_s >= self._date_until_s:
            self._date_until_s = now_s + 1.0
            self._date = formatdate(usegmt=True)
        return self._date

    # inside

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        oldest_s = self._loop.time() - KEEP_ALIVE_S
        for connection in list(self._connections):
            if connection.used_s < oldest_s and connection.is_idle:
                connection.close()
