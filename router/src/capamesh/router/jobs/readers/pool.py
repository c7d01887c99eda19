"""The processes that read inputs of one router: few, started when they are needed, lent to others while nobody asks them for more. IO: processes.

What is short (a look, before a job is taken) never waits for what is long (a plan, a shard). A shard whose rows find no room at nodes
does not keep its process from others: that begins anew later, where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.channel.framing import Message
    from capamesh.router.jobs.readers.process import FilesToRead, ReaderProcess

IDLE_S: Final = 30.0
"""Seconds after which a process that nobody needed is ended (guess: the next job of somebody who tries one after the other)."""
PAUSE_S: Final = 1.0
"""Seconds for which nobody has asked a process for more, after which it is lent to who waits for one (guess)."""
LOOK_S: Final = 0.25
"""Seconds between two looks whether that is so."""


class Use(Enum):
    """The uses of a process, each with the most that there may be at a time (guesses: so many files as a router's cores may read)."""

    LOOK = "look"
    PLAN = "plan"
    ROWS = "rows"


MOST: Final = 2
"""The most processes of each use."""


class Place:
    """The use of one process."""

    def __init__(self, process: ReaderProcess, clock: Callable[[], float]) -> None:
        self._process = process
        self._clock = clock
        self._paused_s: float | None = None
        self.is_over = False
        """True once the task has come to its end, so that there is nothing to drop."""
        self.is_lent = False
        """True if another one has the process now."""

    @property
    def process(self) -> ReaderProcess:
        """The process."""
        return self._process

    async def ask(self, message: Mapping[str, Any], files: FilesToRead | None = None) -> Message:
        """Ask the process; raises as that."""
        return await self._process.ask(message, files)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let the process be lent meanwhile: nobody asks it for more."""
        self._paused_s = self._clock()
        try:
            yield
        finally:
            self._paused_s = None

    def may_be_lent(self) -> bool:
        """Return whether nobody has asked for long."""
        return self._paused_s is not None and self._clock() - self._paused_s >= PAUSE_S


class Readers:
    """The processes."""

    def __init__(self, start: Callable[[], ReaderProcess], clock: Callable[[], float]) -> None:
        """`clock` is one that never goes back, in seconds."""
        self._start = start
        self._clock = clock
        self._free: dict[ReaderProcess, asyncio.TimerHandle] = {}
        self._places: dict[Use, set[Place]] = {use: set() for use in Use}
        self._turns = {use: asyncio.Lock() for use in Use}
        self._given_back = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Return how many processes there are."""
        return len(self._free) + sum(map(len, self._places.values()))

    @asynccontextmanager
    async def place(self, use: Use) -> AsyncGenerator[Place]:
        """Have a process, once there is one. What it works on still when this ends is given up."""
        async with self._turns[use]:  # who came first is first
            while len(self._places[use]) >= MOST and not self._lend(use):
                self._given_back.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._given_back.wait()
            place = Place(self._free_one(use), self._clock)
            self._places[use].add(place)
        try:
            yield place
        finally:
            if not place.is_lent:
                self._places[use].remove(place)
                self._give_back(place)

    async def close(self) -> None:
        """End all processes."""
        for process in list(self._free):
            self._end(process)
        for places in self._places.values():
            for place in places:
                self._end(place.process)
        if self._ending:
            await asyncio.wait(self._ending)

    def _lend(self, use: Use) -> bool:
        """Take the process of a place where nobody has asked for long; return whether there was one."""
        lent = next((place for place in self._places[use] if place.may_be_lent()), None)
        if lent is None:
            return False
        lent.is_lent = True
        self._places[use].remove(lent)
        self._give_back(lent)
        return True

    def _give_back(self, place: Place) -> None:
        self._given_back.set()
        process = place.process
        if process.ended or process.is_busy:
            self._end(process)
            return
        if not place.is_over:
            process.drop()
        loop = asyncio.get_running_loop()
        self._free[process] = loop.call_later(IDLE_S, self._end, process)

    def _free_one(self, use: Use) -> ReaderProcess:
        """Return a process for a use: for looks only such as had nothing else to do, which are not used for else if others are free."""
        for process in [process for process in self._free if process.ended]:
            self._end(process)
        is_nice = use is not Use.LOOK
        fitting = [process for process in self._free if is_nice or not process.is_nice]
        if fitting:
            process = max(fitting, key=lambda each: each.is_nice)
            self._free.pop(process).cancel()
        else:
            process = self._start()
        process.is_nice |= is_nice
        return process

    def _end(self, process: ReaderProcess) -> None:
        timer = self._free.pop(process, None)
        if timer is not None:
            timer.cancel()
        task = asyncio.create_task(process.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
