"""What kept answers may say of their age. IO: the running loop's clock."""

from __future__ import annotations

import asyncio


def ages_since(then_s: float) -> list[str]:
    """Return the ages, in whole seconds, of answers that were kept at `then_s` of the loop's clock or later: 0 alone within a second."""
    elapsed_s = asyncio.get_running_loop().time() - then_s
    return [str(seconds) for seconds in range(int(elapsed_s) + 1)]
