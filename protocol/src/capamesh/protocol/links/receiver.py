"""The receiving half of a link's core: what each frame of the peer means, and whether it may come. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    Overloaded,
    PeerError,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    LoadReceived,
    PartsReleased,
    PongReceived,
    ProbeReceived,
    RequestCancelled,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.frames import END, FINAL, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.hello import MAX_HELLO_BYTES, Hello
from capamesh.protocol.links.incoming import FrameSink, Incoming
from capamesh.protocol.links.outgoing import Outgoing
from capamesh.protocol.links.reasons import error_frame, error_in, goaway_reason
from capamesh.protocol.links.streams import Message, Streams
from capamesh.protocol.links.unawaited import SMALL_CHUNK_BYTES

# Names of their own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured).
_REQUEST: Final = FrameKind.REQUEST
_RESPONSE: Final = FrameKind.RESPONSE
_CHUNK: Final = FrameKind.CHUNK
_HELLO: Final = FrameKind.HELLO


class Receiver(FrameSink):
    """Makes events of frames. Raises `ProtocolViolation` when the peer breaks the rules; then it is of no more use."""

    __slots__ = ("_current", "_limits", "_outgoing", "_streams", "events", "incoming", "peer_hello")

    def __init__(self, streams: Streams, outgoing: Outgoing, limits: LinkLimits) -> None:
        self._streams = streams
        self._outgoing = outgoing
        self._limits = limits
        self._current: tuple[int, int, int, int, bytes, Message | None] | None = None
        self.incoming = Incoming(limits, self, most_meta_bytes=MAX_HELLO_BYTES)
        """The reader of bytes, which calls back with frames."""
        self.events: list[Event] = []
        """The events that have happened and were not taken yet."""
        self.peer_hello: Hello | None = None

    @override
    def frame_started(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body_bytes: int
    ) -> memoryview | None:
        if self.peer_hello is None and kind != FrameKind.HELLO:
            raise ProtocolViolation(f"the first frame is of kind {kind}, not HELLO")
        message: Message | None = None
        target: memoryview | None = None
        if kind == _CHUNK:
            message = self._streams.receiving.get(stream)
            if body_bytes < SMALL_CHUNK_BYTES and not flags & END:
                self._streams.unawaited_frames += 1
        elif kind == _REQUEST:
            message = self._request_started(stream, meta, value, flags)
        elif kind == _RESPONSE:
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
    def frame_received(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body: memoryview
    ) -> None:
        # a whole message needs no record of what is still to come: most messages are small, and come by here
        is_whole = flags & END and value == len(body) and self.peer_hello is not None
        if is_whole and flags & FINAL:
            if kind == _REQUEST:
                if self._is_taken(stream, value):
                    streams = self._streams
                    streams.reserved_bytes += value
                    streams.serving[stream] = value
                    self.events.append(RequestReceived(stream, meta, memoryview(bytearray(body))))
                return
            if kind == _RESPONSE and self._is_awaited(stream, value):
                self._streams.close_asked(stream)
                memory = memoryview(bytearray(body))
                self.events.append(ResponseReceived(stream, meta, memory, True))
                return
        elif is_whole and kind == _RESPONSE and self._is_awaited(stream, value):
            self._part_ended(stream, meta, memoryview(bytearray(body)))
            return
        target = self.frame_started(kind, flags, stream, value, meta, len(body))
        if target is not None:
            target[:] = body
        self.frame_ended()

    @override
    def frame_ended(self) -> None:
        assert self._current is not None  # noqa: S101 - `Incoming` starts a frame before it ends it
        kind, flags, stream, value, meta, message = self._current
        self._current = None
        if message is not None:
            if flags & END:
                self._message_ended(stream, message, flags)
            return
        if kind not in {
            _REQUEST,
            _HELLO,
        }:  # the sender is told that it is refused; there is one a second
            self._streams.unawaited_frames += 1
        match kind:
            case FrameKind.CHUNK | FrameKind.REQUEST | FrameKind.RESPONSE:
                pass
            case FrameKind.PING:
                self._outgoing.frame(encode_frame(FrameKind.PONG, value=value))
            case FrameKind.PONG:
                self.events.append(PongReceived(value))
            case FrameKind.CREDIT:
                self._outgoing.grant(stream, value)
            case FrameKind.RELEASE:
                self._released(stream, value)
            case FrameKind.PROBE:
                self.events.append(ProbeReceived(stream, meta))
            case FrameKind.LOAD:
                if stream in self._streams.asked:
                    self._streams.close_asked(stream)
                    self.events.append(LoadReceived(stream, meta))
                elif not stream:
                    self.events.append(LoadReceived(stream, meta))
            case FrameKind.ERROR:
                self._error_ended(stream, meta)
            case FrameKind.CANCEL:
                self._cancel_ended(stream)
            case FrameKind.GOAWAY:
                self.events.append(GoawayReceived(goaway_reason(meta)))
            case FrameKind.HELLO:
                self._hello_ended(meta)
            case _:
                raise ProtocolViolation(f"a frame of unknown kind {kind}")

    def _hello_ended(self, meta: bytes) -> None:
        hello, before = Hello.decode(meta), self.peer_hello
        if before is not None and replace(hello, chain=before.chain) != before:
            raise ProtocolViolation("a second HELLO that changes more than the chain")
        self.peer_hello = hello
        if before is None:
            self.incoming.widen()
        self.events.append(HelloReceived(hello))

    def _is_awaited(self, stream: int, total: int) -> bool:
        """Return whether a whole answer of `total` bytes on that stream certainly may come."""
        streams, limits = self._streams, self._limits
        return (
            stream in streams.asked
            and stream not in streams.receiving
            and total <= limits.message_bytes
            and (streams.room is not None or streams.reserved_bytes + total <= limits.receive_bytes)
        )

    def _is_taken(self, stream: int, total: int) -> bool:
        """Return whether a request of `total` bytes may come on that stream; tell the peer if there is no room for it."""
        streams = self._streams
        if stream == 0 or stream % 2 != streams.peer_parity:
            raise ProtocolViolation(
                f"a request on stream {stream}, which is not the peer's to open"
            )
        if stream in streams.serving:
            raise ProtocolViolation(f"a second request on open stream {stream}")
        limits = self._limits
        if total > limits.message_bytes:
            self._refuse(
                stream,
                TooLarge(
                    f"a request of {total} bytes; this node takes {limits.message_bytes} at most"
                ),
            )
            return False
        if len(streams.serving) >= limits.streams:
            self._refuse(
                stream,
                Overloaded(f"{limits.streams} requests are open on this link; try another node"),
            )
            return False
        if streams.reserved_bytes + total > limits.receive_bytes:
            self._refuse(
                stream,
                Overloaded(
                    f"{streams.reserved_bytes} bytes are being received; no room for {total} more within"
                    f" {limits.receive_bytes}"
                ),
            )
            return False
        return True

    def _request_started(self, stream: int, meta: bytes, total: int, flags: int) -> Message | None:
        if not self._is_taken(stream, total):
            return None
        streams = self._streams
        message = streams.reserve(stream, meta, total, flags, is_request=True)
        if message is None:
            self._refuse(stream, Overloaded(self._no_room(f"a request of {total}")))
        else:
            streams.serving[stream] = total
        return message

    def _response_started(self, stream: int, meta: bytes, total: int, flags: int) -> Message | None:
        streams = self._streams
        if stream not in streams.asked:
            return None
        if stream in streams.receiving:
            raise ProtocolViolation(
                f"a second response on stream {stream} before the first has ended"
            )
        limits = self._limits
        error: CapameshError
        if total > limits.message_bytes:
            error = TooLarge(
                f"an answer of {total} bytes; at most {limits.message_bytes} are taken: ask for fewer rows or outputs"
            )
        elif streams.room is not None:
            message = streams.reserve(stream, meta, total, flags, is_request=False)
            if message is not None:
                return message
            error = PeerError(self._no_room(f"an answer of {total}"))
        elif streams.reserved_bytes + total > limits.receive_bytes:
            # not `Overloaded`: the peer did run the request
            error = PeerError(
                f"{streams.reserved_bytes} bytes are being received; no room for an answer of {total}"
                f" within {limits.receive_bytes}"
            )
        else:
            return streams.reserve(stream, meta, total, flags, is_request=False)
        streams.cancel(stream)
        self.events.append(ErrorReceived(stream, error))
        return None

    def _no_room(self, what: str) -> str:
        return f"too many bodies come at once over the links of this process: no room for {what} bytes; ask later"

    def _message_ended(self, stream: int, message: Message, flags: int) -> None:
        streams = self._streams
        if streams.pop_message(stream) is None:
            return  # cancelled while its last bytes came
        if message.is_request:
            self.events.append(RequestReceived(stream, message.meta, message.memory))
            return
        streams.reserved_bytes -= message.total
        if flags & FINAL:
            streams.close_asked(stream)
            self.events.append(ResponseReceived(stream, message.meta, message.memory, True))
        else:
            self._part_ended(stream, message.meta, message.memory)

    def _part_ended(self, stream: int, meta: bytes, body: memoryview) -> None:
        """Take a part of an answer that is here whole."""
        streams = self._streams
        if reason := streams.parts.take(stream, len(meta) + len(body)):
            streams.cancel(stream)
            self.events.append(ErrorReceived(stream, PeerError(reason)))
        else:
            self.events.append(ResponseReceived(stream, meta, body, False))

    def _error_ended(self, stream: int, meta: bytes) -> None:
        if stream in self._streams.asked:
            error = error_in(meta)
            self._streams.close_asked(stream)
            self.events.append(ErrorReceived(stream, error))

    def _released(self, stream: int, size_bytes: int) -> None:
        sent_parts = self._streams.sent_parts
        before_bytes = sent_parts.get(stream)
        if before_bytes is None or self.peer_hello is None:
            return
        left_bytes = max(0, before_bytes - size_bytes)
        sent_parts[stream] = left_bytes
        window_bytes = self.peer_hello.part_window_bytes
        if left_bytes < window_bytes <= before_bytes:
            self.events.append(PartsReleased(stream))

    def _cancel_ended(self, stream: int) -> None:
        streams = self._streams
        reserved = streams.serving.pop(stream, None)
        if reserved is None:
            self._outgoing.drop(stream)
            return
        streams.reserved_bytes -= reserved
        streams.sent_parts.pop(stream, None)
        self._outgoing.drop(stream)
        if streams.pop_message(stream) is None:
            self.events.append(RequestCancelled(stream))

    def _refuse(self, stream: int, error: CapameshError) -> None:
        self._outgoing.frame(error_frame(stream, error))
