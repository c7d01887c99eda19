"""A bounded queue and the thread that runs what is in it, one after the other. IO: a thread.

Results go back to the event loop in batches: one wake-up for all runs that ended since the last.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from capamesh.node.backend import LoadedModel
from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    DeadlineExceeded,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.tensors import Tensor

MAX_QUEUED = 512
"""Requests that wait or run in one worker (guess: 10 ms of a small model; more is latency, not throughput)."""
SMOOTHING = 0.1
"""Weight of the newest run in the running mean of run times (guess: follows ten runs)."""


class Job:
    """One run: what to run, until when, and what came of it."""

    __slots__ = (
        "arrived_s",
        "deadline_s",
        "done",
        "ended_s",
        "inputs",
        "is_cancelled",
        "model",
        "outputs",
        "result",
        "started_s",
    )

    def __init__(
        self,
        model: LoadedModel,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        arrived_s: float,
        deadline_s: float | None,
        done: Callable[[Job], None],
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.arrived_s = arrived_s
        self.started_s = arrived_s
        self.ended_s = arrived_s
        self.deadline_s = deadline_s
        self.done = done
        self.is_cancelled = False
        self.result: Sequence[Tensor] | CapameshError = Cancelled("not run")


class RunLoop:
    """Runs jobs in the order they came. Made, used and told of results in one event loop."""

    def __init__(self, clock: Callable[[], float], max_queued: int = MAX_QUEUED) -> None:
        self._clock = clock
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: deque[Job] = deque()
        self._is_waking = False
        self._in_flight = 0
        self._run_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="run-loop", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Jobs submitted and not yet reported."""
        return self._in_flight

    @property
    def queued(self) -> int:
        """Jobs that have not started."""
        return self._jobs.qsize()

    @property
    def max_queued(self) -> int:
        """How many jobs may be in flight."""
        return self._max_queued

    @property
    def run_s(self) -> float:
        """Smoothed duration of a run."""
        return self._run_s

    def submit(self, job: Job) -> None:
        """Queue a job; `job.done` is called once in the event loop. Raises `Overloaded` when full."""
        if self._in_flight >= self._max_queued:
            raise Overloaded(
                f"{self._in_flight} requests are in flight at this worker, the limit; try another node"
            )
        self._in_flight += 1
        self._idle.clear()
        self._jobs.put(job)

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    def close(self) -> None:
        """End the thread after the jobs that are queued."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.started_s = self._clock()
            job.result = self._run_one(job)
            job.ended_s = self._clock()
            self._ended.append(job)
            if not self._is_waking:
                self._is_waking = True
                try:
                    self._loop.call_soon_threadsafe(self._report)
                except RuntimeError:
                    return  # the event loop is closed: nobody waits any more

    @staticmethod
    def _run_one(job: Job) -> Sequence[Tensor] | CapameshError:
        if job.is_cancelled:
            return Cancelled("cancelled before it ran")
        if job.deadline_s is not None and job.started_s >= job.deadline_s:
            return DeadlineExceeded(
                f"the deadline passed {job.started_s - job.deadline_s:.3f} s before the model was free"
            )
        try:
            return job.model.run(job.inputs, job.outputs)
        except CapameshError as error:
            return error
        except BaseException as exc:  # noqa: BLE001 - even a SystemExit must fail one request, not end the thread unseen
            return RunFailed(f"{type(exc).__name__}: {exc}")

    def _report(self) -> None:
        self._is_waking = False
        ended = self._ended
        while ended:
            job = ended.popleft()
            self._in_flight -= 1
            if not isinstance(job.result, CapameshError):
                self._run_s += SMOOTHING * (job.ended_s - job.started_s - self._run_s)
            try:
                job.done(job)
            except Exception as exc:  # noqa: BLE001 - the jobs behind it are reported all the same
                self._loop.call_exception_handler(
                    {"message": "taking a job's result failed", "exception": exc}
                )
        if self._in_flight == 0:
            self._idle.set()
