"""Accepts clients by TLS: bounds their handshakes, and gives those that are through to the front. IO: sockets, asyncio.

OpenSSL reads and writes the sockets itself, as on links: event loops' own TLS tells nobody of a handshake before it is over.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.links.tls_transport import open_tls
from capamesh.router.http.connections import site_of
from capamesh.router.http.handshakes import Handshake, Handshakes

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

ACCEPTS_A_TURN: Final = 16
"""The most connections accepted in one turn of the event loop (guess: as many handshakes are 10 ms)."""
EXHAUSTED_S: Final = 0.5
"""Seconds for which nobody is accepted when the system has no descriptors or memory (asyncio: 1 s)."""
FULL_S: Final = 0.05
"""Seconds for which nobody is accepted when too many handshakes are under way, none of which dawdles (guess)."""
PATIENCE_S: Final = 10.0
"""Seconds that a handshake may take (guess: Envoy and HAProxy recommend 5 to 10)."""
LINGER_S: Final = 1.0
"""Seconds for which a client that was answered for the last time may still read (guess: three round trips around the world)."""
DRAINED_BYTES: Final = 64 * 1024
"""The bytes that are read of a request in plain HTTP, so that its sender sees the answer (guess: any head)."""
_BODY: Final = b'{"error":"this port speaks TLS: use https://"}'
SPEAK_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
"""The answer to a client that speaks plain HTTP."""


class TlsDoor:
    """Accepts on listening sockets, until it is closed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        handshakes: Handshakes,
        context: Callable[[], ssl.SSLContext],
        make_connection: Callable[[], asyncio.BufferedProtocol],
        log: FilteringBoundLogger,
    ) -> None:
        """Accept at once. `context` returns that of the next handshake; `make_connection` makes what a client then talks to."""
        self.sockets = tuple(sockets)
        self.failed = 0
        """The handshakes that failed since the start, whoever's fault that was."""
        self._handshakes = handshakes
        self._context = context
        self._make_connection = make_connection
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        for listening in self.sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    @override
    def __repr__(self) -> str:
        return f"TlsDoor({self._handshakes!r})"

    def close(self) -> None:
        """Accept nobody any more; handshakes under way go on."""
        if self._is_closed:
            return
        self._is_closed = True
        for listening in self.sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            now_s = self._loop.time()
            if not self._handshakes.has_room(now_s):
                self._pause(listening, FULL_S)
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except (OSError, MemoryError):  # no descriptors, or no memory
                self._pause(listening, EXHAUSTED_S)
                return
            handshake = _Handshake(site_of(str(address[0])), now_s)
            if not self._handshakes.begin(handshake, now_s):
                connection.close()
                continue
            connection.setblocking(False)
            handshake.task = self._loop.create_task(self._take(connection, address, handshake))
            handshake.connection = connection

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        """Accept nobody for a while."""
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if not self._is_closed:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    async def _take(
        self, connection: socket.socket, address: tuple[object, ...], handshake: _Handshake
    ) -> None:
        handshake.connection = None  # it is this task's to close
        descriptor = connection.fileno()

        def refused(error: ssl.SSLError) -> None:
            self._refused(error, descriptor, handshake.site)

        try:
            await open_tls(
                connection,
                self._context(),
                self._make_connection(),
                server_side=True,
                patience_s=PATIENCE_S,
                on_refused=refused,
                peername=address,
                linger_s=LINGER_S,
            )
        except (OSError, MemoryError):  # a client that is gone, slow, or not taken
            self.failed += 1
        finally:
            connection.close()  # no more than its name is left, unless there was no memory for TLS
            self._handshakes.ended(handshake)

    def _refused(self, error: ssl.SSLError, descriptor: int, site: str) -> None:
        """Say why, to a client that speaks no TLS at all; others were told by an alert."""
        reason = error.reason or "unknown"
        if reason == "HTTP_REQUEST":
            with suppress(OSError):
                os.write(descriptor, SPEAK_TLS)
                os.read(descriptor, DRAINED_BYTES)
        self._log.info("tls_refused", reason=reason.lower(), address=site)


class _Handshake(Handshake):
    __slots__ = ("begun_s", "connection", "site", "task")

    def __init__(self, site: str, begun_s: float) -> None:
        self.site = site
        self.begun_s = begun_s
        self.task: asyncio.Task[None]
        self.connection: socket.socket | None = None
        """The socket while the task has not begun."""

    @override
    def give_up(self) -> None:
        self.task.cancel()
        if self.connection is not None:
            self.connection.close()
