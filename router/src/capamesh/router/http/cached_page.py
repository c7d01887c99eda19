"""A page that costs something to make: made in short slices, for all who ask meanwhile, and kept for a moment. IO: asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from capamesh.protocol.errors import LocalError
from capamesh.router.requests.slices import PAUSE_S, SLICE_S

KEPT_FOR: Final = 20
"""A page, or the error that came of it, is kept for so many times as long as it took to make: 5 % of a core, however often
it is asked for and whoever leaves meanwhile (guess: a page of 50 ms is a second old at most)."""
CHEAP_S: Final = 0.001
"""A page that took less of the processor is made anew each time, as cheap as any request (guess: ten nodes)."""
MOST_BYTES: Final = 32 * 2**20
"""The largest page (guess: 3,000 nodes with 20 models each)."""


class CachedPage:
    """One page."""

    def __init__(
        self,
        pieces: Callable[[], Iterator[bytes]],
        *,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`pieces` begins to make it, one piece in a millisecond or two; what it is made of may change meanwhile.

        What it takes is told by `work_clock`, in seconds of this thread's processor time.
        """
        self._pieces = pieces
        self._clock = clock
        self._work_clock = work_clock
        self._body: bytes | Exception = b""
        self._spent_s = 0.0
        self._until_s = float("-inf")
        self._making: asyncio.Task[None] | None = None
        self.made = 0
        """The number of times that it was begun to be made."""

    async def body(self) -> bytes:
        """Return the page, however often those who asked for it left meanwhile.

        Raises:
            LocalError: It is too large; for as long as the page would be kept.
        """
        if self._clock() >= self._until_s:
            if self._making is None:
                self._making = asyncio.create_task(self._make())
                self._making.add_done_callback(self._made)
            await asyncio.shield(self._making)  # one who leaves takes it from nobody
        if isinstance(self._body, Exception):
            raise self._body.with_traceback(None)
        return self._body

    def _made(self, making: asyncio.Task[None]) -> None:
        del making
        self._making = None

    async def _make(self) -> None:
        self.made += 1
        self._spent_s = 0.0
        try:
            self._body = await self._join()
        except Exception as error:  # noqa: BLE001 - all who ask meanwhile are told the same
            self._body = error
        if self._spent_s >= CHEAP_S:
            self._until_s = self._clock() + KEPT_FOR * self._spent_s

    async def _join(self) -> bytes:
        parts: list[bytes] = []
        size_bytes = 0
        began_s = self._work_clock()
        try:
            for part in self._pieces():
                parts.append(part)
                size_bytes += len(part)
                if size_bytes > MOST_BYTES:
                    raise LocalError(f"this page has over {MOST_BYTES} bytes, which is the limit")
                now_s = self._work_clock()
                if now_s - began_s >= SLICE_S:
                    self._spent_s += now_s - began_s
                    await asyncio.sleep(PAUSE_S)
                    began_s = self._work_clock()
            return b"".join(parts)
        finally:
            self._spent_s += self._work_clock() - began_s
