"""Does long work in short slices on the event loop, with time for everything else between them. IO: asyncio.

A thread would not help: what is long is mostly one call of C that holds the interpreter. All long work of a router
takes turns here, so that ten long requests take no more of the loop than one, and a shorter one overtakes them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from capamesh.protocol.steps import Steps

SLICE_S = 0.003
"""Seconds for which the loop is kept at a time, beside the step that goes over it (guess: what a batch of reads takes)."""
PAUSE_S = 0.001
"""Seconds between two slices (guess: three quarters of the loop's time for long work that never ends, at most)."""

_T = TypeVar("_T")


class Job(Generic[_T]):
    """Some work under way; `cancel` makes it stop, and nothing is told of it any more."""

    __slots__ = ("_on_done", "_on_error", "_steps", "is_over", "label")

    def __init__(
        self,
        steps: Steps[_T],
        on_done: Callable[[_T], None],
        on_error: Callable[[Exception], None],
        label: str,
    ) -> None:
        self._steps = steps
        self._on_done = on_done
        self._on_error = on_error
        self.label = label
        self.is_over = False

    def cancel(self) -> None:
        """Stop."""
        if not self.is_over:
            self.is_over = True
            self._steps.close()

    def step(self) -> None:
        """Take one step; tell what came of it after the last. Raises what whoever is told raises."""
        try:
            next(self._steps)
        except StopIteration as done:
            self.is_over = True
            result: _T = done.value
        except Exception as error:  # noqa: BLE001 - whoever began it is told
            self.is_over = True
            self._on_error(error)
            return
        else:
            return
        self._on_done(result)


class Slices:
    """The long work of one event loop."""

    def __init__(self) -> None:
        self._jobs: deque[Job[object]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many jobs are under way."""
        return len(self._jobs)

    def begin(
        self,
        steps: Steps[_T],
        on_done: Callable[[_T], None],
        on_error: Callable[[Exception], None],
        label: str = "",
    ) -> Job[_T]:
        """Take the steps in turn with all others', from the next slice on.

        `on_done` or `on_error` is told once, later, unless it is cancelled. Neither may raise.
        """
        job = Job(steps, on_done, on_error, label)
        self._jobs.append(cast("Job[object]", job))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(0, self._slice)
        return job

    def describe(self) -> str:
        """Return what is under way, in a few words."""
        if not self._jobs:
            return ""
        labels = sorted({job.label for job in self._jobs})
        return f"{len(self._jobs)} long bodies of {', '.join(labels[:5])}"

    def close(self) -> None:
        """Stop all of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._jobs:
            self._jobs.popleft().cancel()

    def _slice(self) -> None:
        end_s = time.perf_counter() + SLICE_S
        jobs = self._jobs
        loop = asyncio.get_running_loop()
        try:
            while jobs and time.perf_counter() < end_s:
                job = jobs.popleft()
                if not job.is_over:
                    _step(job, loop)
                if not job.is_over:
                    jobs.append(job)
        finally:  # whatever happens, all others go on
            self._timer = loop.call_later(PAUSE_S, self._slice) if jobs else None


async def in_slices(slices: Slices, steps: Steps[_T], label: str = "") -> _T:
    """Return what `steps` come to: at once where there is only one, else in slices of the loop's time. Raises what they raise."""
    try:
        next(steps)
    except StopIteration as done:
        return cast("_T", done.value)
    ended: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def succeeded(result: _T) -> None:
        if not ended.done():
            ended.set_result(result)

    def failed(error: Exception) -> None:
        if not ended.done():
            ended.set_exception(error)

    job = slices.begin(steps, succeeded, failed, label)
    try:
        return await ended
    finally:
        job.cancel()


def _step(job: Job[object], loop: asyncio.AbstractEventLoop) -> None:
    """Take a step of a job; a bug in what it tells ends that job alone."""
    try:
        job.step()
    except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
        job.cancel()
        loop.call_exception_handler(
            {"message": f"the end of a long body of {job.label!r} crashed", "exception": crash}
        )
