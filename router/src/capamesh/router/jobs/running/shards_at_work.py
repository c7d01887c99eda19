"""The shards that one router has leased: each is run, committed or given back, and its lease renewed meanwhile. IO: the store; tasks.

A lease that may have ended ends its work at once: what would come of it could not be committed. What went wrong decides what becomes
of the job: what a person can put right pauses it, what nobody can fails it, and all else gives the shard back, to be tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.errors import CapameshError, ConfigError, InvalidRequest, Overloaded
from capamesh.router.jobs.errors import (
    InputChanged,
    JobsUnavailable,
    OutputFailed,
    PlaceUnavailable,
    ReaderEnded,
)
from capamesh.router.jobs.running.errors import JobFailed, JobHeld, ShardFailed, ShardGivenBack
from capamesh.router.jobs.running.room import Room
from capamesh.router.jobs.running.setbacks import Setbacks
from capamesh.router.jobs.running.shard_run import ShardRun, Tools
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import LEASE_S, RENEW_S, BadRow, JobId, Lease, Manifest

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.readers.input_reading import InputReading
    from capamesh.router.jobs.running.claiming import Claiming
    from capamesh.router.jobs.running.model_work import ModelWork
    from capamesh.router.jobs.running.nodes import Hosting
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job

CHECK_S: Final = 1.0
"""Seconds between two looks at the leases."""
REST_S: Final = 1.0
"""Seconds of rest before a store that failed is asked to commit again."""
CLOSE_S: Final = 3.0
"""Seconds that the end waits for the store to take leases back."""

Move = Callable[[JobId, JobState, str], Awaitable[None]]
"""Brings a job into a state for a reason, unless it is too late for that."""


@dataclass(slots=True)
class _Held:
    """A shard at work here."""

    run: ShardRun
    lease: Lease
    renewed_s: float
    """The time at which the lease was asked for that it has now."""
    task: asyncio.Task[None] | None = None
    is_lost: bool = False
    """True if another router may have the lease: then nothing is given back."""

    @property
    def key(self) -> tuple[JobId, int, int]:
        return self.lease.job, self.lease.seq, self.lease.token


class ShardsAtWork:
    """The shards at work at one router."""

    def __init__(
        self,
        store: JobStore,
        reading: InputReading,
        sink_of: Callable[[Job], Sink],
        tools: Tools,
        claiming: Claiming,
        *,
        move: Move,
        log: FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._reading = reading
        self._sink_of = sink_of
        self._tools = tools
        self._claiming = claiming
        self._move = move
        self._log = log
        self._clock = tools.clock
        self._held: dict[tuple[JobId, int, int], _Held] = {}
        self._room = Room()
        self._closing: set[asyncio.Task[None]] = set()
        """The tasks that give leases back of shards that have ended here."""
        self.setbacks = Setbacks()
        self.must_claim = asyncio.Event()
        """The event that there may be room for another shard."""

    @property
    def runs(self) -> list[ShardRun]:
        """Return all that is at work, or waits for room."""
        return [held.run for held in self._held.values()]

    def rests(self, job: JobId, now_s: float) -> bool:
        """Return whether a job gets no shard now: one that failed last is tried with a single one, so that it takes no more threads."""
        if self.setbacks.rests(job, now_s):
            return True
        is_at_work = any(held.lease.job == job for held in self._held.values())
        return is_at_work and self.setbacks.has_failed(job)

    def begin(
        self, job: Job, lease: Lease, work: ModelWork, hosting: Hosting, asked_s: float
    ) -> None:
        """Begin with a shard whose lease was asked for at a time, once there is room for it."""
        held = _Held(ShardRun(job, lease, work, hosting, self._tools), lease, asked_s)
        self._held[held.key] = held
        self._room.enter(held.run)
        held.task = asyncio.create_task(self._work_on(held))
        held.task.add_done_callback(partial(self._ended, held))

    def give_back(self, job: Job, lease: Lease) -> None:
        """Give back a lease with which nothing was begun."""
        self._close_by(self._release(lease, job))

    def stop(self, is_running: Callable[[JobId], bool]) -> None:
        """End the work on all jobs that do not run any more."""
        for held in list(self._held.values()):
            if not is_running(held.lease.job):
                self._stop(held)

    async def close(self) -> None:
        """End all work and give the leases back, if the store takes them soon."""
        self.stop(lambda _job: False)
        until_s = self._clock() + CLOSE_S
        while pending := [*self._closing, *(h.task for h in self._held.values() if h.task)]:
            left_s = until_s - self._clock()
            if left_s <= 0:
                return  # the leases end by themselves
            await asyncio.wait(pending, timeout=left_s)

    async def check(self) -> None:
        """Stop the work on leases that may have ended, and renew the others in one operation when that is due."""
        now_s = self._clock()
        for held in self._held.values():
            if now_s - held.renewed_s >= LEASE_S:
                self._stop(held, is_lost=True)
        due = [
            held
            for held in self._held.values()
            if not held.is_lost and now_s - held.renewed_s >= RENEW_S - CHECK_S
        ]
        if not due:
            return
        mine = [held for held in self._held.values() if not held.is_lost]
        kept = {
            (lease.job, lease.seq, lease.token)
            for lease in await self._store.renew([held.lease for held in mine])
        }
        for held in mine:
            if held.key in kept:
                held.renewed_s = now_s
            elif held.key in self._held:
                self._stop(held, is_lost=True)

    def _ended(self, held: _Held, _task: asyncio.Task[None]) -> None:
        """Give its room to others, and its lease back if it was stopped before it had begun."""
        self._room.leave(held.run)
        if self._held.pop(held.key, None) is not None:
            self._close_by(self._release(held.lease, held.run.job))

    def _stop(self, held: _Held, *, is_lost: bool = False) -> None:
        """End the work on a shard at once."""
        held.is_lost |= is_lost
        if held.task is not None:
            held.task.cancel()

    async def _work_on(self, held: _Held) -> None:
        """Run one shard to its commit, or give it back."""
        failure = ""
        has_ended_reader = False
        try:
            await self._run_and_commit(held)
        except asyncio.CancelledError:
            pass  # the shard ends here, and nobody awaits the task but to know that
        except Exception as error:  # noqa: BLE001 - what it was decides what becomes of the shard
            failure = await self._failed(held, error)
            has_ended_reader = isinstance(error, ReaderEnded)
        else:
            held.is_lost = True  # there is no lease any more
        finally:
            self._held.pop(held.key, None)
            self.must_claim.set()
        if not held.is_lost:
            self._close_by(
                self._release(held.lease, held.run.job, failure, has_ended_reader=has_ended_reader)
            )

    async def _run_and_commit(self, held: _Held) -> None:
        run, job = held.run, held.run.job
        await run.may_begin.wait()
        began_s = self._clock()
        sink = await self._tools.in_thread(lambda: self._sink_of(job))
        wanted = self.setbacks.unwritten_bytes(job.id)
        if wanted is not None:  # before nodes are paid for results that have no place again
            await self._tools.in_thread(lambda: sink.check_room(wanted))
        manifest, bad = await run.run(self._reading, sink)
        self.setbacks.wrote(job.id)
        if await self._commit(held, manifest, bad):
            self.setbacks.went_well(job.id)
        rows = held.lease.range.rows
        self._claiming.ended(job, rows, began_s, manifest.row_s, run.work, self._clock())

    async def _commit(self, held: _Held, manifest: Manifest, bad: list[BadRow]) -> bool:
        """Commit a manifest; a store that fails is asked again for as long as the lease may hold."""
        lease, spec, prices = held.lease, held.run.job.spec, self._tools.prices
        while True:
            paid = prices.paid(lease.job)
            try:
                is_taken = await self._store.commit(lease, spec, manifest, bad, paid)
            except (JobsUnavailable, Overloaded) as error:
                self._log.warning("jobs_commit_waits", job=held.lease.job, reason=error.message)
                await asyncio.sleep(REST_S)
            else:
                prices.kept((paid,))
                return is_taken

    async def _failed(self, held: _Held, error: Exception) -> str:
        """Do what an error asks for, and return how the shard has failed; "": it has not, as far as anybody can tell."""
        job, now_s = held.run.job.id, self._clock()
        to, reason, failure = JobState.RUNNING, "", ""
        match error:
            case JobFailed():
                to, reason = JobState.FAILED, error.reason
            case JobHeld():
                to, reason = JobState.PAUSED, error.reason
            case InputChanged():
                to, reason = JobState.FAILED, error.message
            case ShardFailed():
                failure = error.reason
            case ReaderEnded():
                failure = error.message
            case PlaceUnavailable():  # it passes by itself, and costs nothing but time
                if not self.setbacks.has_failed(job):
                    self._close_by(self._note_wait(job, error.message))
            case ShardGivenBack():
                pass  # it is tried again, after rests that grow
            case OutputFailed() | ConfigError() | InvalidRequest():
                if isinstance(error, OutputFailed) and (size := held.run.results.size_bytes):
                    self.setbacks.could_not_write(job, size)
                # what a person can put right: a disk that is full, a file that may not be read, a library
                reason = f"{error.message}; put that right, and resume the job"
            case CapameshError():
                failure = error.message
            case _:
                self._log.error("jobs_shard_crashed", job=job, exc_info=error)
                failure = "the router failed on it; see its log"
        if to is JobState.RUNNING and self.setbacks.failed(job, now_s) and reason:
            to = JobState.PAUSED
        if to is not JobState.RUNNING:
            try:
                await self._move(job, to, reason)
            except (JobsUnavailable, Overloaded) as exc:  # the next shard finds the same
                self._log.warning("jobs_move_failed", job=job, reason=exc.message)
        return failure

    async def _note_wait(self, job: JobId, words: str) -> None:
        """Tell that a job waits for a place of its data."""
        try:
            await self._store.note(job, "waiting", words)
        except (JobsUnavailable, Overloaded) as exc:
            self._log.warning("jobs_note_failed", job=job, reason=exc.message)

    async def _release(
        self, lease: Lease, job: Job, failure: str = "", *, has_ended_reader: bool = False
    ) -> None:
        try:
            await self._store.release(lease, job.spec, failure, has_ended_reader=has_ended_reader)
        except (JobsUnavailable, Overloaded) as error:  # the lease ends by itself
            self._log.warning("jobs_release_failed", job=lease.job, reason=error.message)
        self.must_claim.set()

    def _close_by(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
