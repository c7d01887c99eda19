"""One stream: its messages become requests, answered one after the other, in their order. No IO of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, Overloaded, TooLarge
from capamesh.protocol.oip import json_refusal
from capamesh.router.http.client_side import NO_ROOM
from capamesh.router.http.errors import error_reply, too_slow_text
from capamesh.router.http.exchange import JSON_WEIGHT
from capamesh.router.ws import closing
from capamesh.router.ws.arriving import ArrivingMessage
from capamesh.router.ws.frames import Kind
from capamesh.router.ws.messages import answer_message, error_message, is_end, split
from capamesh.router.ws.request import StreamRequest
from capamesh.router.ws.sequence import StreamSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.http.replies import Reply
    from capamesh.router.ws.context import StreamContext
    from capamesh.router.ws.frames import Part
    from capamesh.router.ws.handshake import StreamHead


class StreamHost(Protocol):
    """The connection of a stream, as the stream sees it."""

    __slots__ = ()

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send a message."""

    def close(self, code: int, reason: str) -> None:
        """Close, behind all that was sent."""

    def go_on(self) -> None:
        """Look at what has come, for it is its turn now."""


class Stream:
    """The stream of one connection."""

    __slots__ = (
        "_answered",
        "_arriving",
        "_context",
        "_head",
        "_held_bytes",
        "_host",
        "_running",
        "_sequence",
    )

    def __init__(
        self, host: StreamHost, context: StreamContext, head: StreamHead, offer: ModelOffer | None
    ) -> None:
        """`offer` describes the model; None: no node has it ready yet."""
        self._host = host
        self._context = context
        self._head = head
        is_sequence = offer is not None and offer.scheduling is Scheduling.SEQUENCE
        self._sequence = StreamSequence() if is_sequence else None
        self._arriving: ArrivingMessage | None = None
        self._running: StreamRequest | None = None
        self._held_bytes = 0
        """The bytes that the request under way has of the budget."""
        self._answered = 0

    @property
    def is_busy(self) -> bool:
        """Return whether a request is under way or a part of one is here."""
        return self._running is not None or self._arriving is not None

    @property
    def may_take(self) -> bool:
        """Return whether it is the next message's turn, and there is room for more of it."""
        return self._running is None and (self._arriving is None or not self._arriving.is_waiting)

    # what comes

    def take(self, part: Part) -> None:
        """Take a part of a message, when `may_take`."""
        arriving = self._arriving
        filled_bytes = len(part.data) + (0 if arriving is None else arriving.filled_bytes)
        is_text = part.kind is Kind.TEXT
        error = self._refusal(filled_bytes, is_text=is_text)
        if error is not None:
            self._end(error, closing.TOO_LARGE)
        elif arriving is None and part.is_last:
            held_bytes = filled_bytes * (JSON_WEIGHT if is_text else 1)
            if self._context.front.budget.hold(held_bytes):
                self._held_bytes = held_bytes
                self._begin(memoryview(part.data), is_text=is_text)
            else:
                self._no_room()
        else:
            self._take_part(part, is_text=is_text)

    def _refusal(self, size_bytes: int, *, is_text: bool) -> TooLarge | None:
        limits = self._context.inference.limits
        if is_text:
            return json_refusal(size_bytes, limits)
        if size_bytes <= limits.max_message_bytes:
            return None
        return TooLarge(
            f"the message has {size_bytes} bytes or more; the limit is {limits.max_message_bytes}"
        )

    def _take_part(self, part: Part, *, is_text: bool) -> None:
        """Take a part of a message that is not here at once."""
        front, arriving = self._context.front, self._arriving
        if arriving is None:
            arriving = ArrivingMessage(
                front.budget,
                self._host.go_on,
                self._no_room,
                is_text=is_text,
                since_s=front.now_s(),
            )
            if not arriving.begin():
                self._no_room()
                return
            self._arriving = arriving
        arriving.add(part.data)
        if part.is_last and self._arriving is arriving:
            self._arriving = None
            held_bytes = arriving.filled_bytes * (JSON_WEIGHT if is_text else 1)
            message = arriving.arrived(held_bytes)
            if message is None:
                self._no_room()
            else:
                self._held_bytes = held_bytes
                self._begin(message, is_text=is_text)

    # requests

    def _begin(self, message: memoryview, *, is_text: bool) -> None:
        """Act on a whole message."""
        if is_text and is_end(message):
            self._let_go()
            self._host.close(closing.DONE, "")
            return
        running = self._start()
        if running is None:
            return
        try:
            body, json_bytes = (message, None) if is_text else split(message)
        except CapameshError as error:
            running.crash(error.with_traceback(None))
        else:
            running.begin(body, json_bytes)

    def _start(self) -> StreamRequest | None:
        """Return a new request, which is under way; None: its key is not taken any more."""
        context = self._context
        try:
            target = context.target(self._head)
        except CapameshError as error:
            self._end(error.with_traceback(None), closing.POLICY)
            return None
        context.front.requests.count += 1
        self._running = StreamRequest(context.inference, target, self._marked, self._reply)
        return self._running

    def _marked(self, asked: InferRequest) -> InferRequest:
        return asked if self._sequence is None else self._sequence.marked(asked)

    def _reply(self, reply: Reply) -> None:
        running, self._running = self._running, None
        self._let_go()
        self._context.front.requests.ended()
        if self._sequence is not None:
            self._sequence.replied(reply)
        if reply.status == 200:
            self._answered += 1
            self._host.send(answer_message(reply))
        else:
            asked_id = "" if running is None else running.asked_id
            self._host.send(error_message(reply, self._answered, asked_id))
        self._host.go_on()

    # the end of it

    def cancel(self) -> None:
        """Withdraw what is under way, and give back all that is held."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            self._context.front.requests.ended()
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.drop()
        self._let_go()

    def look(self, now_s: float) -> None:
        """End with a client that does not send the rest of a message in time."""
        arriving, limit_s = self._arriving, self._context.front.arrival_s
        if arriving is None or now_s - arriving.since_s < limit_s:
            return
        if arriving.is_waiting:  # for the router, which has no room
            self._no_room()
            return
        text = too_slow_text("a message", arriving.filled_bytes, None, limit_s)
        self._end(DeadlineExceeded(text), closing.POLICY)

    def _no_room(self) -> None:
        budget = self._context.front.budget
        text = NO_ROOM.format(used=budget.used_bytes, most=budget.most_bytes)
        self._end(Overloaded(text, 1.0), closing.TRY_LATER)

    def _end(self, error: CapameshError, code: int) -> None:
        """Tell of an error that is not one request's, and close."""
        self._context.inference.refused(self._head.model, error)
        self._host.send(error_message(error_reply(error), self._answered, ""))
        self._host.close(code, error.message)

    def _let_go(self) -> None:
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            self._context.front.budget.let_go(held_bytes)
