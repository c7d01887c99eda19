"""Helps a worker through a moment without memory: it lets go of a reserve, and goes on. IO: memory, a timer.

A run may take all that its process is allowed, until it fails or ends. Whatever else needs a little just then, an
answer to the agent for one, must not end the process for it.
"""

from __future__ import annotations

import asyncio
import math
import mmap
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

RESERVE_BYTES: Final = 64 * 1024 * 1024
"""The bytes taken from what the process is allowed, and never touched: they cost no memory (guess: hundreds of messages)."""
AGAIN_S: Final = 1.0
"""Seconds after which the reserve is taken again (guess: the run that took all has failed by then)."""
PAUSE_S: Final = 0.1
TRIES: Final = 100
"""The tries of one step: 10 s (guess: a run that takes all fails within some seconds, and the reserve is there before)."""

T = TypeVar("T")


class Reserve:
    """Memory that is let go of when there is none."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._held: mmap.mmap | None = None

    @property
    def is_held(self) -> bool:
        """Return whether the reserve is there to be let go of."""
        return self._held is not None

    def take(self) -> None:
        """Take it, or later where there is none."""
        if self._held is not None:
            return
        try:
            self._held = mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, MemoryError):
            asyncio.get_running_loop().call_later(AGAIN_S, self.take)

    def let_go(self) -> None:
        """Let go of it, and take it again later."""
        if self._held is None:
            return
        self._held.close()
        self._held = None
        self._log.warning("memory_short", let_go_bytes=RESERVE_BYTES)
        asyncio.get_running_loop().call_later(AGAIN_S, self.take)

    async def lasting(self, run: Callable[[], Awaitable[T]], *, tries: float = math.inf) -> T:
        """Run to the end, and again from the beginning whenever there was no memory: `run` must bear that.

        Raises MemoryError: there was none at any of the `tries`.
        """
        tried = 0
        while True:
            try:
                return await run()
            except* MemoryError:
                self.let_go()
            tried += 1
            if tried >= tries:
                raise MemoryError(f"there was none at {tried} tries")
            await asyncio.sleep(PAUSE_S)
