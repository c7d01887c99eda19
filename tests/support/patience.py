"""Waits for what has no event to wait for: it looks again and again, and says what has not happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""
LOOK_S = 0.002


async def eventually(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Let the loop run until `condition` holds, for what has no event: sockets that the loop closes later."""
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, what
        await asyncio.sleep(LOOK_S)
