"""HTTP/2 by nghttp2, through the package ngh2: what HTTP/2 by hand is compared with. Pure."""

from __future__ import annotations

from typing import Final

from ngh2 import (
    Configuration,
    Connection,
    DataReceived,
    DenialOfServiceError,
    GoAwayReceived,
    NGH2Error,
    RequestReceived,
    Role,
    Setting,
    SettingsAcknowledged,
    StreamClosed,
    TrailersReceived,
)
from typing_extensions import override

from capamesh.router.grpc.http2 import (
    CONNECTION_WINDOW_BYTES,
    MAX_HEADER_BYTES,
    MAX_STREAMS,
    STREAM_WINDOW_BYTES,
    ErrorCode,
    Headers,
    Http2Session,
    Misbehaved,
    StreamEvents,
    goaway,
)

_CONFIGURATION: Final = Configuration(
    auto_window_update=False,
    max_outbound_ack=100,
    max_inbound_header_list_size=MAX_HEADER_BYTES,
    max_inbound_header_count=256,
)
_SETTINGS: Final = {
    Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
}


class SessionByNgh2(Http2Session):
    """One connection, by nghttp2."""

    __slots__ = (
        "_connection",
        "_has_left",
        "_is_broken",
        "_last_stream",
        "_refused",
        "_written",
    )

    def __init__(self) -> None:
        self._has_left = False
        self._last_stream = 0
        self._is_broken = False
        """The library takes and makes nothing any more."""
        self._refused: list[int] = []
        """Streams to be reset behind their answers: a reset drops what is not written yet."""
        self._written = b""
        """The bytes to write that the library has given already."""
        self._connection = connection = Connection(Role.SERVER, _CONFIGURATION)
        connection.initiate_connection(_SETTINGS)
        connection.set_local_window_size(CONNECTION_WINDOW_BYTES)

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
        try:
            connection.receive_data(data)
        except NGH2Error as error:
            self._is_broken = True
            is_flood = isinstance(error, DenialOfServiceError)
            code = ErrorCode.ENHANCE_YOUR_CALM if is_flood else ErrorCode.PROTOCOL_ERROR
            raise Misbehaved(str(error), goaway(self.last_stream, code, str(error))) from None
        told = connection.events()
        if connection.want_write:
            self._written += connection.data_to_send()  # a GOAWAY of its own shows only then
            if not connection.want_read and not any(type(e) is GoAwayReceived for e in told):
                self._is_broken = True
                words, self._written = self._written, b""
                raise Misbehaved("it broke the protocol", words)
        # What has come of a body is told at once: a large one has a frame for each 16 KiB, and bodies take turns.
        bodies: dict[int, list[bytes]] = {}
        for event in told:
            kind = type(event)
            if isinstance(event, DataReceived):
                stream = event.stream_id
                pieces = bodies.get(stream)
                if pieces is None:
                    pieces = bodies[stream] = []
                pieces.append(event.data)
                if event.end_stream:
                    del bodies[stream]
                    events.on_data(stream, pieces, is_last=True)
                continue
            if isinstance(event, RequestReceived):
                self._last_stream = max(self._last_stream, event.stream_id)
                events.on_request(event.stream_id, event.headers, is_whole=event.end_stream)
            elif kind is StreamClosed:
                assert isinstance(event, StreamClosed)
                stream = event.stream_id
                pieces = bodies.pop(stream, None)
                if pieces is not None:  # they have taken room of the connection's window
                    events.on_data(stream, pieces, is_last=False)
                events.on_gone(stream)
            elif isinstance(event, TrailersReceived):
                events.on_data(event.stream_id, bodies.pop(event.stream_id, []), is_last=True)
            elif isinstance(event, GoAwayReceived):
                self._has_left = True
            elif kind is not SettingsAcknowledged:
                events.on_noise()
        for stream, pieces in bodies.items():
            events.on_data(stream, pieces, is_last=False)

    @override
    def start_answer(self, stream: int, headers: Headers) -> None:
        try:
            self._connection.send_response(stream, headers)
        except NGH2Error:
            return  # the stream is gone

    @override
    def refuse(self, stream: int, headers: Headers, *, is_all_here: bool) -> None:
        try:
            self._connection.send_response(stream, headers, end_stream=True)
        except NGH2Error:
            return  # the stream is gone
        if not is_all_here:
            self._refused.append(stream)

    @override
    def send(self, stream: int, data: bytes | memoryview) -> None:
        try:
            self._connection.send_data(stream, data)
        except NGH2Error:
            return  # the stream is gone

    @override
    def end_answer(self, stream: int, trailers: Headers) -> None:
        try:
            self._connection.send_trailers(stream, trailers)
        except NGH2Error:
            return  # the stream is gone

    @override
    def reset(self, stream: int, code: ErrorCode) -> None:
        try:
            self._connection.reset_stream(stream, code)
        except NGH2Error:
            return  # it is gone already

    @override
    def taken(self, stream: int, size_bytes: int) -> None:
        try:
            self._connection.acknowledge_received_data(size_bytes, stream)
        except NGH2Error:
            return  # the connection is over

    @override
    def go_away(self) -> None:
        try:
            self._connection.send_goaway(ErrorCode.NO_ERROR)
        except NGH2Error:
            return  # the connection is over

    @override
    def to_send(self) -> bytes:
        if self._is_broken:
            return b""
        connection = self._connection
        written, self._written = self._written, b""
        try:
            data = connection.data_to_send()
            if self._refused:
                for stream in self._refused:
                    self.reset(stream, ErrorCode.NO_ERROR)
                self._refused.clear()
                data += connection.data_to_send()
        except NGH2Error:
            self._is_broken = True
            return b""
        return written + data if written else data

    @property
    @override
    def unsent_bytes(self) -> int:
        return 0 if self._is_broken else self._connection.queued_body_size()

    @override
    def unsent_of(self, stream: int) -> int:
        return 0 if self._is_broken else self._connection.queued_body_size(stream)
