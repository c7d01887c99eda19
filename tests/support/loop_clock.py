"""A loop's clock that a test sets forward: what is to take long takes no time, and what should be in time has plenty of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class LoopClock:
    """The clock of the running loop, made before whatever keeps its `time`. For asyncio's own loops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._ahead_s = 0.0
        self._stands_at_s: float | None = None
        monkeypatch.setattr(loop, "time", self._now_s)

    def _now_s(self) -> float:
        return self._time() + self._ahead_s if self._stands_at_s is None else self._stands_at_s

    def set_forward(self, seconds: float) -> None:
        """Let so many seconds have passed: timers that are due by then are run in the next turn of the loop."""
        self._ahead_s += seconds

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no time pass, and no timer be due, however long what is done takes."""
        self._stands_at_s = self._now_s()
        try:
            yield
        finally:
            self._stands_at_s = None
