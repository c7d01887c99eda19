"""The open streams of one side of a link, and what their bodies have of its memory. Pure.

A stream that ends here is forgotten by all that knew it: what it had still to send, the parts of its answer that are
held, and its body's place in the budget for all links.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from typing_extensions import override

from capamesh.protocol.links.frames import END, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.held_parts import HeldParts
from capamesh.protocol.links.outgoing import Outgoing
from capamesh.protocol.links.receive_budget import Claim, ReceiveBudget
from capamesh.protocol.memory import body_memory

MAX_STREAM: Final = 2**32 - 1


class Message:
    """A message that is being received."""

    __slots__ = ("claim", "filled", "is_request", "memory", "meta", "total")

    def __init__(self, meta: bytes, total: int, claim: Claim | None, *, is_request: bool) -> None:
        self.meta = meta
        self.total = total
        self.claim = claim
        """The body's part of the budget for all links; None: it has none."""
        self.memory = body_memory(total if claim is None or claim.is_granted else claim.first_bytes)
        self.filled = 0
        self.is_request = is_request

    def widen(self, begin: int) -> bool:
        """Have memory for all of the body, of which `begin` bytes are here; False: no more was to come yet, or it had it."""
        claim = self.claim
        if claim is None or not claim.is_granted or len(self.memory) == self.total:
            return False
        first, self.memory = self.memory, body_memory(self.total)
        self.memory[:begin] = first[:begin]
        return True


class Streams:
    """The streams that one side of a link asks, serves and receives. Its two halves, sending and receiving, share them."""

    __slots__ = (
        "_initial_credit_bytes",
        "_next_stream",
        "_on_output",
        "_outgoing",
        "asked",
        "parts",
        "peer_parity",
        "receiving",
        "reserved_bytes",
        "room",
        "sent_messages",
        "sent_parts",
        "serving",
        "unawaited_frames",
    )

    def __init__(
        self,
        outgoing: Outgoing,
        limits: LinkLimits,
        *,
        is_dialer: bool,
        budget: ReceiveBudget | None,
        on_output: Callable[[], None],
    ) -> None:
        """`budget` and `on_output` are those of `Connection`."""
        self._outgoing = outgoing
        self._initial_credit_bytes = limits.initial_credit_bytes
        self._on_output = on_output
        self._next_stream = 1 if is_dialer else 2
        self.peer_parity = 0 if is_dialer else 1
        """The remainder of the numbers of streams that the peer opens, when they are divided by 2."""
        self.room = budget.link(self._granted) if budget is not None else None
        """This link's share of the budget for all links; None: it has bounds of its own alone."""
        self.asked: set[int] = set()
        """The streams on which this side awaits an answer."""
        self.serving: dict[int, int] = {}
        """The size of each request of the peer that is received or handled, by stream."""
        self.receiving: dict[int, Message] = {}
        """The message whose body is coming, by stream."""
        self.parts = HeldParts(limits.part_window_bytes, limits.receive_bytes)
        self.sent_parts: dict[int, int] = {}
        """The bytes of parts that the peer has not released yet, by the stream of its request; none before the first part."""
        self.reserved_bytes = 0
        """The memory of all bodies that are received or handled."""
        self.unawaited_frames = 0
        """The frames that have come and were no part of a message, since they were last looked at: see `unawaited`."""
        self.sent_messages = 0
        """The messages that were sent since then."""

    @override
    def __repr__(self) -> str:
        return (
            f"{len(self.asked)} asked, {len(self.serving)} serving,"
            f" {len(self.receiving)} receiving, {self.reserved_bytes} bytes"
        )

    def open(self) -> int:
        """Return the number of a new stream of this side's."""
        stream = self._next_stream
        while stream in self.asked:
            stream = stream + 2 if stream + 2 <= MAX_STREAM else 1 + self.peer_parity
        following = stream + 2
        self._next_stream = following if following <= MAX_STREAM else 1 + self.peer_parity
        self.asked.add(stream)
        return stream

    def cancel(self, stream: int) -> None:
        """Give up a request of this side's: its answer, if one comes, is dropped."""
        if stream not in self.asked:
            return
        self.close_asked(stream)
        self._outgoing.frame(encode_frame(FrameKind.CANCEL, stream))

    def close_asked(self, stream: int) -> None:
        """Forget a request of this side's: its answer is here, or is not wanted."""
        self.asked.discard(stream)
        self._outgoing.drop(stream)  # a peer may answer before it has read the whole request
        if self.parts:
            self.parts.end(stream)
        message = self.pop_message(stream)
        if message is not None:
            self.reserved_bytes -= message.total

    def reserve(
        self, stream: int, meta: bytes, total: int, flags: int, *, is_request: bool
    ) -> Message | None:
        """Take memory for a message of `total` bytes; None: all links together have no room for it."""
        room, credit = self.room, self._initial_credit_bytes
        claim: Claim | None = None
        if room is not None and not flags & END:  # what ends with its first frame is here already
            claim = room.take(stream, total, credit)
            if claim is None:
                return None
        self.reserved_bytes += total
        message = Message(meta, total, claim, is_request=is_request)
        self.receiving[stream] = message
        if room is None and total > credit:
            self._outgoing.frame(encode_frame(FrameKind.CREDIT, stream, value=total - credit))
        return message

    def pop_message(self, stream: int) -> Message | None:
        """Forget a message that is being received, and give back what it has of the budget."""
        message = self.receiving.pop(stream, None)
        if message is not None and message.claim is not None:
            message.claim.room.give_back(message.claim)
        return message

    def end(self) -> None:
        """Receive nothing more: give back what the messages have of the budget."""
        self.receiving.clear()
        if self.room is not None:
            self.room.close()

    def _granted(self, stream: int, more_bytes: int) -> None:
        """There is room for all of a body that has waited."""
        self._outgoing.frame(encode_frame(FrameKind.CREDIT, stream, value=more_bytes))
        self._on_output()
