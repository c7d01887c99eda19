"""HTTP/2 by hand, RFC 9113, as far as a server of gRPC needs it: what a call costs, and a large body's bytes as they lie. Pure.

Tests compare it with the package h2, on the same bytes and by made-up clients.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from capamesh.router.grpc.header_blocks import BadBlock
from capamesh.router.grpc.http2 import (
    CONNECTION_WINDOW_BYTES,
    MAX_HEADER_BYTES,
    MAX_STREAMS,
    PREFACE,
    STREAM_WINDOW_BYTES,
    ErrorCode,
    Headers,
    Http2Session,
    Misbehaved,
    StreamEvents,
    goaway,
)
from capamesh.router.grpc.http2_bodies import Bodies
from capamesh.router.grpc.http2_heads import Heads
from capamesh.router.grpc.http2_sending import Sending
from capamesh.router.grpc.http2_wire import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_STREAM,
    FIRST_WINDOW,
    FIRST_WINDOW_BYTES,
    FRAME_BYTES,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MOST_FRAME,
    MOST_FRAME_BYTES,
    MOST_LIST,
    MOST_STREAMS,
    MOST_WINDOW_BYTES,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    TABLE_SIZE,
    WINDOW_UPDATE,
    Broken,
    frame_head,
)

_MOST_SETTINGS: Final = 32
"""The most settings in one frame (nghttp2's bound)."""
_TABLE_BYTES: Final = 4096


def _opening() -> bytes:
    """Return the settings of this side, and the window of the connection."""
    settings = (
        (MOST_STREAMS, MAX_STREAMS),
        (FIRST_WINDOW, STREAM_WINDOW_BYTES),
        (MOST_LIST, MAX_HEADER_BYTES),
    )
    payload = b"".join([SETTING.pack(number, value) for number, value in settings])
    more_bytes = CONNECTION_WINDOW_BYTES - FIRST_WINDOW_BYTES
    return b"".join(
        (
            frame_head(len(payload), SETTINGS, 0, 0),
            payload,
            frame_head(4, WINDOW_UPDATE, 0, 0),
            more_bytes.to_bytes(4, "big"),
        )
    )


_OPENING: Final = _opening()


class SessionByHand(Http2Session):
    """One connection."""

    __slots__ = (
        "_bodies",
        "_has_left",
        "_has_settings",
        "_heads",
        "_is_over",
        "_kept",
        "_preface_left",
        "_sending",
    )

    def __init__(self) -> None:
        self._has_left = False
        self._sending = sending = Sending()
        sending.raw(_OPENING)
        self._bodies = bodies = Bodies(sending)
        self._heads = Heads(sending, bodies)
        self._is_over = False
        self._preface_left = PREFACE
        self._has_settings = False
        """The client's first settings have come, which go before all else."""
        self._kept = bytearray()
        """The beginning of a frame that is not here whole."""

    @property
    @override
    def has_left(self) -> bool:
        return self._has_left

    @property
    @override
    def last_stream(self) -> int:
        return self._sending.last_stream

    # what comes

    @override
    def receive(self, data: bytes | memoryview, events: StreamEvents) -> None:
        if self._is_over:
            return
        try:
            self._receive(memoryview(data), events)
            self._bodies.tell(events, is_last=False)
        except (Broken, BadBlock) as error:
            self._is_over = True
            if isinstance(error, Broken):
                code = error.code
            elif error.is_too_long:
                code = ErrorCode.ENHANCE_YOUR_CALM
            else:
                code = ErrorCode.COMPRESSION_ERROR
            words = self._sending.taken() + goaway(self.last_stream, code, error.reason)
            raise Misbehaved(error.reason, words) from None

    def _receive(self, view: memoryview, events: StreamEvents) -> None:
        at, end = 0, len(view)
        if self._preface_left:
            at = self._take_preface(view)
        bodies = self._bodies
        while at < end:
            if bodies.left_bytes:
                stop = min(end, at + bodies.left_bytes)
                bodies.take(view[at:stop], events)
                at = stop
            elif self._kept:
                at = self._take_more(view, at, events)
            else:
                at = self._take_next(view, at, events)

    def _take_preface(self, view: memoryview) -> int:
        """Take what there is of the preface; return where the frames begin."""
        preface = self._preface_left
        here = bytes(view[: len(preface)])
        if not preface.startswith(here):
            raise Broken(ErrorCode.PROTOCOL_ERROR, "the connection begins with no preface")
        self._preface_left = preface[len(here) :]
        return len(here)

    def _take_next(self, view: memoryview, at: int, events: StreamEvents) -> int:
        """Take the frame that begins there, or keep what there is of it; return where the next begins."""
        begin, end = at + HEAD_BYTES, len(view)
        if begin > end:
            self._kept += view[at:end]
            return end
        head: tuple[int, int, int, int, int] = HEAD.unpack_from(view, at)
        high, low, kind, flags, stream = head
        size_bytes = (high << 8) + low
        stream &= 0x7FFFFFFF
        self._check(size_bytes, kind, flags)
        if kind == DATA and not flags & PADDED:
            self._bodies.begin(stream, size_bytes, flags, events)
            return begin
        stop = begin + size_bytes
        if stop > end:
            self._kept += view[at:end]
            return end
        self._take_frame(kind, flags, stream, bytes(view[begin:stop]), events)
        return stop

    def _take_more(self, view: memoryview, at: int, events: StreamEvents) -> int:
        """Take more of the frame of which something is kept; return where what follows begins."""
        kept = self._kept
        missing_bytes = HEAD_BYTES - len(kept)
        if missing_bytes <= 0:
            head: tuple[int, int, int, int, int] = HEAD.unpack_from(kept)
            missing_bytes += (head[0] << 8) + head[1]
        stop = min(len(view), at + missing_bytes)
        kept += view[at:stop]
        if len(kept) < HEAD_BYTES:
            return stop
        head = HEAD.unpack_from(kept)
        high, low, kind, flags, stream = head
        size_bytes = (high << 8) + low
        stream &= 0x7FFFFFFF
        self._check(size_bytes, kind, flags)
        if kind == DATA and not flags & PADDED:
            kept.clear()
            self._bodies.begin(stream, size_bytes, flags, events)
        elif len(kept) - HEAD_BYTES == size_bytes:
            payload = bytes(kept[HEAD_BYTES:])
            kept.clear()
            self._take_frame(kind, flags, stream, payload, events)
        return stop

    def _check(self, size_bytes: int, kind: int, flags: int) -> None:
        """Look at the head of a frame, as far as all frames are alike."""
        if size_bytes > FRAME_BYTES:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {size_bytes} bytes")
        if not self._has_settings and (kind != SETTINGS or flags & ACK):
            raise Broken(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._heads.coming and kind != CONTINUATION:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")

    def _take_frame(
        self, kind: int, flags: int, stream: int, payload: bytes, events: StreamEvents
    ) -> None:
        """Act on a whole frame."""
        if kind == HEADERS:
            self._heads.headers(flags, stream, payload, events)
        elif kind == CONTINUATION:
            self._heads.continuation(flags, stream, payload, events)
        elif kind == DATA:
            padding_bytes = payload[0] + 1 if payload else 1
            if padding_bytes > len(payload):
                raise Broken(ErrorCode.PROTOCOL_ERROR, "a frame is shorter than its padding")
            self._bodies.begin(stream, len(payload), flags, events, padding_bytes)
            if self._bodies.left_bytes:
                self._bodies.take(memoryview(payload)[1 : 1 + self._bodies.left_bytes], events)
        elif kind == WINDOW_UPDATE:
            self._window_update(stream, payload, events)
        elif kind == SETTINGS:
            self._settings(flags, stream, payload, events)
        elif kind == PING:
            self._sized(stream, payload, 8)
            if not flags & ACK:
                self._sending.frame(PING, ACK, 0, payload)
            events.on_noise()
        elif kind == RST_STREAM:
            self._reset_by_client(stream, payload, events)
        elif kind == GOAWAY:
            if stream or len(payload) < 8:
                raise Broken(ErrorCode.PROTOCOL_ERROR, "GOAWAY is of a stream, or too short")
            self._has_left = True
        elif kind == PRIORITY:
            self._priority(stream, payload, events)
        elif kind == PUSH_PROMISE:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a client does not push")
        else:
            events.on_noise()

    # other frames

    def _sized(self, stream: int, payload: bytes, size_bytes: int) -> None:
        """See that a frame is of the connection, and as long as it has to be."""
        if stream:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a frame of the connection is of a stream")
        if len(payload) != size_bytes:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {len(payload)} bytes")

    def _settings(self, flags: int, stream: int, payload: bytes, events: StreamEvents) -> None:
        if flags & ACK:
            self._sized(stream, payload, 0)
            self._heads.is_acknowledged = True
            return
        whole_bytes = len(payload) // SETTING.size * SETTING.size
        self._sized(stream, payload, whole_bytes)
        if whole_bytes > SETTING.size * _MOST_SETTINGS:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "too many settings in one frame")
        self._has_settings = True
        sending = self._sending
        for at in range(0, whole_bytes, SETTING.size):
            number, value = SETTING.unpack_from(payload, at)
            if number == FIRST_WINDOW:
                if value > MOST_WINDOW_BYTES or not sending.begin_windows(value):
                    raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            elif number == MOST_FRAME:
                if not FRAME_BYTES <= value <= MOST_FRAME_BYTES:
                    raise Broken(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes are asked for")
                sending.has_frames(value)
            elif number == TABLE_SIZE:
                if value < _TABLE_BYTES:
                    sending.has_small_table()
            elif number == ENABLE_PUSH and value > 1:
                raise Broken(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        sending.frame(SETTINGS, ACK, 0, b"")
        events.on_noise()
        sending.pump()

    def _window_update(self, stream: int, payload: bytes, events: StreamEvents) -> None:
        if len(payload) != 4:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {len(payload)} bytes")
        more_bytes = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream and stream not in self._sending.streams:
            self._sending.see_closed(stream, "WINDOW_UPDATE")
        events.on_noise()
        if not more_bytes or not self._sending.open(stream, more_bytes):
            code = ErrorCode.FLOW_CONTROL_ERROR if more_bytes else ErrorCode.PROTOCOL_ERROR
            if not stream:
                raise Broken(code, f"a window is opened by {more_bytes} bytes")
            if stream in self._sending.streams:
                self._sending.fail(stream, code, events)
            return
        self._sending.pump()

    def _reset_by_client(self, stream: int, payload: bytes, events: StreamEvents) -> None:
        if len(payload) != 4:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {len(payload)} bytes")
        self._bodies.tell(events, is_last=False)
        if stream not in self._sending.streams:
            self._sending.see_closed(stream, "RST_STREAM")
        self._sending.drop(stream)
        events.on_noise()
        events.on_gone(stream)

    def _priority(self, stream: int, payload: bytes, events: StreamEvents) -> None:
        if not stream:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "PRIORITY is of no stream")
        events.on_noise()
        if len(payload) != 5:
            if stream > self.last_stream:
                raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {len(payload)} bytes")
            self._bodies.tell(events, is_last=False)
            self._sending.fail(stream, ErrorCode.FRAME_SIZE_ERROR, events)

    # what goes

    @override
    def start_answer(self, stream: int, headers: Headers) -> None:
        if stream in self._sending.streams and not self._is_over:
            self._sending.headers(stream, headers, 0)

    @override
    def refuse(self, stream: int, headers: Headers, *, is_all_here: bool) -> None:
        sending = self._sending
        found = sending.streams.get(stream)
        if found is None or self._is_over:
            return
        sending.headers(stream, headers, END_STREAM)
        if is_all_here:
            sending.answered(stream, found)
        else:
            sending.reset(stream, ErrorCode.NO_ERROR)

    @override
    def send(self, stream: int, data: bytes | memoryview) -> None:
        found = self._sending.streams.get(stream)
        if found is not None:
            self._sending.data(stream, found, data)

    @override
    def end_answer(self, stream: int, trailers: Headers) -> None:
        found = self._sending.streams.get(stream)
        if found is not None:
            self._sending.end(stream, found, trailers)

    @override
    def answer(
        self, stream: int, headers: Headers, data: bytes | memoryview, trailers: Headers
    ) -> None:
        found = self._sending.streams.get(stream)
        if found is not None:
            self._sending.answer(stream, found, headers, data, trailers)

    @override
    def reset(self, stream: int, code: ErrorCode) -> None:
        if stream in self._sending.streams:
            self._sending.reset(stream, code)

    @override
    def taken(self, stream: int, size_bytes: int) -> None:
        self._bodies.taken(stream, size_bytes)

    @override
    def go_away(self) -> None:
        self._sending.raw(goaway(self.last_stream, ErrorCode.NO_ERROR, ""))

    @override
    def to_send(self) -> bytes:
        return b"" if self._is_over else self._sending.taken()

    @property
    @override
    def unsent_bytes(self) -> int:
        return 0 if self._is_over else self._sending.all_unsent_bytes()

    @override
    def unsent_of(self, stream: int) -> int:
        found = self._sending.streams.get(stream)
        return 0 if found is None or self._is_over else found.unsent_bytes
