"""HTTP/2 by the package h2: what HTTP/2 by hand is compared with. Pure."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import DenialOfServiceError, ProtocolError
from h2.settings import SettingCodes, Settings
from typing_extensions import override

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

_CONFIGURATION: Final = H2Configuration(client_side=False, header_encoding=None)
_FIRST_WINDOW_BYTES: Final = 65_535
"""The window of a connection before it is opened: RFC 9113, section 6.9.2."""
_FRAME_HEAD_BYTES: Final = 9
_SETTINGS: Final = 4
"""The type of frames that a client has to begin with: RFC 9113, sections 3.4 and 6.5."""
_FRAME_BYTES: Final = 16_384
"""The longest frame where no settings say otherwise: RFC 9113, section 4.2."""


class _FrameHeads:
    """The heads of the frames that come: h2 looks at them only once a frame is whole, and would keep 16 MiB for that.

    Nor does it mind which frame is the first.
    """

    def __init__(self) -> None:
        self._left_bytes = len(PREFACE)
        """The bytes until the next frame begins."""
        self._begun = b""
        """The part of a frame's first 9 bytes that is here."""
        self._is_first = True

    def fault(self, data: bytes) -> tuple[ErrorCode, str] | None:
        """Return what is wrong with a frame that begins in `data`: it is too long, or the first and no SETTINGS."""
        at = 0
        while at < len(data):
            if self._left_bytes:
                step = min(self._left_bytes, len(data) - at)
                self._left_bytes -= step
                at += step
                continue
            step = _FRAME_HEAD_BYTES - len(self._begun)
            self._begun += data[at : at + step]
            at += step
            if len(self._begun) == _FRAME_HEAD_BYTES:
                self._left_bytes = int.from_bytes(self._begun[:3], "big")
                kind, self._begun = self._begun[3], b""
                if self._is_first and kind != _SETTINGS:
                    return ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS"
                self._is_first = False
                if self._left_bytes > _FRAME_BYTES:
                    return ErrorCode.FRAME_SIZE_ERROR, "too large frame size"
        return None


@dataclass
class _Unsent:
    """The part of one answer that waits for the client's windows."""

    pieces: deque[memoryview] = field(default_factory=deque)
    trailers: Headers | None = None


class SessionByH2(Http2Session):
    def __init__(self) -> None:
        self._has_left = False
        self._last_stream = 0
        self._connection = connection = H2Connection(_CONFIGURATION)
        connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            },
        )
        connection.initiate_connection()
        connection.decoder.max_header_list_size = MAX_HEADER_BYTES
        connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - _FIRST_WINDOW_BYTES)
        self._written = b""
        """A GOAWAY that h2 does not make: behind its own it takes nothing any more, and open streams are to go on."""
        self._heads = _FrameHeads()
        self._unsent: dict[int, _Unsent] = {}

    @property
    @override
    def has_left(self) -> bool:
        return self._has_left

    @property
    @override
    def last_stream(self) -> int:
        return self._last_stream

    @override
    def receive(self, data: bytes | memoryview, events: StreamEvents) -> None:
        connection = self._connection
        taken = bytes(data)
        fault = self._heads.fault(taken)
        if fault is not None:
            code, reason = fault
            raise Misbehaved(reason, goaway(self.last_stream, code, reason))
        try:
            told = connection.receive_data(taken)
        except ProtocolError as error:
            reason = "Flooding was detected" if isinstance(error, DenialOfServiceError) else ""
            raise Misbehaved(reason or str(error), connection.data_to_send()) from None
        for event in told:
            match event:
                case RequestReceived():
                    stream, is_whole = int(event.stream_id), event.stream_ended is not None
                    self._last_stream = max(self._last_stream, stream)
                    events.on_request(stream, _pairs(event.headers), is_whole=is_whole)
                case DataReceived():
                    stream, is_last = int(event.stream_id), event.stream_ended is not None
                    padding_bytes = int(event.flow_controlled_length) - len(event.data)
                    if padding_bytes:
                        self.taken(stream, padding_bytes)
                    events.on_data(stream, [bytes(event.data)], is_last=is_last)
                case TrailersReceived():
                    events.on_data(int(event.stream_id), [], is_last=True)
                case StreamReset():
                    if event.remote_reset:
                        events.on_noise()
                    self._unsent.pop(int(event.stream_id), None)
                    events.on_gone(int(event.stream_id))
                case ConnectionTerminated():
                    self._has_left = True
                case StreamEnded() | SettingsAcknowledged():
                    pass  # the first is told with the frame that ended it
                case _:
                    events.on_noise()
        for stream in [*self._unsent]:
            self._pump(stream)

    @override
    def start_answer(self, stream: int, headers: Headers) -> None:
        with contextlib.suppress(ProtocolError):  # the stream is gone
            self._connection.send_headers(stream, headers)

    @override
    def refuse(self, stream: int, headers: Headers, *, is_all_here: bool) -> None:
        with contextlib.suppress(ProtocolError):  # the stream is gone
            self._connection.send_headers(stream, headers, end_stream=True)
            if not is_all_here:
                self._connection.reset_stream(stream, ErrorCode.NO_ERROR)

    @override
    def send(self, stream: int, data: bytes | memoryview) -> None:
        unsent = self._unsent.setdefault(stream, _Unsent())
        unsent.pieces.append(memoryview(bytes(data)))
        self._pump(stream)

    @override
    def end_answer(self, stream: int, trailers: Headers) -> None:
        self._unsent.setdefault(stream, _Unsent()).trailers = trailers
        self._pump(stream)

    @override
    def reset(self, stream: int, code: ErrorCode) -> None:
        self._unsent.pop(stream, None)
        with contextlib.suppress(ProtocolError):  # it is gone already
            self._connection.reset_stream(stream, code)

    @override
    def taken(self, stream: int, size_bytes: int) -> None:
        with contextlib.suppress(ProtocolError):  # the connection is over
            self._connection.acknowledge_received_data(size_bytes, stream)

    @override
    def go_away(self) -> None:
        self._written += goaway(self.last_stream, ErrorCode.NO_ERROR, "")

    @override
    def to_send(self) -> bytes:
        written, self._written = self._written, b""
        return self._connection.data_to_send() + written

    @property
    @override
    def unsent_bytes(self) -> int:
        return sum(map(self.unsent_of, self._unsent))

    @override
    def unsent_of(self, stream: int) -> int:
        unsent = self._unsent.get(stream)
        return 0 if unsent is None else sum(map(len, unsent.pieces))

    def _pump(self, stream: int) -> None:
        """Send of an answer what the client's windows allow."""
        unsent = self._unsent.get(stream)
        if unsent is None:
            return
        connection = self._connection
        try:
            while unsent.pieces:
                room_bytes = connection.local_flow_control_window(stream)
                size_bytes = min(room_bytes, connection.max_outbound_frame_size)
                if size_bytes <= 0:
                    return
                piece = unsent.pieces.popleft()
                if len(piece) > size_bytes:
                    unsent.pieces.appendleft(piece[size_bytes:])
                    piece = piece[:size_bytes]
                connection.send_data(stream, bytes(piece))
            if unsent.trailers is not None:
                connection.send_headers(stream, unsent.trailers, end_stream=True)
                del self._unsent[stream]
        except ProtocolError:
            self._unsent.pop(stream, None)


def _pairs(headers: object) -> Headers:
    """Return headers as plain pairs of bytes, as which h2 gives them without an encoding."""
    return [(bytes(name), bytes(value)) for name, value in cast("Headers", headers)]
