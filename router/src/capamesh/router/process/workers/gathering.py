"""Asks all workers for their parts of a page, and waits for them no longer than a deadline. IO: asyncio."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from capamesh.router.process.workers.messages import Ask, Held, Part

if TYPE_CHECKING:
    from capamesh.router.process.workers.handle import WorkerHandle

DEADLINE_S: Final = 2.0
"""Seconds that a worker may take to make its part (guess: one that is busy answers within some 100 ms)."""
Question: TypeAlias = Callable[[int], Ask | Held]
"""Makes the message that asks, of the number that its answer has."""


class _Round:
    """One question that was asked of several."""

    def __init__(self, asked: Iterable[WorkerHandle]) -> None:
        self.missing = set(asked)
        self.parts: dict[WorkerHandle, bytes] = {}
        self.is_over = asyncio.Event()

    def take(self, worker: WorkerHandle, body: bytes | None) -> None:
        """Take an answer; None: there will be none."""
        if worker not in self.missing:
            return
        self.missing.discard(worker)
        if body is not None:
            self.parts[worker] = body
        if not self.missing:
            self.is_over.set()


class Gathering:
    """The questions that are under way."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._rounds: dict[int, _Round] = {}

    async def ask(
        self, workers: Iterable[WorkerHandle], question: Question
    ) -> dict[WorkerHandle, bytes]:
        """Return the answers of those of `workers` that answered in time."""
        number = next(self._numbers)
        asked = [worker for worker in workers if worker.ask(question(number))]
        if not asked:
            return {}
        under_way = self._rounds[number] = _Round(asked)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await under_way.is_over.wait()
        except TimeoutError:
            pass
        finally:
            del self._rounds[number]
        return under_way.parts

    def answered(self, worker: WorkerHandle, part: Part) -> None:
        """Take a part that came, however late."""
        under_way = self._rounds.get(part.number)
        if under_way is not None:
            under_way.take(worker, part.body)

    def lost(self, worker: WorkerHandle) -> None:
        """Wait no more for a worker that is gone."""
        for under_way in list(self._rounds.values()):
            under_way.take(worker, None)
