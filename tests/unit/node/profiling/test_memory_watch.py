from __future__ import annotations

import threading

import pytest
from worker_fakes import LIMIT_S

from capamesh.node.profiling.memory_watch import MemoryWatch


class Memory:
    """Of a device; tells when a level was seen."""

    def __init__(self) -> None:
        self.used = 1_000
        self._level = 0
        self._is_seen = threading.Event()

    def __call__(self) -> int:
        used = self.used
        if used == self._level:
            self._is_seen.set()
        return used

    def at(self, level: int) -> None:
        """Be at `level` until that is seen; blocks."""
        self._is_seen.clear()
        self.used = self._level = level
        assert self._is_seen.wait(LIMIT_S)


def test_most_that_is_in_use_meanwhile_is_the_peak() -> None:
    memory = Memory()
    watch = MemoryWatch(memory)
    with watch:
        memory.at(5_000)
        memory.at(3_000)
    assert (watch.held_bytes(), watch.peak_bytes()) == (2_000, 4_000)
    memory.used = 900  # others gave back more than was taken
    assert watch.held_bytes() == 0


def test_watch_ends_with_what_it_watches_though_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), MemoryWatch(Memory()):
        raise ZeroDivisionError
    assert all(thread.name != "memory" for thread in threading.enumerate())
