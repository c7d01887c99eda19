"""The messages that a link still has to send, and their order. Pure.

Small messages and control frames go first and whole. Large bodies go in chunks, one of each stream in
turn, as far as the peer's credit allows. Bodies are never copied: the buffers given are the buffers sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from capamesh.protocol.links.frames import END, HEADER, HEADER_BYTES, FrameKind

Buffer = bytes | bytearray | memoryview

RECORD_BYTES: Final = 16 * 1024
"""The largest record of TLS (RFC 8446, 5.1)."""
SMALL_BYTES = RECORD_BYTES
"""A body up to one TLS record is copied beside its header: one record, one send (measured: cheaper)."""


class _Bulk:
    """A large message that is partly sent."""

    __slots__ = ("body", "credit", "flags", "is_started", "kind", "left", "meta", "total")

    def __init__(
        self, kind: int, flags: int, meta: bytes, body: Sequence[Buffer], total: int, credit: int
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.meta = meta
        self.body = deque(memoryview(part).cast("B") for part in body if len(part))
        self.total = total
        self.left = total
        self.credit = credit
        self.is_started = False


class Outgoing:
    """The sending half of a link."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._record_bytes = RECORD_BYTES if chunk_bytes % RECORD_BYTES == 0 else 1
        """The bytes that a frame is a multiple of where its body goes on in the next: it ends with a record."""
        self._small: list[bytes] = []
        self.queued_bytes = 0
        """Return the bytes that wait, sendable or not."""
        self._bulk: dict[int, deque[_Bulk]] = {}
        self._turn: deque[int] = deque()
        self._parked: set[int] = set()

    def __bool__(self) -> bool:
        """Return whether something can be sent now."""
        return bool(self._small or self._turn)

    def frame(self, frame: bytes) -> None:
        """Queue a frame without a body."""
        self.queued_bytes += len(frame)
        self._small.append(frame)

    def message(
        self,
        kind: int,
        stream: int,
        meta: bytes,
        body: Sequence[Buffer],
        total: int,
        flags: int,
        credit: int,
    ) -> None:
        """Queue a message whose body has `total` bytes; `credit` of them may be sent before the peer grants more."""
        if total <= SMALL_BYTES and total <= credit and stream not in self._bulk:
            size = len(meta)
            head = HEADER.pack(size + total, size, total, stream, kind, flags | END, 0)
            self._small.append(b"".join((head, meta, *body)))
            self.queued_bytes += len(head) + size + total
            return
        self.queued_bytes += total
        bulk = _Bulk(kind, flags, meta, body, total, credit)
        queue = self._bulk.get(stream)
        if queue is None:
            self._bulk[stream] = deque((bulk,))
            self._turn.append(stream)
        else:
            queue.append(bulk)

    def grant(self, stream: int, count: int) -> None:
        """The peer has room for `count` more bytes of the stream's current message."""
        queue = self._bulk.get(stream)
        if queue is None:
            return
        queue[0].credit += count
        if stream in self._parked:
            self._parked.discard(stream)
            self._turn.append(stream)

    def drop(self, stream: int) -> None:
        """Forget what the stream has still to send."""
        queue = self._bulk.pop(stream, None)
        if queue is None:
            return
        self.queued_bytes -= sum(bulk.left for bulk in queue)
        if stream in self._parked:
            self._parked.discard(stream)
        else:
            self._turn.remove(stream)

    def take(self, budget_bytes: int) -> list[Buffer]:
        """Return buffers to write now: all that is small, then chunks until `budget_bytes` is used."""
        out: list[Buffer] = []
        if self._small:
            self.queued_bytes -= sum(map(len, self._small))
            out.append(self._small[0] if len(self._small) == 1 else b"".join(self._small))
            self._small = []
        turn = self._turn
        while turn and budget_bytes > 0:
            stream = turn.popleft()
            queue = self._bulk[stream]
            budget_bytes -= self._chunk(stream, queue[0], out)
            if queue[0].left == 0 and queue[0].is_started:
                queue.popleft()
                if not queue:
                    del self._bulk[stream]
                    continue
            if queue[0].credit > 0 or not queue[0].is_started:
                turn.append(stream)
            else:
                self._parked.add(stream)
        return out

    def _chunk(self, stream: int, bulk: _Bulk, out: list[Buffer]) -> int:
        head_bytes = HEADER_BYTES if bulk.is_started else HEADER_BYTES + len(bulk.meta)
        count = min(bulk.left, bulk.credit, self._chunk_bytes - head_bytes % self._record_bytes)
        bulk.left -= count
        self.queued_bytes -= count
        bulk.credit -= count
        flags = bulk.flags | END if bulk.left == 0 else 0
        if bulk.is_started:
            out.append(HEADER.pack(count, 0, 0, stream, FrameKind.CHUNK, flags, 0))
        else:
            bulk.is_started = True
            size = len(bulk.meta)
            head = HEADER.pack(size + count, size, bulk.total, stream, bulk.kind, flags, 0)
            out.append(head + bulk.meta)
        body, needed = bulk.body, count
        while needed:
            part = body[0]
            if len(part) <= needed:
                out.append(part)
                needed -= len(part)
                body.popleft()
            else:
                out.append(part[:needed])
                body[0] = part[needed:]
                needed = 0
        return count
