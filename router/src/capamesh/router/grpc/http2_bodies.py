"""The bodies that come on a connection of HTTP/2 by hand, and the windows for them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.router.grpc.http2 import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, ErrorCode
from capamesh.router.grpc.http2_wire import END_STREAM, WINDOW_UPDATE, Broken

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import StreamEvents
    from capamesh.router.grpc.http2_sending import Sending


class Bodies:
    """The bodies of one connection."""

    __slots__ = (
        "_is_discarding",
        "_is_last",
        "_owed_bytes",
        "_pieces",
        "_room_bytes",
        "_sending",
        "_stream",
        "left_bytes",
    )

    def __init__(self, sending: Sending) -> None:
        """`sending` has the streams, and sends the updates of their windows."""
        self._sending = sending
        self.left_bytes = 0
        """The bytes that are still to come of the frame that is coming."""
        self._stream = 0
        """The stream of that frame, and of `_pieces`."""
        self._is_last = False
        self._is_discarding = False
        """The frame's bytes are nobody's."""
        self._pieces: list[memoryview] = []
        """The bytes of one stream that are to be told."""
        self._room_bytes: int = CONNECTION_WINDOW_BYTES
        """The bytes that the client may send on all streams."""
        self._owed_bytes = 0
        """The bytes that were taken, and for which that window was not opened yet."""

    def begin(
        self, stream: int, size_bytes: int, flags: int, events: StreamEvents, padding_bytes: int = 0
    ) -> None:
        """Take the head of a frame with bytes of a request, of which some are padding."""
        if stream != self._stream:
            self.tell(events, is_last=False)
        if not stream:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "DATA is of no stream")
        self._room_bytes -= size_bytes
        if self._room_bytes < 0:
            raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "more was sent than the window allows")
        self._stream = stream
        self.left_bytes = left = size_bytes - padding_bytes
        self._is_last = flags & END_STREAM != 0
        found = self._sending.streams.get(stream)
        code: ErrorCode | None = None
        if found is None:
            self._sending.see_closed(stream, "DATA")
            events.on_noise()
        elif found.is_ended:
            code = ErrorCode.STREAM_CLOSED
        else:
            found.room_bytes -= size_bytes
            if found.room_bytes < 0:
                code = ErrorCode.FLOW_CONTROL_ERROR
            elif found.left_bytes >= 0:
                found.left_bytes -= left
                if found.left_bytes < 0 or (self._is_last and found.left_bytes):
                    code = ErrorCode.PROTOCOL_ERROR
        if code is not None:
            self.tell(events, is_last=False)
            self._sending.fail(stream, code, events)
        self._is_discarding = found is None or code is not None
        if self._is_discarding:
            self._is_last = False
            self._owe(size_bytes)
            return
        if padding_bytes:
            self.taken(stream, padding_bytes)
        if left:
            return
        if self._is_last:
            self.tell(events, is_last=True)
        else:
            events.on_noise()

    def take(self, data: memoryview, events: StreamEvents) -> None:
        """Take bytes of the frame that is coming."""
        if not self._is_discarding:
            self._pieces.append(data)
        self.left_bytes -= len(data)
        if not self.left_bytes and self._is_last:
            self.tell(events, is_last=True)

    def tell(self, events: StreamEvents, *, is_last: bool) -> None:
        """Tell the bytes that have come of one stream."""
        pieces = self._pieces
        if not pieces and not is_last:
            return
        self._pieces = []
        stream = self._stream
        if is_last:
            self._is_last = False
            self.ended(stream)
        events.on_data(stream, pieces, is_last=is_last)

    def ended(self, stream: int) -> None:
        """Note that the client has sent all of a stream."""
        found = self._sending.streams.get(stream)
        if found is not None:
            found.is_ended = True
            if found.is_answered:
                self._sending.drop(stream)

    def taken(self, stream: int, size_bytes: int) -> None:
        """Let the client send so many bytes more, on a stream and on the connection."""
        self._owe(size_bytes)
        found = self._sending.streams.get(stream)
        if found is None or found.is_ended:
            return
        found.owed_bytes += size_bytes
        if found.owed_bytes >= STREAM_WINDOW_BYTES // 2:
            more_bytes, found.owed_bytes = found.owed_bytes, 0
            found.room_bytes += more_bytes
            self._sending.frame(WINDOW_UPDATE, 0, stream, more_bytes.to_bytes(4, "big"))

    def _owe(self, size_bytes: int) -> None:
        """Open the connection's window for so much more, once that is worth a frame."""
        self._owed_bytes += size_bytes
        if self._owed_bytes >= CONNECTION_WINDOW_BYTES // 2:
            more_bytes, self._owed_bytes = self._owed_bytes, 0
            self._room_bytes += more_bytes
            self._sending.frame(WINDOW_UPDATE, 0, 0, more_bytes.to_bytes(4, "big"))
