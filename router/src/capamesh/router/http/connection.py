"""One client's connection: plain inference requests are answered here, what else comes goes to aiohttp. IO: asyncio.

Requests on a connection are answered one after the other, in their order. Whose turn it is:

=========  ============================================================================================
state      what the next bytes are
=========  ============================================================================================
HEAD       the head of a request, or the rest of one
BODY       the body of an inference request, read straight into the memory it stays in, as the budget has room
RUNNING    of a request that has to wait for the answer of the one before: kept, up to a bound
PAGE       the body of a request that aiohttp serves; once it is there, the next head is looked at again
FOREIGN    for aiohttp, whatever it is: nobody else can tell where requests begin and end
GUEST      another protocol's, which the connection began with or a request asked for
LEFT       nobody's any more
=========  ============================================================================================

A head has a time to be here whole, wherever it goes; bytes now and then do not extend it. A head that comes while aiohttp is still busy
with one before goes to aiohttp as well, which serves all routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.router.http.arrivals import ArrivingBody
from capamesh.router.http.client_side import HEAD, LEFT, RUNNING, ClientSide, State
from capamesh.router.http.errors import error_reply
from capamesh.router.http.exchange import Exchange
from capamesh.router.http.half_closed import HalfClosed, HalfConnection
from capamesh.router.http.handler_state import is_busy, is_idle, is_waiting_for_body
from capamesh.router.http.heads import END, may_become_head
from capamesh.router.http.replies import Reply

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.http.exchange import InferTarget
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.http.heads import Head

AHEAD_BYTES = 16 * 1024
"""The bytes that are read ahead, and only then no more (guess): a client that leaves is noticed only while it is read from.
What is here beyond that, a read at most, has to have room in the budget."""


class FrontConnection(ClientSide, HalfConnection):
    """One connection of a front."""

    __slots__ = (
        "_body_at",
        "_exchange",
        "_half_closed",
        "_has_asked",
        "_head",
        "_is_last",
        "_is_reading_paused",
        "_is_taking",
        "_owed_bytes",
    )

    def __init__(self, front: FrontContext) -> None:
        super().__init__(front)
        self._head: Head | None = None
        """The head of the request whose body arrives."""
        self._is_last = False
        """The connection is closed after the request under way."""
        self._body_at = 0
        self._exchange: Exchange | None = None
        self._owed_bytes = 0
        """The bytes of a body that aiohttp has still to get."""
        self._is_taking = False
        self._is_reading_paused = False
        self._half_closed: HalfClosed | None = None
        """The rest of a connection whose client sends nothing any more; it may still read."""
        self._has_asked = False

    @override
    def __repr__(self) -> str:
        return f"FrontConnection({self._state.name}, {len(self._rest)} bytes kept)"

    @property
    def is_idle(self) -> bool:
        """Return whether no request is under way, nor a part of one here."""
        if self._guest is not None:
            return self._guest.is_idle
        if self._state not in {State.HEAD, State.FOREIGN} or self._rest or self._is_unread:
            return False
        return self._pages is None or is_idle(self._pages)

    @property
    @override
    def is_dispensable(self) -> bool:
        """Return whether no request is lost with it: at most the beginning of a head."""
        match self._state:
            case State.LEFT:
                return True
            case State.GUEST:
                return self._guest is None or self._guest.is_dispensable
            case State.HEAD | State.FOREIGN:
                return not self._is_unread and (self._pages is None or is_idle(self._pages))
            case _:
                return False

    def is_over(self, now_s: float) -> bool:
        """Return whether it has been idle for too long."""
        limits = self._front.limits
        patience_s = limits.idle_s if self._has_asked else limits.first_head_s
        return now_s - self.used_s > patience_s and self.is_idle

    # for `HalfClosed`

    @property
    @override
    def pages(self) -> RequestHandler | None:
        """The handler that aiohttp has for this connection; None: it has none."""
        return self._pages

    @property
    @override
    def has_rest(self) -> bool:
        """Return whether something has been read that is not looked at yet."""
        return bool(self._rest)

    @property
    @override
    def is_taking(self) -> bool:
        """Return whether what was read is being looked at."""
        return self._is_taking

    @override
    def is_owed(self) -> bool:
        """Return whether a request is here whole, as far as can be told, whose answer is still to be written."""
        if self._state is State.RUNNING:
            return True
        if self._state is State.HEAD and self._is_unread and self._rest:
            return True  # what is there is looked at once the client has read
        pages = self._pages
        return pages is not None and is_busy(pages) and not is_waiting_for_body(pages)

    @override
    def is_surely_idle(self) -> bool:
        """Return whether aiohttp waits for a request; if not, it may be about to begin with one that it took just now."""
        return self._pages is None or is_idle(self._pages)

    # asyncio.BufferedProtocol

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        if self._state in {State.BODY, State.RUNNING}:
            self._front.requests.ended()
        self._state = State.LEFT
        self._drop_body()
        self._let_go()
        self._let_go_ahead()
        self._read_all()
        self._rest = b""
        pages, guest, self._pages = self._pages, self._guest, None
        if pages is not None:
            pages.connection_lost(exc)
        if guest is not None:
            guest.lost()
        self._front.closed(self)

    @override
    def eof_received(self) -> bool:
        """Keep the other half open (`True`) for a client that ends its own half behind a whole request.

        The client may still read the answer, or may be gone: only sending to it tells, and the first bytes may be taken.
        """
        if not self.is_owed() and self.is_surely_idle():
            return False
        if self._half_closed is None:
            self._half_closed = HalfClosed(self, self._front, self._transport)
            self._half_closed.look()
        return not self._transport.is_closing()

    @override
    def resume_writing(self) -> None:
        self._is_unread = False
        self._disarm()
        self._read_all()
        if self._pages is not None:
            self._pages.resume_writing()
        if self._guest is not None:
            self._guest.resumed()
        self._go_on()
        if self._half_closed is not None:
            self._half_closed.end()

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._body is not None:
            return self._body.buffer()
        return self._scratch

    @override
    def buffer_updated(self, nbytes: int) -> None:
        if self._guest is not None:
            self._guest.received(self._scratch[:nbytes])
            return
        body = self._body
        if body is not None:
            if body.took(nbytes):
                self._disarm()
                head, self._head, self._body = self._head, None, None
                # its head came before its body
                assert head is not None and head.target is not None  # noqa: S101, PT018
                if body.arrived(head.held_bytes):
                    self._held_bytes = head.held_bytes
                    self._state = State.RUNNING
                    self._exchange = Exchange(
                        self._front.inference, head.target, self._reply, self.site
                    )
                    self._exchange.begin(body.memory)
                else:
                    self._refuse(head.target)
                self._go_on()
            return
        data = bytes(self._scratch[:nbytes])
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._state is not LEFT:
            self._take(data)

    # what comes

    def _go_on(self) -> None:
        """Look at what was kept while a request was under way or an answer unread."""
        if self._is_taking or self._is_unread or self._state is not HEAD:
            return
        if self._is_reading_paused and not self._transport.is_closing():
            self._let_go_ahead()
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
                state = self._state
                if state is HEAD:
                    if self._is_unread:
                        break
                    begin = at
                    at = self._take_head(data, begin)
                    if self._exchange is not None:
                        self._exchange.begin(memoryview(data)[self._body_at : at])
                    elif at == begin and self._state is HEAD:
                        self._arm(self._overdue_head, is_head=True)
                        break
                elif state is State.PAGE:
                    at += self._pass_on(data[at : at + self._owed_bytes])
                elif state is State.FOREIGN:
                    at += self._pass_on(data[at:])
                else:
                    break
        finally:
            self._is_taking = False
            self._rest = data[at:]
        if len(self._rest) > AHEAD_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()
            self._hold_ahead(len(self._rest))

    def _hold_ahead(self, size_bytes: int) -> None:
        """Count what is kept of a client that asks faster than it is answered; without room, it has to ask once more."""
        if self._front.budget.hold(size_bytes):
            self._ahead_bytes = size_bytes
            return
        self._rest = b""
        if self._state is State.RUNNING:
            self._is_last = True
        else:
            self._transport.close()

    def _take_head(self, data: bytes, at: int) -> int:
        """Return where the request that begins `at` ends in `data`, `at` itself if it is not for this class.

        There is an exchange then if it is to be begun, with the body from `_body_at` on.
        """
        end = data.find(END, at) + len(END)
        head = self._front.heads.read(data[at:end]) if end >= len(END) else None
        if head is None:
            if self._hand_over(data[at:], end - at, is_first=not self._has_asked):
                self._has_asked = True
                return len(data)
            if end >= len(END) or not may_become_head(data[at:]):
                self._disarm()
                self._state = State.FOREIGN
            return at
        if self._timer is not None:
            self._disarm()
        self._has_asked = True
        self._is_last = head.is_last
        if head.target is None or (self._pages is not None and not is_idle(self._pages)):
            self._state = State.PAGE
            self._owed_bytes = end - at + head.body_bytes
            return at
        stop = end + head.body_bytes
        error = head.refusal
        if error is not None:
            self._front.inference.refused(head.target.model, error)
        elif stop <= len(data):
            front = self._front
            front.requests.count += 1
            if front.budget.hold(head.held_bytes):
                self._held_bytes = head.held_bytes
                self._body_at = end
                self._state = RUNNING
                self._exchange = Exchange(front.inference, head.target, self._reply, self.site)
            else:
                self._refuse(head.target)
        else:
            error = self._take_part(memoryview(data)[end:], head)
            stop = len(data)
        if error is None:
            return stop
        self._disarm()
        self._last_words(error_reply(error))
        return len(data)

    def _take_part(self, here: memoryview, head: Head) -> CapameshError | None:
        """Begin to receive a request's body; return why not."""
        budget = self._front.budget
        if not budget.may_begin(head.held_bytes):
            return self._no_room()
        body = ArrivingBody(budget, self, self._transport, head.body_bytes, here, self.site)
        if not body.begin():
            return self._no_room()
        self._front.requests.count += 1
        self._head, self._body = head, body
        self._state = State.BODY
        self._arm(self._overdue_body)
        return None

    def _pass_on(self, data: bytes) -> int:
        """Give bytes to aiohttp; return how many they were."""
        pages = self._pages
        if pages is None:
            pages = self._pages = self._front.make_pages()
            pages.connection_made(self._transport)
        if self._state is State.PAGE:
            self._owed_bytes -= len(data)
            if not self._owed_bytes:  # behind a last one nothing counts
                self._state = State.LEFT if self._is_last else State.HEAD
        self.used_s = self._front.now_s()
        pages.data_received(data)
        if self._state is State.FOREIGN:
            self._has_asked = True
            if is_busy(pages):
                self._disarm()
            elif not self._is_unread:  # the beginning of a head
                self._arm(self._overdue_foreign_head, is_head=True)
        return len(data)

    # inference

    def _refuse(self, target: InferTarget) -> None:
        """Say of a request that is here whole that there is no room for it; the connection may stay."""
        error = self._no_room()
        self._front.inference.refused(target.model, error)
        self._reply(error_reply(error))

    def _reply(self, reply: Reply) -> None:
        self._exchange = None
        self._state = HEAD
        requests = self._front.requests
        requests.inferred(reply.status)
        self._let_go()
        is_last = (
            self._is_last
            or requests.is_closing
            or (self._half_closed is not None and not self._rest)
        )
        self._write(reply, is_last=is_last)
        self.used_s = self._front.now_s()
        self._go_on()
        if self._half_closed is not None:
            self._half_closed.end()

    # time

    def _overdue_foreign_head(self) -> None:
        """End a connection whose head, of which aiohttp has the beginning, is overdue."""
        self._timer = None
        if self._pages is not None and not is_busy(self._pages):
            self._transport.close()
