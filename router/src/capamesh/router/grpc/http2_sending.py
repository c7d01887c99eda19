"""The sending side of a connection of HTTP/2 by hand: frames, the client's windows, what waits for them. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from capamesh.router.grpc.header_blocks import encoded
from capamesh.router.grpc.http2 import ErrorCode
from capamesh.router.grpc.http2_wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW_BYTES,
    FRAME_BYTES,
    HEADERS,
    MOST_WINDOW_BYTES,
    RST_STREAM,
    Broken,
    Stream,
    frame_head,
)

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import Headers, StreamEvents

_LONGEST_BYTES: Final = 64 * 1024
"""The longest frame that is sent to who takes longer ones (guess: the others of the connection do not wait for long)."""
_MOST_BLOCKS: Final = 256
"""Header blocks of answers that are remembered (guess: the nodes of some models); then all are forgotten."""
_LARGE_BLOCK_BYTES: Final = 256
_NO_TABLE: Final = b"\x20"
"""Tells the client that no table is used, which is due where it makes the table smaller: RFC 7541, section 4.2."""


class Sending:
    """Sends on one connection, as the client allows."""

    __slots__ = (
        "_blocks",
        "_counted",
        "_frame_bytes",
        "_is_table_told",
        "_out",
        "_out_bytes",
        "_waiting",
        "first_window_bytes",
        "last_stream",
        "streams",
        "unsent_bytes",
        "window_bytes",
    )

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        """The streams that are open on either side."""
        self.last_stream = 0
        """The newest stream that the client has opened."""
        self.window_bytes: int = FIRST_WINDOW_BYTES
        self.first_window_bytes: int = FIRST_WINDOW_BYTES
        self.unsent_bytes = 0
        self._out: list[bytes | memoryview] = []
        self._counted = 0
        """The pieces of `_out` whose bytes are in `_out_bytes`."""
        self._out_bytes = 0
        self._frame_bytes: int = FRAME_BYTES
        self._blocks: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}
        self._is_table_told = True
        self._waiting: dict[int, Stream] = {}
        """The streams with bytes that wait for a window."""

    def taken(self) -> bytes:
        """Return what is to be written now."""
        out = self._out
        if not out:
            return b""
        self._out = []
        self._counted = self._out_bytes = 0
        return b"".join(out)

    def all_unsent_bytes(self) -> int:
        """Return how many bytes wait, also of frames that are to be written as soon as the client reads."""
        out = self._out
        for at in range(
            self._counted, len(out)
        ):  # those before were counted when this was asked last
            piece = out[at]
            self._out_bytes += piece.nbytes if isinstance(piece, memoryview) else len(piece)
        self._counted = len(out)
        return self.unsent_bytes + self._out_bytes

    def see_closed(self, stream: int, what: str) -> None:
        """See that a stream that is not open was so once. Raises `Broken`."""
        if stream > self.last_stream or not stream & 1:
            raise Broken(ErrorCode.PROTOCOL_ERROR, f"{what} is of a stream that was never opened")

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Send a frame as it is."""
        self._out.append(frame_head(len(payload), kind, flags, stream))
        self._out.append(payload)

    def raw(self, data: bytes) -> None:
        """Send frames that are made already."""
        self._out.append(data)

    def headers(self, stream: int, headers: Headers, flags: int) -> None:
        """Send a header block."""
        key = tuple(headers)
        block = self._blocks.get(key)
        if block is None:
            block = encoded(headers)
            if len(block) <= _LARGE_BLOCK_BYTES:
                if len(self._blocks) >= _MOST_BLOCKS:
                    self._blocks.clear()
                self._blocks[key] = block
        if not self._is_table_told:
            self._is_table_told = True
            block = _NO_TABLE + block
        if len(block) <= FRAME_BYTES:
            self._out.append(frame_head(len(block), HEADERS, flags | END_HEADERS, stream))
            self._out.append(block)
            return
        kind, last = HEADERS, len(block) - FRAME_BYTES
        for at in range(0, len(block), FRAME_BYTES):
            piece = block[at : at + FRAME_BYTES]
            self.frame(kind, flags | (END_HEADERS if at >= last else 0), stream, piece)
            kind, flags = CONTINUATION, 0

    def data(self, stream: int, found: Stream, data: bytes | memoryview) -> None:
        """Send bytes of an answer, as far as the windows allow; they must not change."""
        size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        if not size_bytes:
            return
        if (
            found.unsent is None
            and size_bytes <= self._frame_bytes
            and size_bytes <= found.window_bytes
            and size_bytes <= self.window_bytes
        ):
            found.window_bytes -= size_bytes
            self.window_bytes -= size_bytes
            self._out.append(frame_head(size_bytes, DATA, 0, stream))
            self._out.append(data)
            return
        if found.unsent is None:
            found.unsent = deque()
            self._waiting[stream] = found
        found.unsent.append(data)
        found.unsent_bytes += size_bytes
        self.unsent_bytes += size_bytes
        self._pump(stream, found)

    def answer(
        self,
        stream: int,
        found: Stream,
        headers: Headers,
        data: bytes | memoryview,
        trailers: Headers,
    ) -> None:
        """Send a whole answer."""
        self.headers(stream, headers, 0)
        self.data(stream, found, data)
        if found.unsent is not None:
            found.trailers = trailers
            return
        self.headers(stream, trailers, END_STREAM)
        found.is_answered = True
        if found.is_ended:
            self.streams.pop(stream, None)

    def end(self, stream: int, found: Stream, trailers: Headers) -> None:
        """Send the trailers behind all bytes of an answer."""
        if found.unsent is not None:
            found.trailers = trailers
            return
        self.headers(stream, trailers, END_STREAM)
        self.answered(stream, found)

    def answered(self, stream: int, found: Stream) -> None:
        """Note that all of an answer was sent; a stream that has ended on both sides is forgotten."""
        found.is_answered = True
        if found.is_ended:
            self.streams.pop(stream, None)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream at once."""
        self.frame(RST_STREAM, 0, stream, int(code).to_bytes(4, "big"))
        self.drop(stream)

    def drop(self, stream: int) -> None:
        """Forget a stream, and what was to be sent on it."""
        found = self.streams.pop(stream, None)
        if found is not None and found.unsent is not None:
            del self._waiting[stream]
            self.unsent_bytes -= found.unsent_bytes
            found.unsent, found.unsent_bytes = None, 0

    def fail(self, stream: int, code: ErrorCode, events: StreamEvents) -> None:
        """End a stream for what the client did, and tell so."""
        self.reset(stream, code)
        events.on_noise()
        events.on_gone(stream)

    # what the client allows

    def has_small_table(self) -> None:
        """Note that the client makes its table smaller, of which it has to be told that none is used."""
        self._is_table_told = False

    def has_frames(self, size_bytes: int) -> None:
        """Note how long frames the client takes."""
        self._frame_bytes = min(size_bytes, _LONGEST_BYTES)

    def open(self, stream: int, more_bytes: int) -> bool:
        """Take so much more of a window, the connection's for stream 0; False: it is larger than a window may be."""
        if not stream:
            self.window_bytes += more_bytes
            return self.window_bytes <= MOST_WINDOW_BYTES
        found = self.streams.get(stream)
        if found is None:  # its answer has ended
            return True
        found.window_bytes += more_bytes
        return found.window_bytes <= MOST_WINDOW_BYTES

    def begin_windows(self, size_bytes: int) -> bool:
        """Take another first window, of all streams; False: one becomes larger than a window may be."""
        more_bytes = size_bytes - self.first_window_bytes
        self.first_window_bytes = size_bytes
        is_fine = True
        for found in self.streams.values():
            found.window_bytes += more_bytes
            is_fine = is_fine and found.window_bytes <= MOST_WINDOW_BYTES
        return is_fine

    def pump(self) -> None:
        """Send of all that waits what the windows allow, a frame of each stream in turn."""
        is_moving = True
        while self._waiting and self.window_bytes > 0 and is_moving:
            is_moving = False
            for stream, found in [*self._waiting.items()]:
                if self._pump(stream, found, at_most=1):
                    is_moving = True

    def _pump(self, stream: int, found: Stream, at_most: int = MOST_WINDOW_BYTES) -> bool:
        """Send some frames of a stream at most; return whether any was."""
        sent = 0
        unsent = found.unsent
        if unsent is None:
            return False
        while unsent and sent < at_most:
            room_bytes = min(found.window_bytes, self.window_bytes, self._frame_bytes)
            if room_bytes <= 0:
                return sent > 0
            piece = unsent.popleft()
            size_bytes = piece.nbytes if isinstance(piece, memoryview) else len(piece)
            if size_bytes > room_bytes:
                view = memoryview(piece)
                unsent.appendleft(view[room_bytes:])
                piece, size_bytes = view[:room_bytes], room_bytes
            found.window_bytes -= size_bytes
            self.window_bytes -= size_bytes
            found.unsent_bytes -= size_bytes
            self.unsent_bytes -= size_bytes
            self._out.append(frame_head(size_bytes, DATA, 0, stream))
            self._out.append(piece)
            sent += 1
        if not unsent:
            found.unsent = None
            del self._waiting[stream]
            trailers, found.trailers = found.trailers, None
            if trailers is not None:
                self.headers(stream, trailers, END_STREAM)
                self.answered(stream, found)
        return sent > 0
