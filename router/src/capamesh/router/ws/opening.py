"""A stream whose model is loaded for it: its client is answered once that can be had. IO: that of its connection, links.

Until then it is a request of HTTP: what came of the load is its status, and whoever waits has a place among the cold starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, Draining
from capamesh.router.http.errors import error_reply
from capamesh.router.http.guests import Guest
from capamesh.router.requests.described_model import ModelWait
from capamesh.router.ws.connection import AHEAD_BYTES, StreamConnection

if TYPE_CHECKING:
    from capamesh.router.http.guests import Host
    from capamesh.router.ws.context import StreamContext
    from capamesh.router.ws.handshake import StreamHead


class OpeningStream(Guest):
    """One connection of a client that asks for a stream, and then the guest that stands for that stream."""

    __slots__ = (
        "_context",
        "_head",
        "_host",
        "_is_reading_paused",
        "_is_waiting",
        "_kept",
        "_stream",
        "_wait",
    )

    def __init__(self, context: StreamContext, host: Host, head: StreamHead) -> None:
        self._context = context
        self._host = host
        self._head = head
        self._wait = ModelWait(self._ended)
        self._is_waiting = False
        self._kept = bytearray()
        """The bytes that have come meanwhile: a client may send before it is answered."""
        self._is_reading_paused = False
        self._stream: StreamConnection | None = None
        """The stream; None: it is not open yet, or never will be."""

    @override
    def __repr__(self) -> str:
        return f"OpeningStream({len(self._kept)} bytes kept, {self._stream!r})"

    def begin(self) -> None:
        """Have the model loaded.

        Raises:
            CapameshError: the reason why that does not help; `TooManyRequests`: the key is over a limit.
        """
        context = self._context
        service, target = context.inference, context.target(self._head)
        self._wait.begin(service, target, service.routing.clock() + service.timeout_s)
        self._is_waiting = True
        context.front.requests.count += 1

    # for the front

    @property
    @override
    def takes_large_reads(self) -> bool:
        return False

    @property
    @override
    def is_idle(self) -> bool:
        return False  # the wait has an end of its own

    @property
    @override
    def is_dispensable(self) -> bool:
        return self._stream.is_dispensable if self._stream is not None else not self._is_waiting

    @override
    def received(self, data: memoryview) -> None:
        if self._stream is not None:
            self._stream.received(data)
        elif self._is_waiting:
            self._kept += data
            if len(self._kept) > AHEAD_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._host.transport.pause_reading()

    @override
    def lost(self) -> None:
        if self._stream is not None:
            self._stream.lost()
        elif self._is_waiting:
            self._over()
            self._wait.cancel()

    @override
    def paused(self) -> None:
        if self._stream is not None:
            self._stream.paused()

    @override
    def resumed(self) -> None:
        if self._stream is not None:
            self._stream.resumed()

    @override
    def ask_to_leave(self) -> None:
        if self._stream is not None:  # else behind its answer
            self._stream.ask_to_leave()

    @override
    def leave(self) -> None:
        if self._stream is not None:
            self._stream.leave()
        elif self._is_waiting:
            self._over()
            self._wait.cancel()
            self._refuse(Draining("the router stops; ask another"))

    # the wait

    def _ended(self, error: CapameshError | None) -> None:
        """Open the stream, now that its model can be had, or say why it cannot."""
        self._over()
        context, host, head = self._context, self._host, self._head
        if error is None:
            self._wait.give_back()  # each of its requests is charged
            try:
                context.target(head)  # its key may have been revoked since
                self._stream = StreamConnection(context, host, head, context.offer(head))
            except CapameshError as caught:
                error = caught.with_traceback(None)
        if error is not None:
            self._refuse(error)
            return
        kept, self._kept = self._kept, bytearray()
        if self._is_reading_paused:
            host.transport.resume_reading()
        if kept and self._stream is not None:
            self._stream.received(memoryview(kept))
        if context.front.requests.is_closing:
            self.leave()

    def _refuse(self, error: CapameshError) -> None:
        self._kept.clear()
        self._context.inference.refused(self._head.model, error)
        self._host.refuse(error_reply(error))

    def _over(self) -> None:
        self._is_waiting = False
        self._context.front.requests.ended()
