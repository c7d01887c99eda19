"""A client of HTTP/2 that sends what a test says, broken frames too, and keeps what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import hpack
from h2.settings import SettingCodes
from http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    RST,
    SETTINGS,
    WINDOW,
    frame,
    number,
)
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from capamesh.router.grpc.http2 import PREFACE

TABLE_BYTES: Final = 4096
"""The size of a table of headers where settings tell no other (RFC 9113, 6.5.2)."""


class Http2Client:
    """Makes frames, and reads those of a server."""

    def __init__(self, most_table_bytes: int = TABLE_BYTES) -> None:
        """`most_table_bytes` is the table of headers that its settings allow a server."""
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = most_table_bytes
        self._rest = b""
        self.frames: list[Frame] = []
        self.heads: dict[int, list[dict[bytes, bytes]]] = {}
        """The heads and trailers of each stream."""
        self.bodies: dict[int, bytes] = {}

    def begin(self, **settings: int) -> bytes:
        told = [(SettingCodes[name.upper()], value) for name, value in settings.items()]
        values = (code.to_bytes(2, "big") + number(value) for code, value in told)
        return PREFACE + frame(SETTINGS, 0, 0, b"".join(values))

    def head(
        self,
        stream: int,
        headers: Sequence[tuple[bytes, bytes] | tuple[bytes, bytes, bool]] = HEAD,
        *,
        is_last: bool = False,
        is_whole: bool = True,
    ) -> bytes:
        """Return HEADERS; `is_whole` has END_HEADERS. True behind a name and a value keeps them out of the table."""
        flags = (END_HEADERS if is_whole else 0) | (END_STREAM if is_last else 0)
        return frame(HEADERS, flags, stream, self._encoder.encode(headers))

    def data(self, stream: int, data: bytes, *, is_last: bool = False) -> bytes:
        pieces = [data[at : at + 16384] for at in range(0, len(data) or 1, 16384)]
        frames = [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
        return b"".join((*frames, frame(DATA, END_STREAM if is_last else 0, stream, pieces[-1])))

    def window(self, stream: int, more_bytes: int) -> bytes:
        return frame(WINDOW, 0, stream, number(more_bytes))

    def reset(self, stream: int, code: int = 8) -> bytes:
        return frame(RST, 0, stream, number(code))

    def take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self._rest[:9]))
            if len(self._rest) < 9 + size:
                return
            frame.parse_body(memoryview(self._rest[9 : 9 + size]))
            self._rest = self._rest[9 + size :]
            self.frames.append(frame)
            if isinstance(frame, HeadersFrame):
                fields = dict(self._decoder.decode(frame.data, raw=True))
                self.heads.setdefault(frame.stream_id, []).append(fields)
            elif isinstance(frame, DataFrame):
                self.bodies[frame.stream_id] = self.bodies.get(frame.stream_id, b"") + frame.data

    @property
    def goaway(self) -> GoAwayFrame | None:
        found = [frame for frame in self.frames if isinstance(frame, GoAwayFrame)]
        return found[-1] if found else None

    @property
    def resets(self) -> list[tuple[int, int]]:
        return [(f.stream_id, f.error_code) for f in self.frames if isinstance(f, RstStreamFrame)]
