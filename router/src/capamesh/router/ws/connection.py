"""A WebSocket on one connection of the front: frames below, a stream above, and an end for who is silent or wears it out. IO: asyncio."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.router.http.calm import Calm
from capamesh.router.http.guests import Guest
from capamesh.router.ws import closing
from capamesh.router.ws.frames import Frames, Kind, Part
from capamesh.router.ws.stream import Stream, StreamHost

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.http.guests import Host
    from capamesh.router.ws.context import StreamContext
    from capamesh.router.ws.handshake import StreamHead

JOINED_BYTES: Final = 64 * 1024
"""A message up to that is copied into one piece before it is sent (guess: as answers over HTTP)."""
AHEAD_BYTES: Final = 16 * 1024
"""The bytes that are read ahead of the request under way (guess): a client that leaves is noticed only while it is read from."""
PING_S: Final = 20.0
"""Seconds of silence after which a client is pinged, and after as many again given up (guess: half of what proxies bear)."""
IDLE_S: Final = 300.0
"""Seconds without a message after which a stream is closed (guess: a call on hold)."""
LINGER_S: Final = 1.0
"""Seconds for which a client has time to read why it is closed: what it still sends would destroy that (guess)."""


class StreamConnection(Guest, StreamHost):
    """One connection of a client that speaks WebSocket."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_calm",
        "_close_timer",
        "_context",
        "_frames",
        "_heard_s",
        "_host",
        "_is_closing",
        "_is_going_on",
        "_is_over",
        "_is_paused",
        "_is_reading_paused",
        "_message_s",
        "_part",
        "_stream",
        "_timer",
    )

    def __init__(
        self, context: StreamContext, host: Host, head: StreamHead, offer: ModelOffer | None
    ) -> None:
        """Tell the client that it speaks WebSocket now."""
        self._context = context
        self._host = host
        front = context.front
        self._heard_s = self._message_s = now_s = front.now_s()
        self._frames = Frames()
        self._stream = Stream(self, context, head, offer)
        self._calm = Calm(now_s)
        self._backlog: deque[bytes] = deque()
        """The bytes that are not looked at yet."""
        self._backlog_bytes = 0
        self._part: Part | None = None
        """The part of a message that waits for its turn."""
        self._is_going_on = False
        self._is_paused = False
        """The client reads slowly."""
        self._is_reading_paused = False
        self._is_closing = False
        """The frame that closes was sent."""
        self._is_over = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        context.open += 1
        host.transport.write(head.accepted)
        self._look_later()

    @override
    def __repr__(self) -> str:
        return f"StreamConnection({self._backlog_bytes} bytes kept)"

    # for the front

    @property
    @override
    def takes_large_reads(self) -> bool:
        return False

    @property
    @override
    def is_idle(self) -> bool:
        return False  # it looks after that itself

    @property
    @override
    def is_dispensable(self) -> bool:
        return not (self._stream.is_busy or self._backlog or self._part)

    @override
    def received(self, data: memoryview) -> None:
        if self._is_over:
            return
        self._heard_s = self._host.used_s = self._context.front.now_s()
        self._backlog.append(bytes(data))
        self._backlog_bytes += len(data)
        self._go_on()
        if self._backlog_bytes > AHEAD_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._host.transport.pause_reading()

    @override
    def lost(self) -> None:
        self._finish()

    @override
    def paused(self) -> None:
        self._is_paused = True

    @override
    def resumed(self) -> None:
        self._is_paused = False
        self._stream.read_on()
        self._go_on()

    @override
    def ask_to_leave(self) -> None:
        if not self._stream.is_busy:  # else behind its answer
            self.leave()

    @override
    def leave(self) -> None:
        self.close(closing.GOING_AWAY, "the router stops")

    # StreamHost

    @property
    @override
    def site(self) -> str:
        return self._host.site

    @property
    @override
    def is_paused(self) -> bool:
        return self._is_paused

    @override
    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        transport = self._host.transport
        if self._is_closing or transport.is_closing():
            return
        size_bytes = sum(map(len, pieces))
        self._calm.earn()
        self._host.used_s = self._message_s = self._context.front.now_s()
        if size_bytes <= JOINED_BYTES:
            transport.write(b"".join(pieces))
        else:
            transport.writelines(pieces)

    @override
    def close(self, code: int, reason: str) -> None:
        if self._is_closing or self._is_over:
            return
        self._is_closing = True
        self._stream.cancel()
        transport = self._host.transport
        if not transport.is_closing():
            transport.write(self._frames.close(code, reason))
        self._drop_backlog()
        self._read_again()
        self._close_timer = self._context.front.after(LINGER_S, self._hang_up)

    @override
    def go_on(self) -> None:
        if self._context.front.requests.is_closing:
            self.leave()
        self._go_on()

    # what comes

    def _go_on(self) -> None:
        """Look at what has come, as far as it is its turn."""
        if self._is_going_on or self._is_over:
            return
        self._is_going_on = True
        try:
            while self._may_go_on():
                part, self._part = self._part or self._next(), None
                if part is not None and (part.is_control or self._is_closing):
                    self._take_control(part)
                elif part is not None and self._stream.may_take:
                    self._part = self._stream.take(part)
                elif part is not None:
                    self._part = part
                    break
                elif self._backlog:
                    data = self._backlog.popleft()
                    self._backlog_bytes -= len(data)
                    self._frames.feed(data)
                else:
                    break
        finally:
            self._is_going_on = False
        if self._backlog_bytes <= AHEAD_BYTES:
            self._read_again()

    def _read_again(self) -> None:
        if self._is_reading_paused and not self._host.transport.is_closing():
            self._is_reading_paused = False
            self._host.transport.resume_reading()

    def _may_go_on(self) -> bool:
        return not self._is_over and (self._is_closing or not self._is_paused)

    def _next(self) -> Part | None:
        """Return what is next in the client's bytes; None: more of them are needed."""
        part = self._frames.next()
        if part is not None and not part.is_control:
            self._message_s = self._heard_s
            if part.data:
                self._calm.earn(len(part.data))
            if not part.is_last and not self._is_calm():
                return None
        return part

    def _take_control(self, part: Part) -> None:
        """Take what is no part of a message, or comes behind the frame that closes."""
        kind = part.kind
        if kind is Kind.BROKEN:
            self._misbehaved(part.code, part.data.decode("utf-8", "replace"))
        elif kind is Kind.CLOSE:
            self._closed(part.code)
        elif part.is_control and not self._is_closing and self._is_calm() and kind is Kind.PING:
            self._host.transport.write(self._frames.pong(part.data))

    def _is_calm(self) -> bool:
        """Count a frame that comes to nothing; close with who sends too many of them, and return False then."""
        if self._calm.spend(self._context.front.now_s()):
            return True
        self._misbehaved(
            closing.POLICY, "too many pings, pongs or parts of messages for what is asked"
        )
        return False

    # time

    def _look_later(self) -> None:
        front = self._context.front
        self._timer = front.after(min(PING_S, front.arrival_s), self._look)

    def _look(self) -> None:
        """See whether the client is there and sends what it has begun."""
        self._timer = None
        if self._is_over or self._is_closing:
            return
        now_s = self._context.front.now_s()
        self._stream.look(now_s)
        silent_s = 0.0 if self._is_reading_paused else now_s - self._heard_s
        if silent_s >= 2 * PING_S:
            self._host.transport.abort()
            return
        if not self._stream.is_busy and now_s - self._message_s >= IDLE_S:
            self.close(closing.GOING_AWAY, f"no message came for {IDLE_S:g} s")
        elif silent_s >= PING_S and not self._is_paused and not self._is_closing:
            self._host.transport.write(self._frames.ping())
        self._look_later()

    # the end of it

    def _closed(self, code: int) -> None:
        """Answer a client that closes, or has answered, and hang up."""
        last_words = b"" if self._is_closing else self._frames.close(code, "")
        if last_words and not self._host.transport.is_closing():
            self._host.transport.write(last_words)
        self._hang_up()

    def _misbehaved(self, code: int, reason: str) -> None:
        if not self._is_closing:
            self._context.misbehaved += 1
            self.close(code, reason)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        self._host.transport.close()
        self._finish()

    def _drop_backlog(self) -> None:
        self._part = None
        self._backlog.clear()
        self._backlog_bytes = 0

    def _finish(self) -> None:
        """Withdraw all that is under way, and give back what is held."""
        if self._is_over:
            return
        self._is_over = True
        self._context.open -= 1
        self._stream.cancel()
        self._drop_backlog()
        for timer in (self._timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._close_timer = None
