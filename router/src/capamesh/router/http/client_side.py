"""The things that one client's connection holds whatever comes on it: socket, timer, room in the budget. IO: asyncio.

It gives them back, and writes: an answer, or the last words to a client that is hung up on. What comes is the matter of
`FrontConnection`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.oip import error_body
from capamesh.router.http.arrivals import ArrivingBody, Receiver, UnreadAnswer
from capamesh.router.http.connections import Connection, site_of
from capamesh.router.http.errors import code_of, error_reply, too_slow_text
from capamesh.router.http.guests import PREFACE
from capamesh.router.http.handler_state import is_idle
from capamesh.router.http.heads import END
from capamesh.router.http.replies import JSON, Reply, head_of

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.http.guests import Guest

JOINED_BYTES = 64 * 1024
"""An answer up to that is copied beside its head (guess: one send, and less than what the copy costs)."""


class State(Enum):
    """The part of a request that the next bytes of a client are: see `connection`."""

    HEAD = auto()
    BODY = auto()
    RUNNING = auto()
    PAGE = auto()
    FOREIGN = auto()
    GUEST = auto()
    LEFT = auto()


# Names of their own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured).
HEAD: Final = State.HEAD
RUNNING: Final = State.RUNNING
LEFT: Final = State.LEFT


class ClientSide(asyncio.BufferedProtocol, Connection, Receiver):
    """The client's side of one connection: what the front holds for it, and gives back when it leaves."""

    __slots__ = (
        "_ahead_bytes",
        "_body",
        "_front",
        "_guest",
        "_held_bytes",
        "_is_unread",
        "_pages",
        "_rest",
        "_scratch",
        "_state",
        "_timer",
        "_transport",
        "_unread",
        "site",
        "used_s",
    )

    def __init__(self, front: FrontContext) -> None:
        self._front = front
        self._transport: asyncio.Transport
        self._state = State.HEAD
        self._rest = b""
        """The bytes that have been read and not been looked at, or are the beginning of a head."""
        self._body: ArrivingBody | None = None
        self._held_bytes = 0
        """The bytes that the request under way has of the budget."""
        self._ahead_bytes = 0
        """The bytes that the budget counts of `_rest`."""
        self._pages: RequestHandler | None = None
        self._scratch = front.scratch
        """The memory where this connection reads."""
        self._guest: Guest | None = None
        """The other protocol that has taken over the connection."""
        self._is_unread = False
        """The client does not read its answers as fast as they come."""
        self._unread: UnreadAnswer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.used_s = 0.0
        """The time when something last began or ended, on the loop's clock."""
        self.site = ""
        """The site of the client's address."""

    @property
    def transport(self) -> asyncio.Transport:
        """The socket's transport, for a guest."""
        return self._transport

    def _hand_over(self, data: bytes, head_bytes: int, *, is_first: bool) -> bool:
        """Hand over a connection that begins as another protocol's do, or on which one is asked for; return whether it does.

        `data` begins with a head of `head_bytes`, too few for one where it is not whole; who is refused another protocol is hung up on.
        """
        front, pages = self._front, self._pages
        found: Guest | Reply | None = None
        if is_first and front.guests is not None and data.startswith(PREFACE):
            found, head_bytes = front.guests.welcome(self), 0
        elif (
            head_bytes >= len(END)
            and front.upgrades is not None
            and (pages is None or is_idle(pages))
        ):
            found = front.upgrades.upgrade(self, data[:head_bytes])
        if found is None:
            return False
        self._disarm()
        if isinstance(found, Reply):
            self._last_words(found)
            return True
        self._state = State.GUEST
        self._guest = found
        if found.takes_large_reads:
            self._scratch = front.large_scratch
        if len(data) > head_bytes:
            found.received(memoryview(data)[head_bytes:])
        return True

    def refuse(self, reply: Reply) -> None:
        """Answer with a reply the request that a guest was to have, and hang up."""
        self._guest = None
        self._last_words(reply)

    # the end of it

    @override
    def hang_up(self) -> None:
        """Close it for another: there are too many."""
        self._transport.abort()

    def ask_to_leave(self) -> None:
        """Ask the client to begin nothing new here, where its protocol has words for that."""
        if self._guest is not None:
            self._guest.ask_to_leave()

    def close(self) -> None:
        """Hang up once what was answered has been sent."""
        if self._guest is not None:
            self._guest.leave()
        self._transport.close()

    # asyncio.BufferedProtocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        plain = cast("socket.socket | None", transport.get_extra_info("socket"))
        if plain is not None:  # a client that is gone without a word is found out
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        name = cast("tuple[object, ...] | str | None", transport.get_extra_info("peername"))
        self.site = site_of(str(name[0])) if isinstance(name, tuple) and name else ""
        self.used_s = self._front.now_s()
        if not self._front.opened(self):
            self._state = State.LEFT
            self._transport.abort()

    @override
    def pause_writing(self) -> None:
        self._is_unread = True
        if self._pages is not None:
            self._pages.pause_writing()
        if self._guest is not None:
            self._guest.paused()
        self._arm(self._overdue_reader)
        self._unread = unread = UnreadAnswer(self._transport, self._overdue_reader)
        if not self._front.budget.begin(unread, unread.size_at_first_bytes):
            self._overdue_reader()

    # the budget

    @override
    def no_room(self) -> None:
        """End the request whose body arrives: others need its room, and send faster."""
        self._front.requests.ended()
        self._disarm()
        self._last_words(error_reply(self._no_room()))

    def _let_go(self) -> None:
        """Give back what the request under way had of the budget."""
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            self._front.budget.let_go(held_bytes)

    def _let_go_ahead(self) -> None:
        ahead_bytes, self._ahead_bytes = self._ahead_bytes, 0
        if ahead_bytes:
            self._front.budget.let_go(ahead_bytes)

    def _read_all(self) -> None:
        """The client has read its answers, or never will."""
        unread, self._unread = self._unread, None
        if unread is not None:
            self._front.budget.release(unread)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.drop()

    def _no_room(self) -> Overloaded:
        return Overloaded(self._front.budget.words_of_no_room(), 1.0)

    # what is written

    def _write(self, reply: Reply, *, is_last: bool) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        buffers = reply.buffers
        body_bytes = 0
        for buffer in buffers:
            body_bytes += buffer.nbytes if type(buffer) is memoryview else len(buffer)
        head = head_of(reply, self._front.head_end.line(is_last=is_last), body_bytes)
        if body_bytes <= JOINED_BYTES:
            transport.write(b"".join((head, *buffers)))
        else:
            transport.writelines((head, *buffers))
        if is_last:
            transport.close()

    def _last_words(self, reply: Reply) -> None:
        """Say so, and hang up when the client has, or soon: what it still sends would destroy the answer."""
        self._state = State.LEFT
        self._drop_body()
        self._rest = b""
        transport = self._transport
        if transport.is_closing():
            return
        statuses = self._front.requests.unread
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        body = b"".join(reply.buffers)
        transport.write(head_of(reply, self._front.head_end.line(is_last=True), len(body)) + body)
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self.used_s = self._front.now_s()
        self._arm(transport.close)

    # time

    def _arm(self, overdue: Callable[[], None], *, is_head: bool = False) -> None:
        if self._timer is None:
            front = self._front
            self._timer = front.after(front.head_s if is_head else front.arrival_s, overdue)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue_head(self) -> None:
        self._too_slow("the request's head", len(self._rest), None)

    def _overdue_body(self) -> None:
        body = self._body
        assert body is not None  # noqa: S101 - the timer is of its time
        if body.is_waiting:  # for the router, which cannot read it
            self.no_room()
            return
        self._front.requests.ended()
        self._too_slow("the request's body", body.filled_bytes, len(body.memory))

    def _overdue_reader(self) -> None:
        """A client that does not read must not keep its answers in memory."""
        self._transport.abort()

    def _too_slow(self, what: str, received_bytes: int, announced_bytes: int | None) -> None:
        self._timer = None
        text = too_slow_text(what, received_bytes, announced_bytes, self._front.arrival_s)
        self._last_words(Reply(408, {"Content-Type": JSON}, (error_body(text, code_of(408)),)))
