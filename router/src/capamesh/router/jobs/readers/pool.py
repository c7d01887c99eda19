"""The processes that read inputs of one router: few, each for one tenant, started when they are needed, and lent to one use at a time. IO: processes.

What is short (a look, before a job is taken) never waits for what is long (a plan, a shard). A shard whose rows find no room at nodes
does not keep its process from others: that begins anew later, where it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capamesh.router.jobs.readers.process import ReaderProcess

IDLE_S: Final = 30.0
"""Seconds after which a process that nobody needed is ended (guess: the next job of somebody who tries one after the other)."""
PAUSE_S: Final = 1.0
"""Seconds for which nobody has asked a process for more, after which it is recalled for who waits for one (guess)."""
OTHERS_PAUSE_S: Final = 5.0
"""The same where another tenant waits, for which a new process is to be started, at half a second of a core (guess)."""
LOOK_S: Final = 0.25
"""Seconds between two looks whether that is so."""


class Use(Enum):
    """The uses of a process."""

    LOOK = "look"
    PLAN = "plan"
    ROWS = "rows"


MOST: Final = 2
"""The most processes of each use (guess: so many files as a router's cores may read)."""


class Loan:
    """The use of one process for one tenant."""

    def __init__(self, process: ReaderProcess, tenant: str, clock: Callable[[], float]) -> None:
        self.process: Final = process
        self.tenant: Final = tenant
        self._clock = clock
        self._paused_s: float | None = None
        self.is_over = False
        """True once the task has come to its end, so that there is nothing to drop."""
        self.is_recalled = False
        """True if another one has the process now."""

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let the process be recalled meanwhile: nobody asks it for more."""
        self._paused_s = self._clock()
        try:
            yield
        finally:
            self._paused_s = None

    def may_be_recalled(self, tenant: str) -> bool:
        """Return whether nobody has asked for so long that another use, for a tenant, goes first."""
        pause_s = PAUSE_S if tenant == self.tenant else OTHERS_PAUSE_S
        return self._paused_s is not None and self._clock() - self._paused_s >= pause_s


class Readers:
    """The processes."""

    def __init__(self, start: Callable[[], ReaderProcess], clock: Callable[[], float]) -> None:
        """`clock` is one that never goes back, in seconds."""
        self._start = start
        self._clock = clock
        self._free: dict[ReaderProcess, asyncio.TimerHandle] = {}
        """The processes that nobody uses, those first that have waited for longest, and what ends each."""
        self._loans: dict[Use, set[Loan]] = {use: set() for use in Use}
        self._waiting: dict[Use, dict[object, str]] = {use: {} for use in Use}
        """The tenants of those who wait, who came first at first."""
        self._changed = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Return how many processes there are."""
        return len(self._free) + sum(map(len, self._loans.values()))

    @asynccontextmanager
    async def lend(self, use: Use, tenant: str) -> AsyncGenerator[Loan]:
        """Have a process, once there is one. What it works on still when this ends is given up."""
        loans, waiting, me = self._loans[use], self._waiting[use], object()
        waiting[me] = tenant
        try:
            while self._next(use) is not me or (
                len(loans) >= MOST and not self._recall(use, tenant)
            ):
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
            loan = Loan(self._free_one(use, tenant), tenant, self._clock)
            loans.add(loan)
        finally:
            del waiting[me]
            self._changed.set()
        try:
            yield loan
        finally:
            if not loan.is_recalled:
                loans.remove(loan)
                self._give_back(loan)

    async def close(self) -> None:
        """End all processes."""
        for process in list(self._free):
            self._end(process)
        for loans in self._loans.values():
            for loan in loans:
                self._end(loan.process)
        if self._ending:
            await asyncio.wait(self._ending)

    def _next(self, use: Use) -> object:
        """Return who is next of those who wait: of the tenants that have the fewest processes, who came first."""
        held = Counter(loan.tenant for loan in self._loans[use])
        waiting = self._waiting[use]
        return min(waiting, key=lambda each: held[waiting[each]])

    def _recall(self, use: Use, tenant: str) -> bool:
        """Take the process of a loan where nobody has asked for long, the tenant's first; return whether there was one."""
        found = [loan for loan in self._loans[use] if loan.may_be_recalled(tenant)]
        if not found:
            return False
        recalled = max(found, key=lambda loan: loan.tenant == tenant)
        recalled.is_recalled = True
        self._loans[use].remove(recalled)
        self._give_back(recalled)
        return True

    def _give_back(self, loan: Loan) -> None:
        self._changed.set()
        process = loan.process
        if process.ended or process.is_busy:
            self._end(process)
            return
        if not loan.is_over:
            process.drop()
        loop = asyncio.get_running_loop()
        self._free[process] = loop.call_later(IDLE_S, self._end, process)

    def _free_one(self, use: Use, tenant: str) -> ReaderProcess:
        """Return a process for a use, which has had no other tenant's files.

        For looks it is one that had nothing else to do; such are not used for else if others are free.
        """
        for process in [process for process in self._free if process.ended]:
            self._end(process)
        is_nice = use is not Use.LOOK
        fitting = [
            process
            for process in self._free
            if process.tenant == tenant and (is_nice or not process.is_nice)
        ]
        if fitting:
            process = max(fitting, key=lambda each: each.is_nice)
            self._free.pop(process).cancel()
        else:
            if self.count >= MOST * len(Use):
                self._end(next(iter(self._free)))
            process = self._start()
            process.tenant = tenant
        process.is_nice |= is_nice
        return process

    def _end(self, process: ReaderProcess) -> None:
        timer = self._free.pop(process, None)
        if timer is not None:
            timer.cancel()
        task = asyncio.create_task(process.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
