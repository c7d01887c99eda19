"""Reads the parts of a job's results for clients, beside the loop, and for so many at a time. IO: the store; parts, in threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from capamesh.protocol.errors import ConfigError, Overloaded, TooManyRequests, Unsupported
from capamesh.router.jobs.errors import OutputFailed
from capamesh.router.jobs.outputs.part_lines import CHUNK_BYTES, part_lines
from capamesh.router.jobs.states import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, Part

READ_S: Final = 30.0
"""Seconds that a piece of a part may take to be read (guess: a store of objects that is far away)."""
READERS: Final = 4
"""The most parts that are read at once: one whose disk hangs keeps its thread."""
MOST_STREAMS: Final = 16
"""The most answers with results at once, each of which holds a part open (guess)."""
MOST_OF_TENANT: Final = 8
"""The most of one tenant, so that it cannot take the places of all others."""
MANIFESTS: Final = 100
"""The manifests that are read at a time."""
RETRY_S: Final = 5.0

_Result = TypeVar("_Result")


class PartReading:
    """The reading of one router's process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, "job results")
        self._tenants: Counter[str] = Counter()

    @contextmanager
    def place(self, tenant: str) -> Generator[None]:
        """Take the place of one who reads; raise `Overloaded` if all are taken, `TooManyRequests` if this tenant has its share."""
        if self._tenants[tenant] >= MOST_OF_TENANT:
            raise TooManyRequests(
                f"{MOST_OF_TENANT} of this tenant read results here already, the most that may; read one job after the other",
                RETRY_S,
            )
        if self._tenants.total() >= MOST_STREAMS:
            raise Overloaded(
                f"{MOST_STREAMS} read results here already, the most that may; try again", RETRY_S
            )
        self._tenants[tenant] += 1
        try:
            yield
        finally:
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]

    def close(self) -> None:
        """Read nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def lines(
        self, store: JobStore, sink: Sink, job: Job, seq: int, first: int, end: int
    ) -> AsyncGenerator[bytes]:
        """Yield the results of a job's rows from `first` on and before `end` as JSON lines, in order, some at a time.

        `seq` is the shard that has the first row. Rows without a committed result are left out.

        Raises:
            OutputFailed: a part cannot be read, or is not what was written.
            JobsUnavailable: the store fails.
            Unsupported: the form of the parts needs a library that is missing.
        """
        form = job.spec.output.format
        while True:
            found = await store.manifests(job.id, seq, MANIFESTS)
            for number, shard, manifest in found:
                seq = number + 1
                if shard.first_row >= end:
                    return
                if manifest.part is None:
                    continue
                file = await self.opened(sink, manifest.part)
                try:
                    pieces = part_lines(file, form, shard, manifest.rows, first, end)
                    while piece := await self._beside(_next_of(pieces)):
                        yield piece
                finally:
                    file.close()
            if len(found) < MANIFESTS:
                return

    async def opened(self, sink: Sink, part: Part) -> BinaryIO:
        """Return a part as a file, once it is known to be what was written. Raises `OutputFailed`."""
        return await self._beside(lambda: sink.open(part))

    async def piece(self, file: BinaryIO, offset: int, most_bytes: int) -> bytes:
        """Return some bytes of a part from a place on, one at least. Raises `OutputFailed`."""

        def read() -> bytes:
            file.seek(offset)
            piece = file.read(min(most_bytes, CHUNK_BYTES))
            if not piece:
                raise OutputFailed("a part was cut off while it was read")
            return piece

        return await self._beside(read)

    async def _beside(self, read: Callable[[], _Result]) -> _Result:
        future = asyncio.get_running_loop().run_in_executor(self._threads, read)
        done, _ = await asyncio.wait({future}, timeout=READ_S)
        if not done:
            future.cancel()
            raise OutputFailed(
                f"results were not read within {READ_S:g} s; look whether their disk or their store can be reached"
            )
        try:
            return future.result()
        except OSError as exc:
            raise OutputFailed(f"results cannot be read: {exc.strerror or exc}") from exc
        except ConfigError as exc:
            raise Unsupported(exc.message) from exc


def end_of(job: Job, first: int, rows: int | None, gap: int | None) -> int:
    """Return the row before which an answer with results from `first` on ends: what comes after it may still come.

    `rows` is how many are wanted; None: all. `gap` is the first row from there on that has no result yet; None: all have.
    """
    end = job.rows if rows is None else min(job.rows, first + rows)
    if gap is not None and job.state not in ENDED:
        end = min(end, gap)
    return max(first, end)


def _next_of(pieces: Iterator[bytes]) -> Callable[[], bytes]:
    return lambda: next(pieces, b"")
