"""The threads in which jobs read and write: some of their own, so that a disk that stands still holds up nobody else. IO: threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

THREADS: Final = 8
"""The threads: as many shards as are at work read or write at the same time (guess)."""

_Result = TypeVar("_Result")


class Threads:
    """The threads of one router's jobs."""

    def __init__(self, most: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(most, "jobs")
        self.under_way = 0
        """The functions that have not ended; those that nobody waits for any more are among them."""

    def __call__(self, function: Callable[[], _Result], /) -> Awaitable[_Result]:
        """Run `function` in a thread, to its end; what it returns or raises is the result."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, function)
        self.under_way += 1
        running.add_done_callback(self._ended)
        return asyncio.shield(running)

    def _ended(self, _: asyncio.Future[_Result]) -> None:
        self.under_way -= 1

    def close(self) -> None:
        """Take no more, and do not wait for what is being done."""
        self._pool.shutdown(wait=False, cancel_futures=True)
