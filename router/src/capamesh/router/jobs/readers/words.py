"""The words between a router and the processes that read inputs, and their bounds. Pure.

The router sends a task (`LOOK`, `PLAN`, `ROWS`, `NAMES`). It is answered by an item, of which there are more when the router says
`NEXT`; or by the end, by an error that is the input's, or by why the process ends. Meanwhile the reader may call for bytes of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from capamesh.protocol.errors import CapameshError, ConfigError, InvalidRequest
from capamesh.router.jobs.errors import InputChanged, InputInvalid, PlaceUnavailable
from capamesh.router.jobs.inputs.ranges import WINDOW_BYTES

READY: Final = "ready"
LOOK: Final = "look"
PLAN: Final = "plan"
ROWS: Final = "rows"
NAMES: Final = "names"
NEXT: Final = "next"
ITEM: Final = "item"
DONE: Final = "done"
FAILED: Final = "failed"
ENDED: Final = "ended"
CALL: Final = "call"

ERRORS: Final[Mapping[str, type[CapameshError]]] = {
    each.code: each
    for each in (InputInvalid, InputChanged, PlaceUnavailable, InvalidRequest, ConfigError)
}
"""The errors that go from one process to the other."""

FILE_BYTES: Final = WINDOW_BYTES
"""The most bytes of a file in one message, which may have twice as many."""
CPU_S: Final = 30
"""Seconds of processor time until the next item (guess: the largest window of honest rows takes some)."""
SILENT_S: Final = 300.0
"""Seconds for which a reader may answer no ping: where others take all processors, the kernel gives it ten of these (1/29, of its
niceness), and no honest item takes so many (guess)."""
ITEM_S: Final = 1800.0
"""Seconds until the next item, whatever a reader says meanwhile: one that calls for bytes for ever keeps its place from others
(guess: the bytes of a shard from a store that gives 40 kB a second)."""
MEMORY_SHARE: Final = 8
LEAST_MEMORY_BYTES: Final = 256 * 2**20
MOST_MEMORY_BYTES: Final = 2**30
"""A reader may take an eighth of the memory that there is, within these bounds: four shards at least, and sixteen at most (guess)."""


def reader_bytes(memory_bytes: int) -> int:
    """Return what a reader may take beside its code, where there is so much memory."""
    return min(MOST_MEMORY_BYTES, max(LEAST_MEMORY_BYTES, memory_bytes // MEMORY_SHARE))


def mib(size_bytes: int) -> int:
    """Return bytes in MiB, for people."""
    return size_bytes // 2**20
