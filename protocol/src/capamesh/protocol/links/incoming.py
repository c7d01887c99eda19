"""Turns received bytes into frames, writing each body straight to where it belongs. Pure.

The owner reads from its socket into `buffer()` and reports how much with `received()`. Small frames come
many at a time through one scratch buffer; as soon as a frame's body is not complete there, the rest of it
is read directly into the message's own memory.
"""

from __future__ import annotations

from typing import Protocol

from mypy_extensions import mypyc_attr

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.links.frames import HEADER, HEADER_BYTES, LinkLimits

SCRATCH_BYTES = 64 * 1024
"""Some small messages, which are handled together, or the beginning of a chunk, which is copied to where it stays (measured: with
256 KiB who receives 600 KB has 6 % more to do)."""
FIRST_SCRATCH_BYTES = 4 * 1024
"""Room for a HELLO of two certificates. An idle link and one that is not verified keep to it; each read that fills the
scratch buffer makes it four times larger."""


@mypyc_attr(native_class=False)
class FrameSink(Protocol):
    """Receives frames; called by `Incoming` in order."""

    __slots__ = ()

    def frame_started(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body_bytes: int
    ) -> memoryview | None:
        """Return where the frame's body goes, `body_bytes` long, or None to discard it."""

    def frame_ended(self) -> None:
        """The body of the frame last started is complete."""

    def frame_received(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body: memoryview
    ) -> None:
        """Take a frame that is here whole, instead of the other two; `body` is the caller's again afterwards."""


class Incoming:
    """The receiving half of a link."""

    def __init__(self, limits: LinkLimits, sink: FrameSink, most_meta_bytes: int = 0) -> None:
        """`most_meta_bytes` is for frames until `widen`; 0: as in `limits` from the start."""
        self._limits = limits
        self._sink = sink
        self._most_meta_bytes = most_meta_bytes or limits.meta_bytes
        self._size = FIRST_SCRATCH_BYTES
        self._scratch = bytearray(self._size)
        self._view = memoryview(self._scratch)
        self._start = 0
        self._end = 0
        self._direct: memoryview | None = None
        self._skip_bytes = 0

    def widen(self) -> None:
        """The peer has introduced itself: its frames may be of any size within the limits."""
        self._most_meta_bytes = self._limits.meta_bytes

    def buffer(self) -> memoryview:
        """Return the memory that the next bytes go to; never empty."""
        if self._direct is not None:
            return self._direct
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Take the `count` bytes that were written to the start of `buffer()`."""
        if self._direct is not None:
            if count < len(self._direct):
                self._direct = self._direct[count:]
                return
            self._direct = None
            self._sink.frame_ended()
            return
        self._end += count
        self._parse()

    def _parse(self) -> None:
        sink, view = self._sink, self._view
        start, end = self._start, self._end
        if self._skip_bytes:
            skipped = min(self._skip_bytes, end - start)
            self._skip_bytes -= skipped
            start += skipped
            if not self._skip_bytes:
                sink.frame_ended()
        while end - start >= HEADER_BYTES:
            payload, meta_bytes, value, stream, kind, flags, reserved = HEADER.unpack_from(
                view, start
            )
            body_bytes = payload - meta_bytes
            self._check(payload, meta_bytes, body_bytes, reserved)
            body_at = start + HEADER_BYTES + meta_bytes
            if body_at > end:
                self._make_room(start, HEADER_BYTES + meta_bytes)
                return
            meta = bytes(view[start + HEADER_BYTES : body_at])
            start = body_at + body_bytes
            if start <= end:
                sink.frame_received(kind, flags, stream, value, meta, view[body_at:start])
                continue
            target = sink.frame_started(kind, flags, stream, value, meta, body_bytes)
            here = end - body_at
            if target is None:
                self._skip_bytes = body_bytes - here
            else:
                target[:here] = view[body_at:end]
                self._direct = target[here:]
            self._make_room(end, HEADER_BYTES)  # a full buffer mostly ends within a body
            return
        self._make_room(start, HEADER_BYTES)

    def _check(self, payload: int, meta_bytes: int, body_bytes: int, reserved: int) -> None:
        limits = self._limits
        most_meta_bytes = self._most_meta_bytes
        if meta_bytes > most_meta_bytes or body_bytes < 0 or body_bytes > limits.chunk_bytes:
            raise ProtocolViolation(
                f"a frame of {payload} bytes with {meta_bytes} of metadata; at most {most_meta_bytes} of"
                f" metadata and {limits.chunk_bytes} of body"
            )
        if reserved:
            raise ProtocolViolation(f"a frame whose reserved field is {reserved}, not 0")

    def _make_room(self, start: int, needed: int) -> None:
        """Keep the unparsed tail at the front of a scratch buffer that `needed` bytes fit in."""
        tail = self._end - start
        if self._end >= self._size and self._size < SCRATCH_BYTES:
            self._size = min(SCRATCH_BYTES, 4 * self._size)
        size = max(self._size, needed)
        if size != len(self._scratch):
            grown = bytearray(size)
            grown[:tail] = self._view[start : self._end]
            self._scratch, self._view = grown, memoryview(grown)
        elif tail and start:
            self._view[:tail] = bytes(self._view[start : self._end])
        self._start, self._end = 0, tail
