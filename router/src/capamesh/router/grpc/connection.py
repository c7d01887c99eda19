"""gRPC on one connection of the front: HTTP/2 below, calls above, and an end for who wears the router out. IO: asyncio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.router.grpc.call_host import CallHost
from capamesh.router.grpc.calls import ServerCall
from capamesh.router.grpc.http2 import (
    MAX_STREAMS,
    ErrorCode,
    Headers,
    Http2Session,
    Misbehaved,
    StreamEvents,
    goaway,
)
from capamesh.router.grpc.status import ANSWER_HEAD, error_trailers
from capamesh.router.grpc.unsent import UnsentAnswers
from capamesh.router.http.calm import Calm
from capamesh.router.http.guests import Guest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from capamesh.router.grpc.context import GrpcContext
    from capamesh.router.grpc.heads import CallHead
    from capamesh.router.grpc.lookups import Method
    from capamesh.router.http.guests import Host

CLOGGED_BYTES: Final = 2**20
"""The bytes of answers that may wait for a client's windows before no more is asked for it in streams (guess)."""
_NOT_GRPC: Final = ((b":status", b"415"), (b"content-type", b"text/plain"))


class GrpcConnection(Guest, StreamEvents, CallHost):
    """One connection of a client that speaks HTTP/2."""

    __slots__ = (
        "_calls",
        "_calm",
        "_ended",
        "_host",
        "_is_closing",
        "_is_flush_due",
        "_is_over",
        "_is_paused",
        "_is_receiving",
        "_last_call",
        "_last_headers",
        "_now_s",
        "_server",
        "_timer",
        "_unsent",
        "_waiting",
        "front",
        "session",
        "site",
    )

    def __init__(self, server: GrpcContext, host: Host) -> None:
        self._server = server
        self._host = host
        self.site = host.site
        self.front = front = server.front
        self.session: Http2Session = server.make_session()
        self._calls: dict[int, ServerCall] = {}
        self._last_headers: Headers = ()
        """The headers of the newest call that named no time, as the session told them; with what they say."""
        self._last_call: tuple[CallHead, Method] | None = None
        self._now_s = 0.0
        """The time of the newest read."""
        self._calm = Calm(front.now_s())
        self._unsent = UnsentAnswers(front.budget, self._unread)
        self._waiting: dict[Callable[[], None], None] = {}
        """The ones to call when the client has read more."""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = 0
        """The calls that have ended since all was written."""
        self._is_receiving = False
        self._is_flush_due = False
        self._is_paused = False
        self._is_closing = False
        """The client was told to open no more streams."""
        self._is_over = False

    @override
    def __repr__(self) -> str:
        return f"GrpcConnection({len(self._calls)} calls)"

    # for the front

    @property
    @override
    def takes_large_reads(self) -> bool:
        return True

    @property
    @override
    def is_idle(self) -> bool:
        return not self._calls and not self.session.unsent_bytes

    @property
    @override
    def is_dispensable(self) -> bool:
        return not self.session.unsent_bytes and all(call.is_idle for call in self._calls.values())

    @override
    def received(self, data: memoryview) -> None:
        if self._is_over:
            return
        self._is_receiving = True
        self._host.used_s = self._now_s = self.front.now_s()
        try:
            self.session.receive(data, self)
        except Misbehaved as error:
            self._misbehaved(error.last_words)
            return
        finally:
            self._is_receiving = False
        if not self._is_over:
            self._flush()

    @override
    def lost(self) -> None:
        self._finish()

    @override
    def paused(self) -> None:
        self._is_paused = True

    @override
    def resumed(self) -> None:
        self._is_paused = False
        if not self._is_over:
            self._flush(was_clogged=True)

    @override
    def ask_to_leave(self) -> None:
        if not (self._is_over or self._is_closing):
            self._say_goodbye()
            self._flush()

    @override
    def leave(self) -> None:
        if not self._is_over:
            if not self._is_closing:
                self._say_goodbye()
            self._write()

    # StreamEvents

    @override
    def on_request(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        if self._is_over:
            return
        if len(self._calls) >= MAX_STREAMS or self._is_closing:
            self.session.reset(stream, ErrorCode.REFUSED_STREAM)
            return
        if headers is self._last_headers and self._last_call is not None:
            head, method = self._last_call
            time_s = None
        else:
            try:
                head, time_s = self._server.heads.read(headers)
            except InvalidRequest as error:
                self._refuse(stream, (*ANSWER_HEAD, *error_trailers(error)), is_whole=is_whole)
                return
            if not head.is_grpc:
                self._refuse(stream, _NOT_GRPC, is_whole=is_whole)
                return
            found = self._server.methods.find(head.path)
            if found is None:
                trailers = self._server.methods.missing(head.path)
                self._refuse(stream, (*ANSWER_HEAD, *trailers), is_whole=is_whole)
                return
            method = found
            if time_s is None and head.refusal is None:
                self._last_headers, self._last_call = headers, (head, method)
        try:
            key = self.front.keys.of_call(method.verbs, head.authorization, head.api_key)
            if head.refusal is not None:
                raise head.refusal
        except CapameshError as error:
            told = error_trailers(error.with_traceback(None))
            self._refuse(stream, (*ANSWER_HEAD, *told), is_whole=is_whole)
            return
        deadline_s = math.inf if time_s is None else self._server.clock() + time_s
        self._calls[stream] = call = ServerCall(
            self,
            self.session,
            self.front.budget,
            stream,
            head,
            method,
            key,
            deadline_s,
            is_all_here=is_whole,
            now_s=self._now_s,
        )
        if is_whole:
            call.go_on()

    @override
    def on_data(self, stream: int, pieces: Sequence[bytes | memoryview], *, is_last: bool) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.on_data(pieces, is_last=is_last)
        elif pieces:
            self.session.taken(stream, sum(map(len, pieces)))

    @override
    def on_gone(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.cancel()

    @override
    def on_noise(self) -> None:
        if not self._is_over and not self._calm.spend(self.front.now_s()):
            text = "too many resets, pings, settings or window updates for what is asked"
            self._misbehaved(goaway(self.session.last_stream, ErrorCode.ENHANCE_YOUR_CALM, text))

    # CallHost

    @property
    @override
    def is_clogged(self) -> bool:
        return self._is_paused or self.session.unsent_bytes > CLOGGED_BYTES

    @override
    def flush_soon(self) -> None:
        if not (self._is_receiving or self._is_flush_due or self._is_over):
            self._is_flush_due = True
            self.front.soon(self._flush_now)

    @override
    def await_room(self, look: Callable[[], None]) -> None:
        self._waiting[look] = None

    @override
    def over(self, stream: int) -> None:
        self._calls.pop(stream, None)
        self._ended += 1

    # what is written

    def _refuse(self, stream: int, headers: Headers, *, is_whole: bool) -> None:
        self.session.refuse(stream, headers, is_all_here=is_whole)

    def _say_goodbye(self) -> None:
        self._is_closing = True
        self.session.go_away()

    def _flush_now(self) -> None:
        self._is_flush_due = False
        if not self._is_over:
            self._flush()

    def _flush(self, *, was_clogged: bool = False) -> None:
        """Write what may be written, go on with calls that waited for that, and see who is to be waited for."""
        if self._ended:
            self._calm.earn_calls(self._ended)
            self._ended = 0
            self._host.used_s = self.front.now_s()
            if self.front.requests.is_closing and not self._is_closing:
                self._say_goodbye()
        was_clogged = was_clogged or self.is_clogged
        self._write()
        unsent_bytes = self.session.unsent_bytes
        if was_clogged or unsent_bytes or self._unsent.size_bytes:
            if not self._unsent.has(unsent_bytes):
                self._unread()
                return
            if not self.is_clogged:
                for call in [*self._calls.values()]:
                    call.go_on()
                self._write()
        if self._waiting and not self.is_clogged:
            waiting, self._waiting = self._waiting, {}
            for look in waiting:
                look()
        if not self._calls and (self._is_closing or self.session.has_left) and not unsent_bytes:
            self._is_over = True
            self._host.transport.close()
            self._finish()
            return
        if self._timer is None and (unsent_bytes or self._is_waiting()):
            self._timer = self.front.after(self.front.arrival_s, self._look)

    def _is_waiting(self) -> bool:
        """Return whether a message of some call is awaited or coming."""
        for call in self._calls.values():  # noqa: SIM110 - as many as are open, at each write
            if call.since_s is not None:
                return True
        return False

    def _write(self) -> None:
        if self._is_paused:
            return
        data = self.session.to_send()
        if data and not self._host.transport.is_closing():
            self._calm.earn(len(data))
            self._host.transport.write(data)

    # time

    def _look(self) -> None:
        """End calls whose messages are overdue, and the connection of a client that does not read."""
        self._timer = None
        front = self.front
        now_s = front.now_s()
        for call in [*self._calls.values()]:
            if call.since_s is not None and now_s - call.since_s >= front.arrival_s:
                call.overdue(front.arrival_s)
        if self._unsent.is_stuck():
            self._unread()
        elif not self._is_over:
            self._flush()

    # the end of it

    def _unread(self) -> None:
        """A client that does not read must not keep its answers in memory."""
        text = "the answers are not read"
        self._misbehaved(goaway(self.session.last_stream, ErrorCode.ENHANCE_YOUR_CALM, text))

    def _misbehaved(self, last_words: bytes) -> None:
        """Say so, and hang up."""
        if self._is_over:
            return
        self._server.misbehaved += 1
        transport = self._host.transport
        if not transport.is_closing():
            transport.write(last_words)
            transport.close()
        self._finish()

    def _finish(self) -> None:
        """Withdraw all that is under way, and give back what is held."""
        self._is_over = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.cancel()
        self._unsent.drop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
