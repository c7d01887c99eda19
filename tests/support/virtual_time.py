"""An event loop whose clock jumps to whatever is due next, so that hours of waiting take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0 and moves only when everything waits for a timer."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__()
        poll = self._selector.select

        def select(timeout: float | None = None) -> list[Any]:
            ready = poll(0)
            if not ready and timeout is None:
                raise RuntimeError("everything waits for ever")
            if not ready:
                self._now_s += timeout or 0.0
            return ready

        self._selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now_s


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run `scenario` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)
