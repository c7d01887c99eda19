"""The core of a link: bytes in, events out, bytes to send; no socket, no clock. Pure.

One `Connection` is one side. Its owner reads into `buffer()`, calls `received()`, acts on the events, and
writes what `take()` returns. Either side may open streams, whoever dialled.

=================  ======================================================================================
stream state       what may come
=================  ======================================================================================
asked (by us)      RESPONSE with its CHUNKs, again unless FINAL; LOAD; ERROR. FINAL and ERROR close it. What
                   comes before FINAL are parts of the answer, of which `HeldParts` bounds what is not released.
receiving          CHUNKs of the REQUEST; CANCEL forgets it
serving            CANCEL; our RESPONSE (FINAL) or ERROR closes it
unknown            CHUNK, RESPONSE, LOAD, ERROR, CREDIT, CANCEL are leftovers of a closed stream: dropped
=================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    Overloaded,
    PeerError,
    ProtocolViolation,
    TooLarge,
    from_wire,
)
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    LoadReceived,
    PongReceived,
    ProbeReceived,
    RequestCancelled,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.frames import END, FINAL, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.held_parts import HeldParts
from capamesh.protocol.links.hello import MAX_HELLO_BYTES, Hello, unpack_map
from capamesh.protocol.links.incoming import FrameSink, Incoming
from capamesh.protocol.links.outgoing import Buffer, Outgoing
from capamesh.protocol.links.receive_budget import Claim, ReceiveBudget
from capamesh.protocol.memory import body_memory
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.plain_text import plain

MAX_STREAM = 2**32 - 1
MAX_ERROR_CHARS = 8192
"""Longer error texts are cut: they are for a person to read."""
MAX_AFTER_MS = 3_600_000
"""A hint of more than an hour is no hint."""


class _Message:
    """A message that is being received."""

    __slots__ = ("claim", "filled", "is_request", "memory", "meta", "total")

    def __init__(self, meta: bytes, total: int, claim: Claim | None, *, is_request: bool) -> None:
        self.meta = meta
        self.total = total
        self.claim = claim
        """What it has of the budget for all links; None: nothing."""
        self.memory = body_memory(total if claim is None or claim.is_granted else claim.first_bytes)
        self.filled = 0
        self.is_request = is_request

    def widen(self, begin: int) -> bool:
        """Have memory for all of it, of which so much is here; False: only the beginning was to come, or it had it."""
        claim = self.claim
        if claim is None or not claim.is_granted or len(self.memory) == self.total:
            return False
        first, self.memory = self.memory, body_memory(self.total)
        self.memory[:begin] = first[:begin]
        return True


class Connection(FrameSink):
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
        """`budget`: what all links of this process may receive together; None: each has `receive_bytes`.

        `on_output` is told when there is something to send because others have given room back.
        """
        self._limits = limits
        self._room = budget.link(self._granted) if budget is not None else None
        self._on_output = on_output
        self._incoming = Incoming(limits, self, most_meta_bytes=MAX_HELLO_BYTES)
        self._outgoing = Outgoing(limits.chunk_bytes)
        self._events: list[Event] = []
        self._next_stream = 1 if is_dialer else 2
        self._peer_parity = 0 if is_dialer else 1
        self._peer_hello: Hello | None = None
        self._asked: set[int] = set()
        self._serving: dict[int, int] = {}
        self._messages: dict[int, _Message] = {}
        self._parts = HeldParts(limits.message_bytes, limits.receive_bytes)
        self._reserved_bytes = 0
        self._current: tuple[int, int, int, int, bytes, _Message | None] | None = None
        self._is_draining = False
        self.introduce(hello)

    @override
    def __repr__(self) -> str:
        return (
            f"Connection({len(self._asked)} asked, {len(self._serving)} serving,"
            f" {len(self._messages)} receiving, {self._reserved_bytes} bytes)"
        )

    # what the owner does with its socket

    def buffer(self) -> memoryview:
        """Return the memory that the next bytes from the socket go to; never empty."""
        return self._incoming.buffer()

    def received(self, count: int) -> list[Event]:
        """Take the `count` bytes that were written to `buffer()`; return what they mean, in order."""
        self._incoming.received(count)
        events = self._events
        if events:
            self._events = []
        return events

    def has_output(self) -> bool:
        """Whether `take()` would return something."""
        return bool(self._outgoing)

    @property
    def queued_bytes(self) -> int:
        """How much waits to be sent."""
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
        stream = self._open()
        self._outgoing.message(
            FrameKind.REQUEST, stream, meta, body, total, FINAL, peer.initial_credit_bytes
        )
        return stream

    def probe(self, meta: bytes = b"") -> int:
        """Ask for the peer's load; return the stream that the answer will carry."""
        self._greeted()
        stream = self._open()
        self._outgoing.frame(encode_frame(FrameKind.PROBE, stream, meta=meta))
        return stream

    def cancel(self, stream: int) -> None:
        """Give up a request of ours: its answer, if one comes, is dropped."""
        if stream not in self._asked:
            return
        self._close_asked(stream)
        self._outgoing.frame(encode_frame(FrameKind.CANCEL, stream))

    def release(self, stream: int, size_bytes: int) -> None:
        """A part of an answer has been passed on: others may come in its place. `size_bytes` has its metadata too."""
        self._parts.release(stream, size_bytes)

    # answering

    def respond(
        self, stream: int, meta: bytes, body: Sequence[Buffer], *, is_final: bool = True
    ) -> bool:
        """Send an answer to the peer's request, or the next part of it; False when the peer has given it up."""
        if stream not in self._serving:
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
            self._reserved_bytes -= self._serving.pop(stream)
        self._outgoing.message(
            FrameKind.RESPONSE,
            stream,
            meta,
            body,
            total,
            FINAL if is_final else 0,
            peer.initial_credit_bytes,
        )
        return True

    def fail(self, stream: int, error: CapameshError) -> bool:
        """Answer the peer's request with an error; False when the peer has given it up."""
        if stream not in self._serving:
            return False
        self._reserved_bytes -= self._serving.pop(stream)
        self._outgoing.drop(stream)
        self._send_error(stream, error)
        return True

    def send_load(self, stream: int, meta: bytes) -> None:
        """Answer a probe."""
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
        meta = pack({"reason": reason})
        self._outgoing.frame(encode_frame(FrameKind.GOAWAY, meta=meta))

    def end(self) -> None:
        """Nothing more will be received: give back what its messages have of the budget."""
        self._messages.clear()
        if self._room is not None:
            self._room.close()

    @property
    def serving_count(self) -> int:
        """How many of the peer's requests are being received or handled."""
        return len(self._serving)

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open and nothing waits to be sent."""
        return not (self._asked or self._serving or self._outgoing)

    # FrameSink

    @override
    def frame_started(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body_bytes: int
    ) -> memoryview | None:
        if self._peer_hello is None and kind != FrameKind.HELLO:
            raise ProtocolViolation(f"the first frame is of kind {kind}, not HELLO")
        message: _Message | None = None
        target: memoryview | None = None
        if kind == FrameKind.CHUNK:
            message = self._messages.get(stream)
        elif kind == FrameKind.REQUEST:
            message = self._request_started(stream, meta, value, flags)
        elif kind == FrameKind.RESPONSE:
            message = self._response_started(stream, meta, value, flags)
        elif body_bytes:
            raise ProtocolViolation(f"a frame of kind {kind} with a body of {body_bytes} bytes")
        if message is not None:
            begin, message.filled = message.filled, message.filled + body_bytes
            if message.filled > len(message.memory) and (
                not message.widen(begin) or message.filled > message.total
            ):
                raise ProtocolViolation(
                    f"stream {stream} sent {message.filled} bytes of a body of {message.total}, of which"
                    f" {len(message.memory)} were to come"
                )
            if bool(flags & END) != (message.filled == message.total):
                raise ProtocolViolation(
                    f"stream {stream} {'ended' if flags & END else 'did not end'} at {message.filled} of"
                    f" {message.total} bytes"
                )
            target = message.memory[begin : message.filled]
        self._current = (kind, flags, stream, value, meta, message)
        return target

    @override
    def frame_ended(self) -> None:
        assert self._current is not None  # noqa: S101 - `Incoming` starts a frame before it ends it
        kind, flags, stream, value, meta, message = self._current
        self._current = None
        if message is not None:
            if flags & END:
                self._message_ended(stream, message, flags)
            return
        match kind:
            case FrameKind.CHUNK | FrameKind.REQUEST | FrameKind.RESPONSE:
                pass
            case FrameKind.PING:
                self._outgoing.frame(encode_frame(FrameKind.PONG, value=value))
            case FrameKind.PONG:
                self._events.append(PongReceived(value))
            case FrameKind.CREDIT:
                self._outgoing.grant(stream, value)
            case FrameKind.PROBE:
                self._events.append(ProbeReceived(stream, meta))
            case FrameKind.LOAD:
                if stream in self._asked:
                    self._close_asked(stream)
                    self._events.append(LoadReceived(stream, meta))
            case FrameKind.ERROR:
                self._error_ended(stream, meta)
            case FrameKind.CANCEL:
                self._cancel_ended(stream)
            case FrameKind.GOAWAY:
                reason = _text(unpack_map(meta, "GOAWAY").get("reason"))
                self._events.append(GoawayReceived(plain(reason[:MAX_ERROR_CHARS])))
            case FrameKind.HELLO:
                self._hello_ended(meta)
            case _:
                raise ProtocolViolation(f"a frame of unknown kind {kind}")

    def _hello_ended(self, meta: bytes) -> None:
        hello, before = Hello.decode(meta), self._peer_hello
        if before is not None and replace(hello, chain=before.chain) != before:
            raise ProtocolViolation("a second HELLO that changes more than the chain")
        self._peer_hello = hello
        if before is None:
            self._incoming.widen()
        self._events.append(HelloReceived(hello))

    def _request_started(self, stream: int, meta: bytes, total: int, flags: int) -> _Message | None:
        if stream == 0 or stream % 2 != self._peer_parity:
            raise ProtocolViolation(
                f"a request on stream {stream}, which is not the peer's to open"
            )
        if stream in self._serving:
            raise ProtocolViolation(f"a second request on open stream {stream}")
        limits = self._limits
        if total > limits.message_bytes:
            self._send_error(
                stream,
                TooLarge(
                    f"a request of {total} bytes; this node takes {limits.message_bytes} at most"
                ),
            )
            return None
        if len(self._serving) >= limits.streams:
            self._send_error(
                stream,
                Overloaded(f"{limits.streams} requests are open on this link; try another node"),
            )
            return None
        if self._reserved_bytes + total > limits.receive_bytes:
            self._send_error(
                stream,
                Overloaded(
                    f"{self._reserved_bytes} bytes are being received; no room for {total} more within"
                    f" {limits.receive_bytes}"
                ),
            )
            return None
        message = self._reserve(stream, meta, total, flags, is_request=True)
        if message is None:
            self._send_error(stream, Overloaded(self._no_room(f"a request of {total}")))
        else:
            self._serving[stream] = total
        return message

    def _response_started(
        self, stream: int, meta: bytes, total: int, flags: int
    ) -> _Message | None:
        if stream not in self._asked:
            return None
        if stream in self._messages:
            raise ProtocolViolation(
                f"a second response on stream {stream} before the first has ended"
            )
        limits = self._limits
        error: CapameshError
        if total > limits.message_bytes:
            error = TooLarge(
                f"an answer of {total} bytes; at most {limits.message_bytes} are taken: ask for fewer rows or outputs"
            )
        elif self._room is not None:
            message = self._reserve(stream, meta, total, flags, is_request=False)
            if message is not None:
                return message
            error = PeerError(self._no_room(f"an answer of {total}"))
        elif self._reserved_bytes + total > limits.receive_bytes:
            # not `Overloaded`: the peer did run the request
            error = PeerError(
                f"{self._reserved_bytes} bytes are being received; no room for an answer of {total}"
                f" within {limits.receive_bytes}"
            )
        else:
            return self._reserve(stream, meta, total, flags, is_request=False)
        self.cancel(stream)
        self._events.append(ErrorReceived(stream, error))
        return None

    def _reserve(
        self, stream: int, meta: bytes, total: int, flags: int, *, is_request: bool
    ) -> _Message | None:
        """Take memory for a message; None: all links together have no room for it."""
        room, credit = self._room, self._limits.initial_credit_bytes
        claim: Claim | None = None
        if room is not None and not flags & END:  # what ends with its first frame is here already
            claim = room.take(stream, total, credit)
            if claim is None:
                return None
        self._reserved_bytes += total
        message = _Message(meta, total, claim, is_request=is_request)
        self._messages[stream] = message
        if room is None and total > credit:
            self._outgoing.frame(encode_frame(FrameKind.CREDIT, stream, value=total - credit))
        return message

    def _granted(self, stream: int, more_bytes: int) -> None:
        """There is room for all of a body that has waited."""
        self._outgoing.frame(encode_frame(FrameKind.CREDIT, stream, value=more_bytes))
        self._on_output()

    def _no_room(self, what: str) -> str:
        return f"too many bodies come at once over the links of this process: no room for {what} bytes; ask later"

    def _pop_message(self, stream: int) -> _Message | None:
        """Forget a message that is being received, and give back what it has of the budget."""
        message = self._messages.pop(stream, None)
        if message is not None and message.claim is not None:
            message.claim.room.give_back(message.claim)
        return message

    def _message_ended(self, stream: int, message: _Message, flags: int) -> None:
        if self._pop_message(stream) is None:
            return  # cancelled while its last bytes came
        if message.is_request:
            self._events.append(RequestReceived(stream, message.meta, message.memory))
            return
        self._reserved_bytes -= message.total
        is_final = bool(flags & FINAL)
        if is_final:
            self._close_asked(stream)
        elif reason := self._parts.take(stream, len(message.meta) + message.total):
            self.cancel(stream)
            self._events.append(ErrorReceived(stream, PeerError(reason)))
            return
        self._events.append(ResponseReceived(stream, message.meta, message.memory, is_final))

    def _error_ended(self, stream: int, meta: bytes) -> None:
        if stream not in self._asked:
            return
        raw = unpack_map(meta, "ERROR")
        self._close_asked(stream)
        after_ms = raw.get("after_ms")
        error = from_wire(
            _text(raw.get("code")),
            _text(raw.get("message"))[:MAX_ERROR_CHARS],
            min(after_ms, MAX_AFTER_MS) / 1000 if type(after_ms) is int and after_ms > 0 else 0.0,
        )
        error.load = raw.get("l")
        self._events.append(ErrorReceived(stream, error))

    def _cancel_ended(self, stream: int) -> None:
        reserved = self._serving.pop(stream, None)
        if reserved is None:
            self._outgoing.drop(stream)
            return
        self._reserved_bytes -= reserved
        self._outgoing.drop(stream)
        if self._pop_message(stream) is None:
            self._events.append(RequestCancelled(stream))

    def _send_error(self, stream: int, error: CapameshError) -> None:
        meta: dict[str, object] = {"code": error.code, "message": error.message[:MAX_ERROR_CHARS]}
        if isinstance(error, Overloaded) and error.retry_after_s > 0:
            meta["after_ms"] = min(int(error.retry_after_s * 1000) + 1, MAX_AFTER_MS)
        if error.load is not None:
            meta["l"] = error.load
        self._outgoing.frame(encode_frame(FrameKind.ERROR, stream, meta=pack(meta)))

    def _close_asked(self, stream: int) -> None:
        self._asked.discard(stream)
        self._outgoing.drop(stream)  # a peer may answer before it has read the whole request
        if self._parts:
            self._parts.end(stream)
        message = self._pop_message(stream)
        if message is not None:
            self._reserved_bytes -= message.total

    def _open(self) -> int:
        stream = self._next_stream
        while stream in self._asked:
            stream = stream + 2 if stream + 2 <= MAX_STREAM else 1 + self._peer_parity
        following = stream + 2
        self._next_stream = following if following <= MAX_STREAM else 1 + self._peer_parity
        self._asked.add(stream)
        return stream

    def _greeted(self) -> Hello:
        if self._peer_hello is None:
            raise ProtocolViolation("the peer has not introduced itself yet")
        return self._peer_hello

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


def _text(value: object) -> str:
    """Return `value` if it is text, else none: `str` of a deeply nested list raises `RecursionError`."""
    return value if isinstance(value, str) else ""
