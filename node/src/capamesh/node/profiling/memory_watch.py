"""The memory that something takes while it is being made, and once it is. IO: a thread that looks and looks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

EVERY_S: Final = 0.01
"""The time between two looks (guess: a load that is over sooner has no peak that matters; one look takes 0.02 ms on a CPU)."""


class MemoryWatch:
    """Tells what of a device's memory is in use beyond what was when it was made.

    While it is entered, which it may be again and again, it looks all the time. What others take or give back
    meanwhile is counted too: nothing tells it apart.
    """

    def __init__(self, used_bytes: Callable[[], int]) -> None:
        self._used_bytes = used_bytes
        self._before = self._most = used_bytes()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._is_over.clear()
        self._thread = threading.Thread(target=self._follow, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def held_bytes(self) -> int:
        """Return what is in use now; at least 0."""
        return max(0, self._look() - self._before)

    def peak_bytes(self) -> int:
        """Return the most that was seen in use; at least 0."""
        return self._most - self._before

    def _follow(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self._look()

    def _look(self) -> int:
        used = self._used_bytes()
        self._most = max(self._most, used)
        return used
