"""One call of a client, which is one stream of HTTP/2: messages come, are answered, and it ends. No IO of its own.

A unary call has one message. In a call of many, one is answered after the other, maybe in parts, in their order: while one
is under way the next stay in the client, whose window is not opened for them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    TooLarge,
)
from capamesh.router.grpc.arriving import ArrivingMessage, no_room_in
from capamesh.router.grpc.infer_answer import error_in_stream, framed
from capamesh.router.grpc.status import ANSWER_HEAD, OK_TRAILERS, error_trailers
from capamesh.router.grpc.unpacking import CODINGS, Unpacking, coding_refused
from capamesh.router.grpc.unread_parts import UnreadParts
from capamesh.router.http.errors import too_slow_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.router.access.keys import Key
    from capamesh.router.grpc.call_host import CallHost
    from capamesh.router.grpc.exchange import GrpcReply
    from capamesh.router.grpc.heads import CallHead
    from capamesh.router.grpc.http2 import Headers, Http2Session
    from capamesh.router.grpc.lookups import Method, Running
    from capamesh.router.http.body_budget import BodyBudget

_PREFIX_BYTES = 5
"""The bytes before a message: whether it is packed, and its length."""


class ServerCall:
    """One call."""

    __slots__ = (
        "_arriving",
        "_backlog",
        "_budget",
        "_deadline_s",
        "_has_answered",
        "_head",
        "_held_bytes",
        "_host",
        "_is_going_on",
        "_is_over",
        "_is_packed",
        "_key",
        "_message",
        "_method",
        "_prefix",
        "_running",
        "_session",
        "_stream",
        "_unread",
        "is_all_here",
        "since_s",
    )

    def __init__(
        self,
        host: CallHost,
        session: Http2Session,
        budget: BodyBudget,
        stream: int,
        head: CallHead,
        method: Method,
        key: Key | None,
        deadline_s: float,
        *,
        is_all_here: bool,
        now_s: float,
    ) -> None:
        self._host = host
        self._session = session
        self._budget = budget
        self._stream = stream
        self._head = head
        self._method = method
        self._key = key
        self._deadline_s = deadline_s
        self.is_all_here = is_all_here
        """The client has sent all that it will."""
        self.since_s = None if method.is_streamed else now_s
        """The time since when a message is awaited or coming; None: a call of many messages need not send one."""
        self._backlog: deque[memoryview] = deque()
        """The bytes that are not looked at yet; the client's window bounds them."""
        self._prefix = b""
        self._is_packed = False
        """True of the message that comes or is here if it is packed."""
        self._arriving: ArrivingMessage | None = None
        self._message: memoryview | None = None
        """The message of a unary call whose client has not said yet that it was the only one."""
        self._held_bytes = 0
        """The bytes that the request under way has of the budget."""
        self._running: Running | None = None
        self._unread: UnreadParts | None = None
        self._has_answered = False
        self._is_going_on = False
        self._is_over = False

    @property
    def is_idle(self) -> bool:
        """Return whether no request would be lost with it."""
        is_waiting = self._running is None or self._method.is_lasting
        return is_waiting and self.since_s is None and not self._backlog

    # what comes

    def on_data(self, pieces: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        """Take bytes of the client, which change once this has returned."""
        self.is_all_here = self.is_all_here or is_last
        for piece in pieces:
            rest = memoryview(piece)
            if not self._backlog and not self._is_going_on:
                rest = self._take_all(rest)
            if self._is_over:
                self._taken(len(rest))
            elif rest:
                self._backlog.append(memoryview(bytes(rest)))
        self.go_on()

    def go_on(self) -> None:
        """Look at what has come, as far as it is its turn."""
        if self._is_going_on:
            return
        while self._backlog:
            rest = self._take_all(self._backlog.popleft())
            if self._is_over:
                self._taken(len(rest))
            elif rest:
                self._backlog.appendleft(rest)
                break
        if self._arriving is not None:
            self._arriving.settle()
        if self.is_all_here and not self._backlog and self._may_go_on():
            self._end_of_request()

    def _may_go_on(self) -> bool:
        return (
            not self._is_over
            and self._running is None
            and not (self._method.is_streamed and self._host.is_clogged)
        )

    def _take_all(self, data: memoryview) -> memoryview:
        """Take of `data` what may be taken now; return the rest."""
        self._is_going_on = True
        try:
            while data and self._may_go_on():
                data = self._take(data)
        finally:
            self._is_going_on = False
        return data

    def _take(self, data: memoryview) -> memoryview:
        """Take of `data` what is of one message at most; return the rest."""
        if self._message is not None:
            self._fail(InvalidRequest(f"a second message came; {self._method.name} takes one"))
            return data
        arriving = self._arriving
        if arriving is not None:
            size_bytes = arriving.put(data)
            data = data[size_bytes:]
            if not arriving.left_bytes:
                arriving.settle()
                if self._arriving is arriving:
                    self._arrived(arriving)
            return data
        missing_bytes = _PREFIX_BYTES - len(self._prefix)
        self._prefix += bytes(data[:missing_bytes])
        self._session.taken(self._stream, min(missing_bytes, len(data)))
        data = data[missing_bytes:]
        if len(self._prefix) < _PREFIX_BYTES:
            return data
        prefix, self._prefix = self._prefix, b""
        size_bytes = int.from_bytes(prefix[1:], "big")
        most_bytes = self._host.front.inference.limits.max_message_bytes
        self._is_packed = prefix[0] != 0
        if self._is_packed and self._head.coding not in CODINGS:
            self._end(coding_refused(self._head.coding))
        elif size_bytes > most_bytes:
            self._fail(TooLarge(f"the message has {size_bytes} bytes; the limit is {most_bytes}"))
        elif len(data) < size_bytes:
            self._begin_to_arrive(size_bytes)
        elif self._budget.hold(size_bytes):
            self._held_bytes = size_bytes
            self._session.taken(self._stream, size_bytes)
            self._whole(memoryview(bytes(data[:size_bytes])))
            return data[size_bytes:]
        else:
            self._give_up()
        return data

    def _begin_to_arrive(self, size_bytes: int) -> None:
        site = self._host.site
        arriving = ArrivingMessage(self._budget, size_bytes, self._taken, self._give_up, site)
        if not self._budget.may_begin(size_bytes) or not arriving.begin():
            self._give_up()
            return
        self._arriving = arriving
        if self.since_s is None:
            self.since_s = self._host.front.now_s()

    def _arrived(self, arriving: ArrivingMessage) -> None:
        self._arriving = None
        if arriving.arrived():
            self._held_bytes = len(arriving.memory)
            self._whole(arriving.memory)
        else:
            arriving.drop()
            self._give_up()

    def _taken(self, size_bytes: int) -> None:
        self._session.taken(self._stream, size_bytes)
        self._host.flush_soon()

    def _whole(self, message: memoryview) -> None:
        """Answer a message, at once or when the client has said that it was the only one."""
        if self._method.is_streamed:
            self._begin(message)
        else:
            self._message = message

    def _end_of_request(self) -> None:
        """Act on the end of what the client sends: begin with the one message, or end a call of many."""
        message, self._message = self._message, None
        arriving = self._arriving
        if self._prefix or arriving is not None:
            come = len(self._prefix) if arriving is None else arriving.filled_bytes
            self._fail(InvalidRequest(f"the request ended within a message, behind {come} bytes"))
        elif message is not None:
            self._begin(message)
        elif self._method.is_streamed:
            self._end(OK_TRAILERS)
        else:
            text = f"the request ended without a message; {self._method.name} takes one"
            self._fail(InvalidRequest(text))

    # requests

    def _begin(self, message: memoryview) -> None:
        self.since_s = None
        if self._method.is_streamed:  # the key may have been revoked since the call began
            head, keys = self._head, self._host.front.keys
            try:
                self._key = keys.of_call(self._method.verbs, head.authorization, head.api_key)
            except CapameshError as error:
                self._fail(error.with_traceback(None))
                return
        if not self._method.is_lasting:
            self._host.front.requests.count += 1
        if self._is_packed:
            front, coding = self._host.front, self._head.coding
            self._running = unpacking = Unpacking(front, coding, self._unpacked, self._reply)
            unpacking.begin(message)
        else:
            self._run(message)

    def _run(self, message: memoryview) -> None:
        self._running = running = self._method.make(
            self._head, self._key, self._deadline_s, self._host.site, self._reply
        )
        running.begin(message)

    def _unpacked(self, message: memoryview) -> None:
        """Go on with a message that was packed; what it was packed in is not needed any more."""
        self._let_go()
        self._held_bytes = len(message)
        self._run(message)

    def _reply(self, reply: GrpcReply) -> None:
        if not reply.is_last:
            self._send(reply.headers, reply.pieces)
            if reply.part is not None:
                self._unread = unread = self._unread or UnreadParts(self._host, self._stream)
                unread.sent(reply.part)
            return
        self._ended()
        if self._method.is_streamed and (self._method.is_tritons or reply.error is None):
            self._reply_in_stream(reply)
        elif reply.error is None:
            session, stream = self._session, self._stream
            head = (*ANSWER_HEAD, *reply.headers)
            pieces = framed(reply.pieces, is_packed=reply.is_packed)
            if len(pieces) == 1:
                session.answer(stream, head, pieces[0], reply.trailers)
            else:
                session.start_answer(stream, head)
                for piece in pieces:
                    session.send(stream, piece)
                session.end_answer(stream, reply.trailers)
            self._leave()
        else:
            self._end(reply.trailers)

    def _reply_in_stream(self, reply: GrpcReply) -> None:
        """Send one of many answers, an error too as a message unless the client wants it as the status."""
        if reply.error is None:
            self._send(reply.headers, reply.pieces)
        elif self._head.wants_status:
            self._end(reply.trailers)
        else:
            self._send((), error_in_stream(reply.error.message, reply.request_id))
        self.go_on()

    def _ended(self) -> None:
        """Forget the request under way, which is over."""
        self._running = None
        self._let_go()
        if not self._method.is_lasting:
            self._host.front.requests.ended()

    def _send(self, headers: Headers, pieces: Sequence[bytes | memoryview]) -> None:
        """Send one of many messages."""
        session, stream = self._session, self._stream
        if not self._has_answered:
            self._has_answered = True
            session.start_answer(stream, (*ANSWER_HEAD, *headers))
        for piece in framed(pieces):
            session.send(stream, piece)
        self._host.flush_soon()

    # the end of it

    def _fail(self, error: CapameshError) -> None:
        """End with an error before there is a request."""
        self._end(error_trailers(error))

    def _end(self, trailers: Headers) -> None:
        """End with a status."""
        if self._is_over:
            return
        if not self._has_answered:
            head = (*ANSWER_HEAD, *trailers)
            self._session.refuse(self._stream, head, is_all_here=self.is_all_here)
        else:
            self._session.end_answer(self._stream, trailers)
        self._leave()

    def _leave(self) -> None:
        """Hold nothing any more, for all of the answer is sent."""
        self._drop()
        self._host.over(self._stream)
        self._host.flush_soon()

    def cancel(self) -> None:
        """Withdraw what is under way, for the client has left."""
        running = self._running
        if running is not None:
            self._ended()
            running.cancel()
        self._drop()

    def overdue(self, limit_s: float) -> None:
        """End, for the client has not sent a whole message in time."""
        arriving = self._arriving
        if arriving is not None and arriving.is_waiting:  # for the router, which has no room
            self._give_up()
            return
        come_bytes = len(self._prefix) if arriving is None else arriving.filled_bytes
        whole_bytes = None if arriving is None else len(arriving.memory)
        text = too_slow_text("the request's message", come_bytes, whole_bytes, limit_s)
        self._fail(DeadlineExceeded(text))

    def _drop(self) -> None:
        """Give back all that is held, and open the connection's window for what was not looked at."""
        self._is_over = True
        self.since_s = None
        self._let_go()
        arriving, self._arriving = self._arriving, None
        unseen_bytes = sum(map(len, self._backlog)) if self._backlog else 0
        if arriving is not None:
            unseen_bytes += arriving.owed_bytes
            arriving.drop()
        self._message = None
        if self._unread is not None:
            self._unread.clear()
        self._backlog.clear()
        if unseen_bytes:
            self._session.taken(self._stream, unseen_bytes)

    def _let_go(self) -> None:
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            self._budget.let_go(held_bytes)

    def _give_up(self) -> None:
        """End, for there is no room for its message, or others need it and send faster."""
        self._fail(no_room_in(self._budget))
