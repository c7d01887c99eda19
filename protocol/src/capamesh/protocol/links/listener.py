"""Accepts links, within the limits of `connection_limits`: before TLS, which costs the event loop. IO: asyncio.

asyncio's own servers take whoever connects and begin TLS with it. Here a connection that is over a limit is closed as
soon as it is accepted, and one that proves nothing may be closed at any time for another.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.connection_limits import ConnectionLimiter, ConnectionLimits, Slot
from capamesh.protocol.links.tls_transport import open_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from capamesh.protocol.links.link import Link
    from capamesh.protocol.network import Member

ACCEPTS_A_TURN: Final = 64
"""The most connections accepted in one turn of the event loop (guess: one that is refused costs 20 µs)."""
EXHAUSTED_S: Final = 0.5
"""Seconds for which nobody is accepted when the system has no descriptors or memory (asyncio: 1 s)."""


async def bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of `host`; raise `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(backlog)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


class LinkListener:
    """Listens until `close`; links that were accepted go on."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_link: Callable[[], Link],
        tls: ssl.SSLContext,
        limits: ConnectionLimits,
        patience_s: float,
        on_refused: Callable[[ssl.SSLError], None] | None = None,
    ) -> None:
        """Accept at once. `patience_s` is for a TLS handshake; `on_refused` is told of one that this side refuses."""
        self.sockets = tuple(sockets)
        self.limiter = ConnectionLimiter(limits)
        self._make_link = make_link
        self._tls = tls
        self._patience_s = patience_s
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._is_closed = False
        for listening in self.sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    @override
    def __repr__(self) -> str:
        return f"LinkListener({self.limiter!r}, {len(self._handshakes)} in TLS)"

    def close(self) -> None:
        """Accept nobody any more."""
        if self._is_closed:
            return
        self._is_closed = True
        for listening in self.sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        for handshake in list(self._handshakes):
            handshake.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except (OSError, MemoryError):  # no descriptors, or no memory
                self._pause(listening)
                return
            try:
                self._take(connection, str(address[0]))
            except MemoryError:  # it is closed, and its place is free again
                self._pause(listening)
                return

    def _pause(self, listening: socket.socket) -> None:
        """Accept nobody for a while."""
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(EXHAUSTED_S, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if not self._is_closed:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _take(self, connection: socket.socket, host: str) -> None:
        slot = self.limiter.opened(host, self._loop.time())
        if slot is None:
            connection.close()
            return
        try:
            self._begin(connection, slot)
        except BaseException:
            connection.close()
            self.limiter.closed(slot)
            raise

    def _begin(self, connection: socket.socket, slot: Slot) -> None:
        """Make a link of the connection, in a task of its own."""
        connection.setblocking(False)
        link = self._make_link()
        is_begun = asyncio.Event()
        handshake = self._loop.create_task(self._shake_hands(connection, link, slot, is_begun))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

        def give_up(why: str) -> None:
            if link.is_made:
                link.abort(why)
                return
            handshake.cancel()
            if not is_begun.is_set():  # then nobody else has it
                connection.close()

        slot.close = give_up

    async def _shake_hands(
        self, connection: socket.socket, link: Link, slot: Slot, is_begun: asyncio.Event
    ) -> None:
        is_begun.set()
        try:
            await open_tls(
                connection,
                self._tls,
                link,
                server_side=True,
                patience_s=self._patience_s,
                on_refused=self._on_refused,
            )
            link.up.add_done_callback(lambda up: self._settled(up, slot))
            link.ended.add_done_callback(lambda _: self.limiter.closed(slot))
        except BaseException as exc:
            if link.is_made:
                link.abort("it could not be taken")
            connection.close()
            self.limiter.closed(slot)
            # A stranger, no memory, or its place was needed; anything else is a defect, which the loop reports.
            if not isinstance(exc, (OSError, MemoryError, asyncio.CancelledError)):
                raise

    def _settled(self, up: asyncio.Future[Member], slot: Slot) -> None:
        if not up.cancelled() and up.exception() is None:
            self.limiter.proved(slot, self._loop.time())
