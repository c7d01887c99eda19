"""Waits for what other processes come to, of which no event can be had. IO: sleeps between two looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

EVERY_S = 0.05
LIMIT_S = 120.0
"""How long a test waits at most; it only ends one that hangs."""


async def until(
    is_so: Callable[[], object | Awaitable[object]],
    *,
    limit_s: float = LIMIT_S,
    every_s: float = EVERY_S,
) -> None:
    """Return once `is_so` returns what is true, or an awaitable of that; raise `TimeoutError` after `limit_s`."""
    async with asyncio.timeout(limit_s):
        while True:
            found = is_so()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(every_s)
