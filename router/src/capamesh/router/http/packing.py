"""Packs long answers in JSON for clients that take them packed, in threads beside the event loop. IO: threads.

Many clients say that they take gzip without a thought, so it is done only where it pays: tensors as raw bytes seldom get
smaller, and of short answers the time on the wire is none. When there is much to pack, answers go as they are.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

LEAST_BYTES: Final = 32 * 1024
"""The size from which JSON is packed (guess: 3 ms on a wire of 100 Mbit/s, which packing in 0.4 ms halves)."""
LEVEL: Final = 1
"""zlib's quickest: 80 MB of JSON a second instead of 20, for a tenth more bytes (measured on fractions)."""
AT_ONCE: Final = 2
"""Threads (guess: a router's loop needs a core, too)."""
MOST_WAITING: Final = 4
"""Answers that wait for them; more go as they are (guess)."""
CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The codings in which answers can be packed, the best first, with zlib's window bits."""
_NOT: Final = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})


class Packer:
    """Packs for one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pack")
        self._under_way = 0
        self._is_closed = False

    def begin(
        self,
        buffers: Sequence[bytes | memoryview],
        on_done: Callable[[bytes | None], None],
        coding: str = "gzip",
    ) -> bool:
        """Pack `buffers` in a coding, and tell the loop; None: it did not work. False: not begun, for want of time or at the end."""
        if self._is_closed or self._under_way >= AT_ONCE + MOST_WAITING:
            return False
        future = asyncio.get_running_loop().run_in_executor(self._threads, packed, buffers, coding)
        self._under_way += 1

        def done(ended: asyncio.Future[bytes]) -> None:
            self._under_way -= 1
            is_well = not ended.cancelled() and ended.exception() is None
            on_done(ended.result() if is_well else None)

        future.add_done_callback(done)
        return True

    def close(self) -> None:
        """Begin nothing more: answers go as they are."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)


def packed(buffers: Sequence[bytes | memoryview], coding: str = "gzip") -> bytes:
    """Return `buffers` as one stream of a coding."""
    packer = zlib.compressobj(LEVEL, wbits=CODINGS[coding])
    parts = [packer.compress(each) for each in buffers]
    parts.append(packer.flush())
    return b"".join(parts)


def takes_gzip(accepted: str) -> bool:
    """Return whether a client that sends this as `Accept-Encoding` takes gzip."""
    return taken_coding(accepted).endswith("gzip")


def taken_coding(accepted: str) -> str:
    """Return the best coding that a client takes that sends this as `Accept-Encoding`; empty: none of ours."""
    if not accepted:
        return ""
    taken: list[str] = []
    for each in accepted.lower().split(","):
        coding, _, quality = each.partition(";")
        if quality.replace(" ", "") not in _NOT:
            taken.append(coding.strip())
    for coding in CODINGS:
        if coding in taken:
            return coding
    return ""
