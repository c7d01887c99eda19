"""Memory for a message's body that is read straight into it, used again for the next body of about the same size. Pure but for threads.

Fresh memory is dear: the system clears each page as it is first written, and glibc gives memory of this size back at every
other chance. A router spent 6 % of its time on that at 600 KB a request, and who received them 30 % (measured).
"""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

ZEROED_BYTES: Final = 64 * 1024
"""The size above which memory is taken without clearing it first (measured: clearing 600 KB costs 30 µs). What is announced
and never sent costs next to nothing, too: the system gives the pages as they are written."""
CLASS_BYTES: Final = 64 * 1024
"""The sizes of memory that is kept are multiples of that: bodies of about the same size share one."""
MOST_KEPT_BYTES: Final = 4 * 1024 * 1024
"""Larger memory is not kept: NumPy asks for huge pages from there on, of which a body takes few."""
KEPT_BYTES: Final = 32 * 1024 * 1024
"""The free memory that a thread keeps (guess: 50 pictures of 600 KB)."""

_Bytes = npt.NDArray[np.uint8]


class BodyMemories:
    """The memory of one thread's bodies: what is free, up to a bound, and what is lent.

    What is lent is free again as soon as nothing refers to it: no view of it, and no tensor that lies in it.
    """

    __slots__ = ("_free", "_lent", "_most_bytes", "_thread", "free_bytes")

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `most_bytes` that are free."""
        self._most_bytes = most_bytes
        self._thread = threading.get_ident()
        self._free: dict[int, list[_Bytes]] = {}
        """The free memory by its size; the size that was asked for last comes last."""
        self._lent: dict[int, weakref.ref[_Bytes]] = {}
        """The views that tell when they end, by the identity of the memory they are of."""
        self.free_bytes = 0

    def lend(self, size_bytes: int) -> memoryview:
        """Return writable memory of that size, with whatever is in it."""
        size = -(-size_bytes // CLASS_BYTES) * CLASS_BYTES
        free = self._free.pop(size, None)
        if free is None:
            memory = np.empty(size, np.uint8)
        else:
            memory = free.pop()
            self.free_bytes -= size
            if free:
                self._free[size] = free
        lent = memory[:size_bytes]
        self._lent[id(memory)] = weakref.ref(lent, partial(self._take_back, memory))
        return lent.data

    def _take_back(self, memory: _Bytes, _: object) -> None:
        self._lent.pop(id(memory), None)
        if threading.get_ident() != self._thread:
            return  # whose counts these are not
        size = len(memory)
        free = self._free.pop(size, None) or []
        free.append(memory)
        self._free[size] = free
        self.free_bytes += size
        while self.free_bytes > self._most_bytes:
            longest_unused = next(iter(self._free))
            self._free[longest_unused].pop()
            self.free_bytes -= longest_unused
            if not self._free[longest_unused]:
                del self._free[longest_unused]


_of_thread = threading.local()


def body_memory(size_bytes: int) -> memoryview:
    """Return writable memory of that size, with whatever is in it."""
    if size_bytes <= ZEROED_BYTES:
        return memoryview(bytearray(size_bytes))
    if size_bytes > MOST_KEPT_BYTES:
        return np.empty(size_bytes, np.uint8).data
    memories: BodyMemories | None = getattr(_of_thread, "memories", None)
    if memories is None:
        memories = _of_thread.memories = BodyMemories()
    return memories.lend(size_bytes)
