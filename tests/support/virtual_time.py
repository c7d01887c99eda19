"""Scenarios in virtual time, whose clock jumps to whatever is due next, so that hours of waiting take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from capamesh.simulation.sim_loop import SimLoop

T = TypeVar("T")


def new_loop() -> SimLoop:
    """Return a loop whose time starts at 0 and may go as far as it likes."""
    return SimLoop(start_s=0.0, most_s=1e12)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run `scenario` to its end in virtual time."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(scenario)
