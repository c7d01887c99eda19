"""Waits for what has no event to wait for: it looks again and again, and says what has not happened."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""
LOOK_S = 0.002
TURNS = 200
"""The turns of the loop after which time is let pass."""


async def eventually(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Let the loop run until `condition` holds, for what has no event: sockets that the loop closes later."""
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, what
        await asyncio.sleep(LOOK_S)


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Let the loop turn until `condition` holds; what does not come of turns alone may have time, too."""
    async with asyncio.timeout(limit_s):
        for turn in itertools.count():
            if condition():
                return
            await asyncio.sleep(0 if turn < TURNS else LOOK_S)
