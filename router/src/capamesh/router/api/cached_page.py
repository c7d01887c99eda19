"""A page that costs something to make: made in short slices, for all who ask meanwhile, and kept for a moment. IO: asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from capamesh.protocol.errors import LocalError

SLICE_S: Final = 0.003
"""How long the loop is kept at a time (guess: what a batch of reads takes)."""
KEPT_FOR: Final = 20
"""A page is kept for so many times as long as it took to make: 5 % of a core, however often it is asked for (guess)."""
MOST_KEPT_S: Final = 1.0
"""And no longer (guess: what a person takes for now)."""
MOST_BYTES: Final = 32 * 2**20
"""Of one page (guess: 3,000 nodes with 20 models each)."""


class CachedPage:
    """One page."""

    def __init__(
        self, pieces: Callable[[], Iterator[bytes]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`pieces` begins to make it, one piece in a millisecond or two; what it is made of may change meanwhile."""
        self._pieces = pieces
        self._clock = clock
        self._body = b""
        self._until_s = float("-inf")
        self._lock = asyncio.Lock()
        self.made = 0
        """How often it was made."""

    async def body(self) -> bytes:
        """Return the page. Raises `LocalError` when it is too large."""
        if self._clock() < self._until_s:
            return self._body
        async with self._lock:
            if self._clock() >= self._until_s:
                self._body = await self._make()
            return self._body

    async def _make(self) -> bytes:
        self.made += 1
        parts: list[bytes] = []
        size_bytes = 0
        spent_s = 0.0
        began_s = self._clock()
        for part in self._pieces():
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > MOST_BYTES:
                raise LocalError(f"this page has over {MOST_BYTES} bytes, which is the limit")
            now_s = self._clock()
            if now_s - began_s >= SLICE_S:
                spent_s += now_s - began_s
                await asyncio.sleep(0)
                began_s = self._clock()
        body = b"".join(parts)
        now_s = self._clock()
        spent_s += now_s - began_s
        self._until_s = now_s + min(MOST_KEPT_S, KEPT_FOR * spent_s)
        return body
