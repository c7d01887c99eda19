"""The core of a link: bytes in, events out, bytes to send; no socket, no clock. Pure.

One `Connection` is one side. Its owner reads into `buffer()`, calls `received()`, acts on the events, and
writes what `take()` returns. Either side may open streams, whoever dialled.

=================  ======================================================================================
stream state       what may come
=================  ======================================================================================
asked (by us)      RESPONSE with its CHUNKs, again unless FINAL; LOAD; ERROR. FINAL and ERROR close it. What
                   comes before FINAL are parts of the answer, of which `HeldParts` bounds what is not released.
receiving          CHUNKs of the REQUEST; CANCEL forgets it
serving            CANCEL; RELEASE after a part of our answer; our RESPONSE (FINAL) or ERROR closes it
0                  LOAD that was not asked for
unknown            CHUNK, RESPONSE, LOAD, ERROR, CREDIT, CANCEL, RELEASE are leftovers of a closed stream: dropped
=================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    Overloaded,
    PeerError,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.links.events import Event
from capamesh.protocol.links.frames import FINAL, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.held_parts import PART_BYTES
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.outgoing import Buffer, Outgoing
from capamesh.protocol.links.reasons import error_frame, goaway_frame
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.links.receiver import Receiver
from capamesh.protocol.links.streams import Streams
from capamesh.protocol.links.unawaited import A_SECOND, MOST, UnawaitedFrames

# as in `receiver`: names of their own
_REQUEST: Final = FrameKind.REQUEST
_RESPONSE: Final = FrameKind.RESPONSE


class Connection:
    """One side of a link. Raises `ProtocolViolation` when the peer breaks the rules; then it is of no more use."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        hello: Hello,
        limits: LinkLimits,
        budget: ReceiveBudget | None = None,
        on_output: Callable[[], None] = lambda: None,
    ) -> None:
        """Take `budget`, which bounds what all links of this process receive together; None: each has `receive_bytes`.

        `on_output` is told when there is something to send because others have given room back.
        """
        self._limits = limits
        self._outgoing = Outgoing(limits.chunk_bytes)
        self._streams = Streams(
            self._outgoing, limits, is_dialer=is_dialer, budget=budget, on_output=on_output
        )
        self._receiver = Receiver(self._streams, self._outgoing, limits)
        self._incoming = self._receiver.incoming
        self._unawaited = UnawaitedFrames()
        self._is_draining = False
        self.introduce(hello)

    @override
    def __repr__(self) -> str:
        return f"Connection({self._streams!r})"

    # what the owner does with its socket

    def buffer(self) -> memoryview:
        """Return the memory that the next bytes from the socket go to; never empty."""
        return self._incoming.buffer()

    def received(self, count: int) -> list[Event]:
        """Take the `count` bytes that were written to `buffer()`; return what they mean, in order."""
        self._incoming.received(count)
        receiver = self._receiver
        events = receiver.events
        if events:
            receiver.events = []
        return events

    def check_unawaited(self, now_s: float) -> None:
        """Raise `ProtocolViolation` when more frames have come that nobody awaits than are borne; to be asked at each read."""
        streams = self._streams
        count, sent = streams.unawaited_frames, streams.sent_messages
        if not count:
            return
        streams.unawaited_frames = streams.sent_messages = 0
        if not self._unawaited.are_borne(count, sent, now_s):
            raise ProtocolViolation(
                f"more frames that nobody awaits (pings, cancellations, leftovers) than {MOST} at once and {A_SECOND:g} a second"
            )

    def has_output(self) -> bool:
        """Return whether `take()` would return something."""
        return bool(self._outgoing)

    @property
    def queued_bytes(self) -> int:
        """Return the bytes that wait to be sent."""
        return self._outgoing.queued_bytes

    def take(self, budget_bytes: int) -> list[Buffer]:
        """Return buffers to write now, in order, of about `budget_bytes` at most."""
        return self._outgoing.take(budget_bytes)

    # asking

    def ask(self, meta: bytes, body: Sequence[Buffer] = ()) -> int:
        """Send a request; return its stream."""
        peer = self._greeted()
        total = self._check_outgoing(meta, body, self._limits.message_bytes)
        if total > peer.message_bytes:  # no fault of the caller's: another peer may take it
            raise PeerError(
                f"a message of {total} bytes; this peer takes {peer.message_bytes} at most"
            )
        if self._outgoing.queued_bytes + total > self._limits.send_bytes:
            raise Overloaded(
                f"{self._outgoing.queued_bytes} bytes wait for this peer; no room for {total} more within"
                f" {self._limits.send_bytes}"
            )
        streams = self._streams
        stream = streams.open()
        streams.sent_messages += 1
        self._outgoing.message(
            _REQUEST, stream, meta, body, total, FINAL, peer.initial_credit_bytes
        )
        return stream

    def probe(self, meta: bytes = b"") -> int:
        """Ask for the peer's load; return the stream that the answer will carry."""
        self._greeted()
        stream = self._streams.open()
        self._streams.sent_messages += 1
        self._outgoing.frame(encode_frame(FrameKind.PROBE, stream, meta=meta))
        return stream

    def cancel(self, stream: int) -> None:
        """Give up a request of ours: its answer, if one comes, is dropped."""
        self._streams.cancel(stream)

    def release(self, stream: int, size_bytes: int) -> None:
        """A part of an answer has been passed on: others may come in its place. `size_bytes` has its metadata too."""
        released_bytes = self._streams.parts.release(stream, size_bytes)
        if released_bytes:
            self._outgoing.frame(encode_frame(FrameKind.RELEASE, stream, value=released_bytes))

    # answering

    def respond(
        self, stream: int, meta: bytes, body: Sequence[Buffer], *, is_final: bool = True
    ) -> bool:
        """Send an answer to the peer's request, or the next part of it; False when the peer has given it up.

        A part that is sent without `has_part_room` makes the peer give the request up.
        """
        streams = self._streams
        if stream not in streams.serving:
            return False
        peer = self._greeted()
        try:
            total = self._check_outgoing(
                meta, body, peer.message_bytes, "; ask for fewer rows or outputs"
            )
            if self._outgoing.queued_bytes + total > self._limits.send_bytes:
                raise PeerError(
                    f"{self._outgoing.queued_bytes} bytes of answers wait to be read; no room for {total} more"
                    f" within {self._limits.send_bytes}"
                )
        except CapameshError as error:
            self.fail(stream, error)
            return True
        if is_final:
            streams.reserved_bytes -= streams.serving.pop(stream)
            if streams.sent_parts:
                streams.sent_parts.pop(stream, None)
        else:
            part_bytes = len(meta) + total + PART_BYTES
            streams.sent_parts[stream] = streams.sent_parts.get(stream, 0) + part_bytes
        streams.sent_messages += 1
        self._outgoing.message(
            _RESPONSE,
            stream,
            meta,
            body,
            total,
            FINAL if is_final else 0,
            peer.initial_credit_bytes,
        )
        return True

    def has_part_room(self, stream: int) -> bool:
        """Return whether the peer takes one more part of an answer, whatever its size."""
        return self._streams.sent_parts.get(stream, 0) < self._greeted().part_window_bytes

    def fail(self, stream: int, error: CapameshError) -> bool:
        """Answer the peer's request with an error; False when the peer has given it up."""
        streams = self._streams
        if stream not in streams.serving:
            return False
        streams.reserved_bytes -= streams.serving.pop(stream)
        streams.sent_parts.pop(stream, None)
        self._outgoing.drop(stream)
        streams.sent_messages += 1
        self._outgoing.frame(error_frame(stream, error))
        return True

    def send_load(self, stream: int, meta: bytes) -> None:
        """Answer a probe; on stream 0 tell the load unasked."""
        self._outgoing.frame(encode_frame(FrameKind.LOAD, stream, meta=meta))

    # the connection itself

    def introduce(self, hello: Hello) -> None:
        """Tell the peer who is here: at first, and again when the membership was renewed, as nothing else may change."""
        self._outgoing.frame(encode_frame(FrameKind.HELLO, meta=hello.encode()))

    def ping(self, value: int) -> None:
        """Ask the peer to echo `value` (below 2**32)."""
        self._outgoing.frame(encode_frame(FrameKind.PING, value=value))

    def goaway(self, reason: str) -> None:
        """Tell the peer to send no new requests; what is under way goes on."""
        if self._is_draining:
            return
        self._is_draining = True
        self._outgoing.frame(goaway_frame(reason))

    def end(self) -> None:
        """Receive nothing more: give back what the messages have of the budget."""
        self._streams.end()

    @property
    def serving_count(self) -> int:
        """Return the number of the peer's requests that are being received or handled."""
        return len(self._streams.serving)

    @property
    def is_idle(self) -> bool:
        """Return whether no stream is open and nothing waits to be sent."""
        return not (self._streams.asked or self._streams.serving or self._outgoing)

    def _greeted(self) -> Hello:
        hello = self._receiver.peer_hello
        if hello is None:
            raise ProtocolViolation("the peer has not introduced itself yet")
        return hello

    def _check_outgoing(
        self, meta: bytes, body: Sequence[Buffer], most_bytes: int, advice: str = ""
    ) -> int:
        """Return the body's size; raise `TooLarge` when that is over `most_bytes`, or the metadata is too long."""
        total = 0
        for part in body:
            total += part.nbytes if isinstance(part, memoryview) else len(part)
        if total > most_bytes or len(meta) > self._limits.meta_bytes:
            raise TooLarge(
                f"a message of {total} bytes with {len(meta)} of metadata; at most {most_bytes} and"
                f" {self._limits.meta_bytes} are sent{advice}"
            )
        return total
