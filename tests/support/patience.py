"""Waits for what has no event to wait for: it looks again and again, and says what has not happened. IO: sleeps between two looks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""
LOOK_S = 0.002
TURNS = 200
"""The turns of the loop after which time is let pass; whoever asks others lets it pass at once."""


async def until(
    is_so: Callable[[], object | Awaitable[object]],
    what: str = "it has not come to that",
    *,
    limit_s: float = LIMIT_S,
    every_s: float = 0.05,
) -> None:
    """Return once `is_so` returns what is true, or an awaitable of that; raise `TimeoutError` with `what` after `limit_s`."""
    free = TURNS
    try:
        async with asyncio.timeout(limit_s):
            for turn in itertools.count(1):
                found = is_so()
                if isinstance(found, Awaitable):
                    found, free = await found, 0
                if found:
                    return
                await asyncio.sleep(min(every_s, LOOK_S * max(0, turn - free)))
    except TimeoutError as error:
        raise TimeoutError(what) from error
