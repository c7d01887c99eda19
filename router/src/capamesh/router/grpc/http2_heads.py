"""The heads and trailers that come on a connection of HTTP/2 by hand. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.router.grpc.header_blocks import HeaderDecoder
from capamesh.router.grpc.http2 import MAX_HEADER_BYTES, MAX_STREAMS, ErrorCode
from capamesh.router.grpc.http2_wire import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITIZED,
    Broken,
    Stream,
)

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import StreamEvents
    from capamesh.router.grpc.http2_bodies import Bodies
    from capamesh.router.grpc.http2_sending import Sending

_MOST_CONTINUATIONS: Final = 16
"""The most frames of one header block behind the first (guess: twice nghttp2's bound)."""
_MOST_BLOCK_BYTES: Final = 2 * MAX_HEADER_BYTES
"""The most bytes of one header block (guess: letters in their codes take less than what they stand for)."""


class Heads:
    """The heads of one connection's requests, which begin its streams."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_bodies",
        "_continuations",
        "_decoder",
        "_sending",
        "coming",
        "is_acknowledged",
    )

    def __init__(self, sending: Sending, bodies: Bodies) -> None:
        """`sending` has the streams; `bodies` are told to end by trailers."""
        self._sending = sending
        self._bodies = bodies
        self._decoder = HeaderDecoder()
        self.coming = 0
        """The stream of the header block that is coming; 0: none is."""
        self.is_acknowledged = False
        """The client knows how many streams it may have."""
        self._block = bytearray()
        self._block_flags = 0
        self._continuations = 0

    def headers(self, flags: int, stream: int, payload: bytes, events: StreamEvents) -> None:
        """Take HEADERS, of which a header block may follow."""
        at, end = 0, len(payload)
        if flags & PADDED:
            at = 1
            end -= payload[0] if payload else 1
        if flags & PRIORITIZED:
            at += 5
        if at > end:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a frame is shorter than what is in it")
        if not stream & 1:
            raise Broken(ErrorCode.PROTOCOL_ERROR, f"a client does not open stream {stream}")
        block = payload if end - at == len(payload) else payload[at:end]
        if flags & END_HEADERS:
            self._whole_block(flags, stream, block, events)
            return
        self.coming, self._block_flags = stream, flags
        self._block = bytearray(block)
        self._continuations = 0

    def continuation(self, flags: int, stream: int, payload: bytes, events: StreamEvents) -> None:
        """Take more of a header block."""
        if not stream or stream != self.coming:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        self._continuations += 1
        self._block += payload
        if self._continuations > _MOST_CONTINUATIONS or len(self._block) > _MOST_BLOCK_BYTES:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "a header block does not end")
        if flags & END_HEADERS:
            self.coming = 0
            self._whole_block(self._block_flags, stream, bytes(self._block), events)

    def _whole_block(self, flags: int, stream: int, block: bytes, events: StreamEvents) -> None:
        """Begin a request with its head, or end it with trailers."""
        self._bodies.tell(events, is_last=False)
        head = self._decoder.decode(block)
        sending = self._sending
        streams = sending.streams
        found = streams.get(stream)
        is_last = flags & END_STREAM != 0
        if found is not None:
            if found.is_ended:
                sending.fail(stream, ErrorCode.STREAM_CLOSED, events)
            elif not is_last or not head.is_trailers or found.left_bytes > 0:
                sending.fail(stream, ErrorCode.PROTOCOL_ERROR, events)
            else:
                self._bodies.ended(stream)
                events.on_data(stream, [], is_last=True)
            return
        if stream <= sending.last_stream:
            # trailers of a stream that was ended here may still be on their way
            if not head.is_trailers:
                raise Broken(
                    ErrorCode.PROTOCOL_ERROR,
                    f"stream {stream} is opened behind stream {sending.last_stream}",
                )
            events.on_noise()
            return
        sending.last_stream = stream
        if len(streams) >= MAX_STREAMS:
            if self.is_acknowledged:
                raise Broken(ErrorCode.PROTOCOL_ERROR, f"over {MAX_STREAMS} streams are open")
            sending.reset(stream, ErrorCode.REFUSED_STREAM)
            events.on_noise()
            return
        if not head.is_request or (is_last and head.content_bytes > 0):
            sending.reset(stream, ErrorCode.PROTOCOL_ERROR)
            events.on_noise()
            return
        streams[stream] = Stream(sending.first_window_bytes, head.content_bytes, is_ended=is_last)
        events.on_request(stream, head.fields, is_whole=is_last)
