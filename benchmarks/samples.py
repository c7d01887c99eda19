"""Taking samples of what something costs: in CPU, in a process of its own, and their spread."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Return the middle of some samples, the least and the most."""
    return {"mid": statistics.median(samples), "least": min(samples), "most": max(samples)}


def timed(do: Callable[[], object], count: int) -> float:
    """Return the microseconds of CPU that each of `count` things in `do` took."""
    began = time.process_time()
    do()
    return (time.process_time() - began) / count * 1e6


def alone(do: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """Run a measurement in a process of its own, whose memory nothing else has touched."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(do, args)
