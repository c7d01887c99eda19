"""Memory of bodies is used again once nothing refers to it, and no more is kept than may be."""

from __future__ import annotations

import threading

import numpy as np

from capamesh.protocol import memory
from capamesh.protocol.memory import CLASS_BYTES, BodyMemories, body_memory

SIZE = 10 * CLASS_BYTES


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_is_writable_and_of_the_size_that_was_asked_for() -> None:
    for size in (0, 1, memory.ZEROED_BYTES, 100_001, memory.MOST_KEPT_BYTES + 1):
        view = body_memory(size)
        assert (len(view), view.nbytes, view.readonly) == (size, size, False)
        view[:] = bytes(size)


def test_memory_that_something_lies_in_is_not_lent_again() -> None:
    memories = BodyMemories()
    first = memories.lend(SIZE)
    tensor = np.frombuffer(first[100:200], np.float32)
    at = address(first)
    del first
    assert memories.free_bytes == 0
    second = memories.lend(SIZE)
    assert address(second) != at
    del tensor
    assert memories.free_bytes == SIZE
    assert address(memories.lend(SIZE)) == at


def test_free_memory_is_bounded_and_the_size_longest_unused_goes_first() -> None:
    memories = BodyMemories(most_bytes=3 * SIZE)
    old = memories.lend(SIZE)
    del old
    lent = [memories.lend(2 * SIZE) for _ in range(4)]
    lent.clear()
    assert memories.free_bytes == 2 * SIZE
    assert list(memories._free) == [2 * SIZE]
    assert memories._lent == {}


def test_memory_whose_last_user_is_another_thread_is_not_kept() -> None:
    memories = BodyMemories()
    held = [memories.lend(SIZE)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert (held, memories.free_bytes, memories._lent) == ([], 0, {})
