"""One client's connection: plain inference requests are answered here, what else comes goes to aiohttp. IO: asyncio.

Requests on a connection are answered one after the other, in their order. Whose turn it is:

=========  ============================================================================================
state      what the next bytes are
=========  ============================================================================================
HEAD       the head of a request, or the rest of one
BODY       the body of an inference request, read straight into the memory it stays in
RUNNING    of a request that has to wait for the answer of the one before: kept, up to a bound
PAGE       the body of a request that aiohttp serves; once it is there, the next head is looked at again
FOREIGN    for aiohttp, whatever it is: nobody else can tell where requests begin and end
LEFT       nobody's any more
=========  ============================================================================================

A head that comes while aiohttp is still busy with one before goes to aiohttp as well, which serves all routes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from capamesh.protocol.memory import body_memory
from capamesh.protocol.oip import error_body
from capamesh.router.api.errors import too_slow_text
from capamesh.router.api.exchange import Exchange
from capamesh.router.api.replies import JSON, Reply, head_of, size_of
from capamesh.router.front.heads import END, may_become_head

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.api.exchange import Asking
    from capamesh.router.front.front import Front

JOINED_BYTES = 64 * 1024
"""An answer up to that is copied beside its head (guess: one send, and less than what the copy costs)."""
AHEAD_BYTES = 64 * 1024
"""So much is read ahead, and only then no more (guess): a client that leaves is noticed only while it is read from."""
_NOTHING = memoryview(b"")


class _State(Enum):
    HEAD = auto()
    BODY = auto()
    RUNNING = auto()
    PAGE = auto()
    FOREIGN = auto()
    LEFT = auto()


class FrontConnection(asyncio.BufferedProtocol):
    """One connection of a `Front`."""

    __slots__ = (
        "_asking",
        "_body",
        "_exchange",
        "_filled",
        "_front",
        "_is_last",
        "_is_reading_paused",
        "_is_taking",
        "_is_unread",
        "_owed_bytes",
        "_pages",
        "_rest",
        "_state",
        "_timer",
        "_transport",
        "used_s",
    )

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport
        self._state = _State.HEAD
        self._rest = b""
        """What has been read and not been looked at, or is the beginning of a head."""
        self._asking: Asking | None = None
        self._is_last = False
        """The connection is closed after the request under way."""
        self._body: memoryview = _NOTHING
        self._filled = 0
        self._exchange: Exchange | None = None
        self._pages: RequestHandler | None = None
        self._owed_bytes = 0
        """What aiohttp has still to get of a body."""
        self._is_taking = False
        self._is_reading_paused = False
        self._is_unread = False
        """The client does not read its answers as fast as they come."""
        self._timer: asyncio.TimerHandle | None = None
        self.used_s = 0.0
        """When something last began or ended, on the loop's clock."""

    def __repr__(self) -> str:
        return f"FrontConnection({self._state.name}, {len(self._rest)} bytes kept)"

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, nor a part of one here."""
        if self._state not in {_State.HEAD, _State.FOREIGN} or self._rest or self._is_unread:
            return False
        return self._pages is None or _is_idle(self._pages)

    def close(self) -> None:
        """Hang up once what was answered has been sent."""
        self._transport.close()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `BufferedProtocol`."""
        self._transport = cast(asyncio.Transport, transport)
        plain = cast("socket.socket | None", transport.get_extra_info("socket"))
        if plain is not None:  # a client that is gone without a word is found out
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.used_s = self._front.now_s()
        self._front.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `BufferedProtocol`."""
        self._disarm()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if self._state in {_State.BODY, _State.RUNNING}:
            self._front.requests.ended()
        self._state = _State.LEFT
        self._body = _NOTHING
        self._rest = b""
        pages, self._pages = self._pages, None
        if pages is not None:
            pages.connection_lost(exc)
        self._front.closed(self)

    def eof_received(self) -> None:
        """Part of `BufferedProtocol`: a client that closes its half is gone, as aiohttp sees it, too."""

    def pause_writing(self) -> None:
        """Part of `BufferedProtocol`."""
        self._is_unread = True
        if self._pages is not None:
            self._pages.pause_writing()
        self._arm(self._overdue_reader)

    def resume_writing(self) -> None:
        """Part of `BufferedProtocol`."""
        self._is_unread = False
        self._disarm()
        if self._pages is not None:
            self._pages.resume_writing()
        self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Part of `BufferedProtocol`."""
        del sizehint
        if self._state is _State.BODY:
            return self._body[self._filled :]
        return self._front.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Part of `BufferedProtocol`."""
        if self._state is _State.BODY:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._disarm()
                self._run(self._body)
                self._go_on()
            return
        data = bytes(self._front.scratch[:nbytes])
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._state is not _State.LEFT:
            self._take(data)

    # what comes

    def _go_on(self) -> None:
        """Look at what was kept while a request was under way or an answer unread."""
        if self._is_taking or self._is_unread or self._state is not _State.HEAD:
            return
        if self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = False
            self._transport.resume_reading()
        if self._rest:
            rest, self._rest = self._rest, b""
            self._take(rest)

    def _take(self, data: bytes) -> None:
        """Act on all of `data` that can be acted on now, and keep the rest."""
        at = 0
        self._is_taking = True
        try:
            while at < len(data) and not self._transport.is_closing():
                match self._state:
                    case _State.HEAD:
                        if self._is_unread:
                            break
                        begin = at
                        at = self._take_head(data, begin)
                        if at == begin and self._state is _State.HEAD:
                            self._arm(self._overdue_head)
                            break
                    case _State.PAGE:
                        at += self._pass_on(data[at : at + self._owed_bytes])
                    case _State.FOREIGN:
                        at += self._pass_on(data[at:])
                    case _:
                        break
        finally:
            self._is_taking = False
            self._rest = data[at:]
        if len(self._rest) > AHEAD_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _take_head(self, data: bytes, at: int) -> int:
        """Return where the request that begins `at` ends in `data`, `at` itself if it is not for this class."""
        end = data.find(END, at) + len(END)
        head = self._front.heads.read(data[at:end]) if end >= len(END) else None
        if head is None:
            if end >= len(END) or not may_become_head(data[at:]):
                self._disarm()
                self._state = _State.FOREIGN
            return at
        self._disarm()
        if head.asking is None or (self._pages is not None and not _is_idle(self._pages)):
            self._state = _State.PAGE
            self._owed_bytes = end - at + head.body_bytes
            return at
        self._front.requests.began()
        self._asking, self._is_last = head.asking, head.is_last
        stop = end + head.body_bytes
        if stop <= len(data):
            self._run(memoryview(data)[end:stop])
            return stop
        here = memoryview(data)[end:]
        self._body, self._filled = body_memory(head.body_bytes), len(here)
        self._body[: len(here)] = here
        self._state = _State.BODY
        self._arm(self._overdue_body)
        return len(data)

    def _pass_on(self, data: bytes) -> int:
        """Give bytes to aiohttp; return how many they were."""
        pages = self._pages
        if pages is None:
            pages = self._pages = self._front.make_pages()
            pages.connection_made(self._transport)
        if self._state is _State.PAGE:
            self._owed_bytes -= len(data)
            if not self._owed_bytes:
                self._state = _State.HEAD
        self.used_s = self._front.now_s()
        pages.data_received(data)
        return len(data)

    # inference

    def _run(self, body: memoryview) -> None:
        asking, self._asking, self._body = self._asking, None, _NOTHING
        assert asking is not None  # noqa: S101 - its head came before its body
        self._state = _State.RUNNING
        self._exchange = exchange = Exchange(self._front.inference, asking, self._reply)
        exchange.begin(body)

    def _reply(self, reply: Reply) -> None:
        self._exchange = None
        self._state = _State.HEAD
        requests = self._front.requests
        requests.ended()
        self._write(reply, is_last=self._is_last or requests.is_closing)
        self.used_s = self._front.now_s()
        self._go_on()

    def _write(self, reply: Reply, *, is_last: bool) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        head = head_of(reply, self._front.date(), is_last=is_last)
        buffers = reply.buffers
        if len(buffers) == 1 or sum(map(size_of, buffers)) <= JOINED_BYTES:
            transport.write(b"".join((head, *buffers)))
        else:
            transport.writelines((head, *buffers))
        if is_last:
            transport.close()

    # time

    def _arm(self, overdue: Callable[[], None]) -> None:
        if self._timer is None:
            self._timer = self._front.later(overdue)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue_head(self) -> None:
        self._too_slow("the request's head", len(self._rest), None)

    def _overdue_body(self) -> None:
        self._front.requests.ended()
        self._too_slow("the request's body", self._filled, len(self._body))

    def _overdue_reader(self) -> None:
        """A client that does not read must not keep its answers in memory."""
        self._transport.abort()

    def _too_slow(self, what: str, received_bytes: int, announced_bytes: int | None) -> None:
        """Say so, and hang up when the client has, or soon: what it still sends would destroy the answer."""
        self._timer = None
        self._state = _State.LEFT
        self._body, self._rest = _NOTHING, b""
        text = too_slow_text(what, received_bytes, announced_bytes, self._front.arrival_s)
        reply = Reply(408, {"Content-Type": JSON}, (error_body(text),))
        self._transport.write(
            b"".join((head_of(reply, self._front.date(), is_last=True), *reply.buffers))
        )
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._arm(self._transport.close)


def _is_idle(pages: RequestHandler) -> bool:
    """Return whether aiohttp waits for a request, as nothing public of it says; all that it got were whole ones."""
    waiter = pages._waiter  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    messages = pages._messages  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return waiter is not None and not waiter.done() and not messages
