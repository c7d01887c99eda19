"""Clients that have ended their half of a connection: whether they are still there, and when to hang up. IO: asks the kernel.

Who closes a connection and who only ends its half send the same. What is sent back to the first is refused by its
kernel, and then ours knows the connection as closed; the second reads it, as any client must: an interim answer, or within
an answer what its route says that clients skip.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from capamesh.router.http.handler_state import is_at_last, is_idle, running

if TYPE_CHECKING:
    import asyncio

    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.http.front_context import FrontContext

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""RFC 9110, 15.2: a client must be able to parse interim answers that it did not ask for."""
PROBE: Final = web.RequestKey("probe", bytes)
"""The key of the bytes that a client skips between two writes of an answer that is under way; a route that has such sets it."""
_CLOSED: Final = 7
"""TCP_CLOSE of the kernel's states, `tcp_states.h`."""
_LOOKS_S = (0.0, 0.002, 0.02, 0.1, 0.5)
"""Seconds after which to look whether a client that ended its half is gone (guess: what its refusal takes, on this machine, near and far);
the last again and again."""
_OPTION: Final[int | None] = getattr(socket, "TCP_INFO", None)


class _Socket(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def has_left(sock: _Socket | None) -> bool:
    """Return whether its kernel has refused what was sent; where that cannot be told: True, as most clients have."""
    if _OPTION is None or sock is None:
        return True
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _OPTION, 1)
    except OSError:
        return True
    return len(info) == 0 or info[0] == _CLOSED


class HalfConnection(Protocol):
    """The connection of a client that has ended its half, as far as it has to be known."""

    __slots__ = ()

    @property
    def pages(self) -> RequestHandler | None:
        """The handler that aiohttp has for the connection; None: it has none."""

    @property
    def has_rest(self) -> bool:
        """Return whether something has been read that is not looked at yet."""
        ...

    @property
    def is_taking(self) -> bool:
        """Return whether what was read is being looked at."""
        ...

    def is_owed(self) -> bool:
        """Return whether a request is here whole whose answer is still to be written."""
        ...

    def is_surely_idle(self) -> bool:
        """Return whether aiohttp waits for a request; if not, it may be about to begin with one."""
        ...


class HalfClosed:
    """Looks after one client that has ended its half: it gets its answers, and is hung up on once it has them or is gone."""

    __slots__ = ("_connection", "_front", "_has_probed", "_transport")

    def __init__(
        self, connection: HalfConnection, front: FrontContext, transport: asyncio.Transport
    ) -> None:
        self._connection = connection
        self._front = front
        self._transport = transport
        self._has_probed = False
        """The client was sent something since, which its kernel refuses if it is gone."""

    def look(self) -> None:
        """See whether the client is gone, or has all its answers; and again, until one of them is so."""
        self._look(0)

    def end(self, *, is_second: bool = False) -> None:
        """Hang up once all that the client asked is answered.

        A request that aiohttp took just now has begun by the next turn of the loop: then it is looked for a second time.
        """
        if self._connection.is_taking or self._connection.is_owed():
            return
        if is_second or self._connection.is_surely_idle():
            self._transport.close()
        else:
            self._front.soon(lambda: self.end(is_second=True))

    def _look(self, at: int) -> None:
        """See whether a client that ended its half is gone, or has all its answers."""
        transport, pages = self._transport, self._connection.pages
        self.end()
        if transport.is_closing():
            return
        if self._has_probed:
            if has_left(transport.get_extra_info("socket")):
                transport.abort()
                return
        elif self._connection.is_owed() and (probe := self._probe()):
            self._has_probed = True
            transport.write(probe)
        if pages is not None and is_at_last(pages) and not self._connection.has_rest:
            pages.close()  # and the connection, behind the answer
        wait_s = _LOOKS_S[min(at, len(_LOOKS_S) - 1)]
        self._front.after(wait_s, lambda: self._look(at + 1))

    def _probe(self) -> bytes:
        """Return what may be sent now to see whether the client is there; empty: nothing that it may not take for its answer."""
        pages = self._connection.pages
        if pages is None or is_idle(pages):
            return CONTINUE
        request = running(pages)
        if request is None:
            return b""
        if request.writer.output_size:
            probe: bytes = request.get(PROBE, b"")
            return probe
        return CONTINUE if request.version >= (1, 1) else b""  # older clients may not know of such
