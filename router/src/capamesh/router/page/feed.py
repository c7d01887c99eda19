"""The feed of the page: one overview and its differences for all who watch. IO: asyncio.

Nothing is made while nobody asks. While somebody watches, what differs is encoded once a turn for all of them; a viewer
holds nothing here but its place, so a slow one costs no memory: it is told to begin anew.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from capamesh.protocol.errors import Overloaded
from capamesh.router.page.backlog import Backlog, Reader
from capamesh.router.page.differences import differences, whole
from capamesh.router.page.overview import Overview

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.steps import Steps

T = TypeVar("T")
MOST_VIEWERS: Final = 64
"""The most pages that follow one router (guess: a team and its screens on the wall)."""
LEAST_PAUSE_S: Final = 0.5
"""The least time between two turns: people see no more than two changes a second."""
PAUSE_FOR: Final = 100
"""The pause after a turn is so many times as long as the turn took of the processor: 1 % of a core, or `MOST_PAUSE_S`."""
MOST_PAUSE_S: Final = 15.0
"""The longest pause for the sake of the processor (guess: what is older misleads). Ten thousand nodes take a turn of 60 ms, but
the first one a second."""
BYTES_A_SECOND: Final = 65536
"""The most bytes a second for one viewer, over many turns (guess: a hundredth of a slow connection)."""
SLICE_S: Final = 0.002
"""Seconds for which the loop is kept at a time (guess: what a batch of reads takes)."""
BREATH_S: Final = 0.001
"""Seconds between two slices (guess: as long as work on the loop takes)."""
RETRY_S: Final = 10
"""Seconds after which one who was turned away may try again (guess)."""
_GZIP: Final = 31


def packed(content: bytes) -> bytes:
    """Return `content` as gzip."""
    packer = zlib.compressobj(5, wbits=_GZIP)
    return packer.compress(content) + packer.flush()


async def pack_beside(content: bytes) -> bytes:
    """Return `content` as gzip, packed in a thread beside the event loop."""
    return await asyncio.to_thread(packed, content)


class Feed:
    """The feed of one router."""

    def __init__(
        self,
        make: Callable[[], Steps[Overview]],
        *,
        boot: str,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.thread_time,
        most_viewers: int = MOST_VIEWERS,
        pack: Callable[[bytes], Awaitable[bytes]] = pack_beside,
        backlog: Backlog | None = None,
    ) -> None:
        """`make` makes the overview of now. `boot` is another text at each start of the router. `pack` returns its argument as gzip.

        `backlog` keeps what changes for those who follow; None: one of the usual size.
        """
        self._make = make
        self._boot = boot
        self._log = log
        self._clock = clock
        self._work_clock = work_clock
        self._most_viewers = most_viewers
        self._pack = pack
        self.viewers = 0
        """The number of viewers who follow now."""
        self.turns = 0
        """The number of overviews that were made."""
        self._overview: Overview | None = None
        self._backlog = backlog or Backlog()
        """The newest frames; the last one leads to the overview of now."""
        self._next_s = float("-inf")
        """The time before which no other turn begins."""
        self._spent_s = 0.0
        """Processor time of the turn that was begun last."""
        self._turning = asyncio.Lock()
        self._turned = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._whole: tuple[int, bytes, bytes] | None = None

    @property
    def revision(self) -> str:
        """Return the name of the overview of now."""
        return f"{self._boot}-{self._backlog.newest}"

    async def snapshot(self, *, is_packed: bool) -> bytes:
        """Return the whole overview as JSON; as gzip if `is_packed`."""
        async with self._turning:
            if self._overview is None or self._clock() >= self._next_s:
                await self._turn()
            assert self._overview is not None  # noqa: S101 - a turn has made it
            kept, number = self._whole, self._backlog.newest
            if kept is None or kept[0] != number:
                plain = await self._sliced(whole(self._overview, self.revision))
                packed = await self._pack(plain)
                kept = self._whole = (number, plain, packed)
                self._next_s = max(self._next_s, self._clock() + self._rest_s())
        return kept[2] if is_packed else kept[1]

    @contextmanager
    def following(self) -> Generator[None]:
        """Keep the feed going for one viewer; raise `Overloaded` if there are too many."""
        if self.viewers >= self._most_viewers:
            raise Overloaded(
                f"{self.viewers} pages follow this router already, which is the limit; close one of them, or ask"
                " /v1/page/snapshot now and then",
                retry_after_s=RETRY_S,
            )
        self.viewers += 1
        try:
            if self._following is None:
                self._following = asyncio.create_task(self._follow())
            yield
        finally:
            self.viewers -= 1
            if not self.viewers:
                following, self._following = self._following, None
                if following is not None:
                    following.cancel()

    def reader(self, revision: str) -> Reader | None:
        """Return what reads the frames that lead from `revision` to that of now; None: begin anew with a snapshot."""
        boot, _, number = revision.rpartition("-")
        if boot != self._boot or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        return (
            Reader(self._backlog, int(number)) if self._backlog.has_all_after(int(number)) else None
        )

    async def wait(self, reader: Reader, timeout_s: float) -> None:
        """Wait until there is something that `reader` has not read, for so long at most."""
        if reader.number != self._backlog.newest:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._turned.wait()
        except TimeoutError:
            return

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._next_s - self._clock()))
            try:
                async with self._turning:
                    if self._clock() >= self._next_s:
                        await self._turn()
            except Exception:  # noqa: BLE001 - a bug ends one turn, and is written down
                self._log.exception("page_crashed")
                self._next_s = self._clock() + RETRY_S

    async def _turn(self) -> None:
        """Make the overview of now, and the frame that leads to it; to the first one there is none."""
        self.turns += 1
        began_s, backlog = self._clock(), self._backlog
        sent_bytes = 0
        self._spent_s = 0.0
        try:
            overview = await self._sliced(self._make())
            if self._overview is None:
                backlog.skip()
            elif frame := await self._sliced(differences(self._overview, overview)):
                name = f"{self._boot}-{backlog.newest + 1}"
                backlog.add(b"id: %s\nevent: changes\ndata: %s\n\n" % (name.encode(), frame))
                sent_bytes = len(frame) if backlog.keeps_newest() else 0
                self._turned.set()
                self._turned = asyncio.Event()
            self._overview = overview
        finally:
            self._next_s = began_s + max(LEAST_PAUSE_S, self._rest_s(), sent_bytes / BYTES_A_SECOND)

    def _rest_s(self) -> float:
        """Return the pause after what the turn has taken of the processor."""
        return min(MOST_PAUSE_S, self._spent_s * PAUSE_FOR)

    async def _sliced(self, steps: Steps[T]) -> T:
        """Return the result of `steps`, done in slices."""
        began_s = self._work_clock()
        try:
            while True:
                next(steps)
                now_s = self._work_clock()
                if now_s - began_s >= SLICE_S:
                    self._spent_s += now_s - began_s
                    await asyncio.sleep(BREATH_S)
                    began_s = self._work_clock()
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            self._spent_s += self._work_clock() - began_s
