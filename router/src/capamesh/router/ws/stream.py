"""One stream: its messages become requests, answered one after the other, in their order. No IO of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, Overloaded, TooLarge
from capamesh.protocol.oip import json_refusal
from capamesh.router.http.errors import error_reply, too_slow_text
from capamesh.router.http.exchange import JSON_WEIGHT
from capamesh.router.requests.parameters import SEQUENCE_END
from capamesh.router.ws import closing
from capamesh.router.ws.arriving import ArrivingMessage, no_room
from capamesh.router.ws.frames import Kind, Part
from capamesh.router.ws.handshake import REQUESTS
from capamesh.router.ws.messages import answer_message, error_message, is_end, split
from capamesh.router.ws.request import StreamRequest
from capamesh.router.ws.samples import Samples
from capamesh.router.ws.sequence import OK, StreamSequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.http.replies import Reply
    from capamesh.router.requests.call import Part as AnswerPart
    from capamesh.router.ws.context import StreamContext
    from capamesh.router.ws.handshake import StreamHead

LATER: Final = frozenset({429, 503})
"""The statuses of what may go well later."""
MOST_MISSED: Final = 2
"""Windows in a row that are not answered before a stream is closed: the first may be its node's end, the second is of another's."""


class StreamHost(Protocol):
    """The connection of a stream, as the stream sees it."""

    __slots__ = ()

    @property
    def site(self) -> str:
        """Return the site of the client's address."""
        ...

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send a message."""

    @property
    def is_paused(self) -> bool:
        """Return whether the client reads more slowly than is sent."""
        ...

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
        "_is_last",
        "_is_silent",
        "_is_window",
        "_missed",
        "_running",
        "_samples",
        "_sequence",
        "_unread",
        "_windows",
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
        self._samples: Samples | None = None
        if offer is not None and offer.windows is not None and head.messages != REQUESTS:
            budget = context.front.budget
            self._samples = Samples(
                offer.windows, offer, budget, host.go_on, self._no_room, host.site
            )
        self._windows = 0
        """The windows that were run."""
        self._is_window = False
        """True while the request under way is a window."""
        self._is_last = False
        """True once nothing comes behind the request under way."""
        self._is_silent = False
        """True while the request under way only ends the sequence: its answer is nobody's."""
        self._unread: list[AnswerPart] = []
        """The parts of the answer under way that were sent and are not released, for the client reads slowly."""
        self._missed = 0
        """The windows in a row that were not answered."""

    @property
    def is_busy(self) -> bool:
        """Return whether a request is under way or a part of one is here."""
        return self._running is not None or self._arriving is not None

    @property
    def may_take(self) -> bool:
        """Return whether it is the next message's turn, and there is room for more of it."""
        return (
            self._running is None
            and (self._arriving is None or not self._arriving.is_waiting)
            and (self._samples is None or not self._samples.is_waiting)
        )

    # what comes

    def take(self, part: Part) -> Part | None:
        """Take a part of a message, when `may_take`; return what of it is not taken yet."""
        if self._samples is not None and part.kind is Kind.BINARY:
            return self._take_samples(self._samples, part)
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
        return None

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
                site=self._host.site,
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
            self._end_of_input()
            return
        running = self._start(self._send_part if self._head.takes_parts else None)
        if running is None:
            return
        try:
            body, json_bytes = (message, None) if is_text else split(message)
        except CapameshError as error:
            running.crash(error.with_traceback(None))
        else:
            running.begin(body, json_bytes)

    def _start(
        self, on_part: Callable[[Reply, AnswerPart], None] | None = None
    ) -> StreamRequest | None:
        """Return a new request, which is under way; None: its key is not taken any more."""
        context = self._context
        try:
            target = context.target(self._head)
        except CapameshError as error:
            self._end(error.with_traceback(None), closing.POLICY)
            return None
        context.front.requests.count += 1
        self._running = StreamRequest(
            context.inference, target, self._marked, self._reply, on_part, self._host.site
        )
        return self._running

    def _marked(self, asked: InferRequest) -> InferRequest:
        return asked if self._sequence is None else self._sequence.marked(asked)

    def _send_part(self, reply: Reply, part: AnswerPart) -> None:
        """Send a part of the answer under way; its node sends more once the client has taken it, or nearly so."""
        self._host.send(answer_message(reply))
        if self._host.is_paused:
            self._unread.append(part)
        else:
            part.release()

    def read_on(self) -> None:
        """Let the node of the answer under way send more: the client has read what was sent."""
        unread, self._unread = self._unread, []
        for part in unread:
            part.release()

    def _reply(self, reply: Reply) -> None:
        running, self._running = self._running, None
        self._unread.clear()
        self._let_go()
        self._context.front.requests.ended()
        is_window, self._is_window = self._is_window, False
        if self._sequence is not None:
            self._sequence.replied(reply, may_go_on=not is_window)
        is_answered = reply.status == OK
        if not self._is_silent:
            asked_id, parts = ("", 0) if running is None else (running.asked_id, running.parts)
            self._host.send(
                answer_message(reply)
                if is_answered
                else error_message(reply, self._answered, asked_id, parts)
            )
        self._answered += is_answered
        self._missed = 0 if is_answered else self._missed + is_window
        if is_window and not is_answered and self._samples is not None:
            self._samples.begin_anew()
        if self._is_last:
            self._host.close(closing.DONE, "")
        elif self._missed >= MOST_MISSED:
            code = closing.TRY_LATER if reply.status in LATER else closing.FAILED
            self._host.close(code, f"{self._missed} windows in a row were not answered")
        else:
            self._host.go_on()

    # samples

    def _take_samples(self, samples: Samples, part: Part) -> Part | None:
        """Take samples up to the end of a window, which becomes a request; return what is behind it."""
        try:
            window, rest = samples.take(part.data, self._context.front.now_s())
        except Overloaded as error:
            self._end(error.with_traceback(None), closing.TRY_LATER)
            return None
        if window is not None:
            self._run(samples, window)
        return Part(part.kind, rest, is_last=part.is_last) if rest else None

    def _run(self, samples: Samples, window: memoryview) -> None:
        """Run a window, for which the budget holds room."""
        self._held_bytes = samples.window_bytes
        running = self._start()
        if running is None:
            return
        parameters = self._head.parameters
        if self._is_last and self._sequence is not None:
            parameters = {**parameters, SEQUENCE_END: True}
        number, self._windows = self._windows, self._windows + 1
        self._is_window = True
        is_binary = self._head.is_binary
        running.run(samples.request(window, number, parameters, is_binary=is_binary))

    def _end_of_input(self) -> None:
        """Run the samples that are left, or a silent window that ends the sequence, and close behind that."""
        samples = self._samples
        is_open = self._sequence is not None and self._sequence.is_open
        if samples is None or not (samples.filled_bytes or is_open):
            self._host.close(closing.DONE, "")
            return
        self._is_last = True
        self._is_silent = not samples.filled_bytes
        try:
            window = samples.last()
        except Overloaded as error:
            self._end(error.with_traceback(None), closing.TRY_LATER)
        else:
            self._run(samples, window)

    # the end of it

    def cancel(self) -> None:
        """Withdraw what is under way, and give back all that is held."""
        running, self._running = self._running, None
        self._unread.clear()
        if running is not None:
            running.cancel()
            self._context.front.requests.ended()
        arriving, self._arriving = self._arriving, None
        if arriving is not None:
            arriving.drop()
        if self._samples is not None:
            self._samples.drop()
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
        self._end(no_room(self._context.front.budget), closing.TRY_LATER)

    def _end(self, error: CapameshError, code: int) -> None:
        """Tell of an error that is not one request's, and close."""
        self._context.inference.refused(self._head.model, error)
        self._host.send(error_message(error_reply(error), self._answered))
        self._host.close(code, error.message)

    def _let_go(self) -> None:
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            self._context.front.budget.let_go(held_bytes)
