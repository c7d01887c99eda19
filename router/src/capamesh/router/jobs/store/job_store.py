"""The store of jobs as the router uses it: each method is one operation, which is as durable as it must be once it is awaited. IO: its thread.

The router's loop never waits for the database: an operation waits in the store's thread, is given up after `PATIENCE_S`, and is
refused at once when too many wait. Every method raises `JobsUnavailable` when the store fails: what was asked may then be done
or not, and is to be asked again; all of them may be. `Overloaded`: too many wait.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import (
    job_operations,
    lease_operations,
    plan_operations,
    shard_operations,
    shown_operations,
    state_operations,
)
from capamesh.router.jobs.store.batch_store import BatchStore
from capamesh.router.jobs.store.database import Change, open_database
from capamesh.router.jobs.store.file_store import FileStore
from capamesh.router.jobs.store.group_commit import Operation, StoreThread
from capamesh.router.jobs.store.price_operations import keep_prices
from capamesh.router.jobs.store.state_operations import StatesSeen
from capamesh.router.jobs.values import (
    BadRow,
    Counts,
    Event,
    Job,
    JobId,
    JobLook,
    Lease,
    Manifest,
    Paid,
    Pinned,
    RowRange,
    new_job_id,
)

PATIENCE_S: Final = 10.0
"""Seconds for which an operation is waited for: less than a lease, so that a router knows that it lost its own."""
CLOSE_S: Final = 5.0
"""Seconds for which the end waits for what was asked before."""

_Result = TypeVar("_Result")


class JobStore:
    """The jobs of all routers that share one database."""

    def __init__(self, thread: StoreThread, wall_s: Callable[[], float]) -> None:
        """Use a thread; `wall_s` is the clock that ids of jobs are made of."""
        self._thread = thread
        self._wall_s = wall_s
        self.committed_rows = 0
        """The rows with a result of the shards that were committed here."""
        self.committed_bad_rows = 0
        """The rows of those shards that have none."""
        self.files: Final = FileStore(self._run, wall_s)
        """The uploaded files in the same database."""
        self.batches: Final = BatchStore(self._run, wall_s)
        """The batches in it."""

    @classmethod
    def open(cls, where: str, wall_s: Callable[[], float]) -> JobStore:
        """Open the store at a path, or at a URL `postgresql://…`; it blocks, and raises `ConfigError`."""
        return cls(StoreThread(open_database(where, wall_s)), wall_s)

    async def close(self) -> None:
        """End, after what was asked before, if that does not take too long."""
        await asyncio.to_thread(self._thread.close, CLOSE_S)

    async def _run(self, operation: Operation[_Result], change: Change = Change.LASTING) -> _Result:
        future = asyncio.wrap_future(self._thread.put(operation, change))
        try:
            # not wait_for, which before Python 3.12 loses a cancellation that comes with the answer
            async with asyncio.timeout(PATIENCE_S):
                return await future
        except TimeoutError:
            raise JobsUnavailable(
                f"the store of jobs has not answered for {PATIENCE_S:g} s; what was asked may or may not be done: ask again"
            ) from None

    # jobs

    async def submit(self, tenant: str, spec: JobSpec, pinned: Pinned) -> tuple[Job, bool]:
        """Keep a job of a tenant and return it and True, or the one of its client key, and False.

        Raises:
            KeyUsed: the tenant used the client key for another job.
            TooManyRequests: the tenant, or the store, has the most jobs that it may.
        """
        job_id = new_job_id(self._wall_s(), secrets.randbits)
        return await self._run(
            lambda turn: job_operations.submit(turn, job_id, tenant, spec, pinned)
        )

    async def get(self, job: JobId, tenant: str | None) -> Job:
        """Return a job; None: whosever it is. Raises `JobNotFound`."""
        return await self._run(partial(job_operations.get, job_id=job, tenant=tenant), Change.NONE)

    async def counts(self, job: JobId) -> Counts:
        """Return how far a job is."""
        return await self._run(partial(job_operations.counts, job_id=job), Change.NONE)

    async def counts_of(self, jobs: Sequence[JobId]) -> list[Counts]:
        """Return how far jobs are, each in its place."""
        return await self._run(lambda turn: shown_operations.counts_of(turn, jobs), Change.NONE)

    async def page(
        self, tenant: str | None, last: JobId | None, count: int, state: JobState | None = None
    ) -> list[Job]:
        """Return jobs, the newest first, from the one after `last` on, and only those in `state` if it is given."""
        return await self._run(
            lambda turn: job_operations.page(turn, tenant, last, count, state), Change.NONE
        )

    async def count_states(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that some are in."""
        return await self._run(shown_operations.count_states, Change.NONE)

    async def look_at_states(self, since_s: float, last: tuple[str, str], count: int) -> StatesSeen:
        """Return the jobs whose state changed since a time of the store, and a page of those that have not ended."""
        return await self._run(
            lambda turn: state_operations.look_at_states(turn, since_s, last, count), Change.NONE
        )

    async def some(self, jobs: Sequence[JobId]) -> list[Job]:
        """Return those of some jobs that there are."""
        return await self._run(lambda turn: state_operations.some(turn, jobs), Change.NONE)

    async def move(
        self, job: JobId, to: JobState, reason: str = "", tenant: str | None = None
    ) -> Job:
        """Bring a job into another state and return it; raises `JobNotFound`, or `JobConflict` if that cannot follow."""
        return await self._run(lambda turn: job_operations.move(turn, job, to, reason, tenant))

    async def resume(self, job: JobId, tenant: str | None) -> Job:
        """Let a paused job go on and return it; raises as `move`."""
        return await self._run(partial(job_operations.resume, job_id=job, tenant=tenant))

    async def finish(self, job: JobId) -> Job:
        """Complete a job all of whose shards are done, and return it as it is then."""
        return await self._run(partial(job_operations.finish, job_id=job))

    async def expire(self) -> list[JobId]:
        """End jobs whose deadline has passed and return their ids."""
        return await self._run(job_operations.expire)

    async def note(self, job: JobId, kind: str, words: str) -> None:
        """Keep an event of a job."""
        await self._run(lambda turn: job_operations.note(turn, job, kind, words))

    async def events(self, job: JobId, after: int, count: int) -> list[Event]:
        """Return the events of a job after one, in order."""
        return await self._run(
            lambda turn: job_operations.events(turn, job, after, count), Change.NONE
        )

    async def look(self, job: JobId, tenant: str | None, after: int) -> JobLook:
        """Return a job, how far it is, and its events after one; None: whosever it is. Raises `JobNotFound`."""
        return await self._run(
            lambda turn: shown_operations.look(turn, job, tenant, after), Change.NONE
        )

    async def untidy(self, count: int) -> list[Job]:
        """Return ended jobs whose folders may hold files that no manifest names."""
        return await self._run(partial(job_operations.untidy, count=count), Change.NONE)

    async def tidied(self, job: JobId) -> None:
        """Take in that those files of a job were removed."""
        await self._run(partial(job_operations.tidied, job_id=job), Change.FLEETING)

    # plans

    async def claim_plan(self, owner: str) -> tuple[Job, int] | None:
        """Lease a job without a plan to a router, and return it and its token; None: there is none."""
        return await self._run(partial(plan_operations.claim_plan, owner=owner), Change.FLEETING)

    async def renew_plan(self, job: JobId, token: int) -> bool:
        """Renew the lease of a plan; False: it is lost."""
        return await self._run(
            partial(plan_operations.renew_plan, job_id=job, token=token), Change.FLEETING
        )

    async def add_shards(
        self, job: JobId, token: int, from_seq: int, ranges: Sequence[RowRange]
    ) -> bool:
        """Add shards to a plan, at most `limits.PIECE_RANGES`; False: its lease is lost."""
        return await self._run(
            lambda turn: plan_operations.add_shards(turn, job, token, from_seq, ranges),
            Change.FLEETING,
        )

    async def finish_plan(self, job: JobId, token: int, fingerprint: str) -> Job | None:
        """Let a planned job run and return it; None: the lease is lost."""
        return await self._run(
            lambda turn: plan_operations.finish_plan(turn, job, token, fingerprint)
        )

    async def rest_plan(self, job: JobId, token: int, reason: str) -> bool:
        """Give a plan back for a while, for its input cannot be read now; False: the lease is lost."""
        return await self._run(
            lambda turn: plan_operations.rest_plan(turn, job, token, reason), Change.FLEETING
        )

    async def lose_plan(self, job: JobId, token: int, reason: str) -> Job | None:
        """Give a plan back that ended who read the input, and return its job if that is one time too many."""
        return await self._run(lambda turn: plan_operations.lose_plan(turn, job, token, reason))

    async def fail_plan(self, job: JobId, token: int, reason: str) -> Job | None:
        """End a job whose input cannot be planned and return it; None: the lease is lost."""
        return await self._run(lambda turn: plan_operations.fail_plan(turn, job, token, reason))

    # shards

    async def claim(
        self,
        job: Job,
        owner: str,
        count: int,
        *,
        rows: int = 0,
        may_be_second: bool = False,
        slow_s: float = 0.0,
    ) -> list[Lease]:
        """Lease shards of a running job to a router, of up to `rows` each if those planned are shorter; at the job's end also such as another one has had for `slow_s`."""
        if not may_be_second:
            return await self._run(
                lease_operations.Claim(job.id, job.spec, owner, count, rows), Change.FLEETING
            )
        return await self._run(
            lambda turn: lease_operations.claim(
                turn,
                job.id,
                job.spec,
                owner,
                count,
                may_be_second=may_be_second,
                slow_s=slow_s,
            ),
            Change.FLEETING,
        )

    async def take_over(self, job: Job, owner: str, count: int) -> list[Lease]:
        """Lease shards of a running job to a router whose lease has ended."""
        return await self._run(
            lambda turn: lease_operations.take_over(turn, job.id, job.spec, owner, count),
            Change.FLEETING,
        )

    async def ended_leases(self) -> list[JobId]:
        """Return running jobs that have shards whose lease has ended, the longest ago first."""
        return await self._run(lease_operations.ended, Change.NONE)

    async def holders(self, jobs: Sequence[JobId]) -> dict[JobId, set[str]]:
        """Return the routers that have leases of each of some jobs now."""
        if not jobs:
            return {}
        return await self._run(lambda turn: lease_operations.holders(turn, jobs), Change.NONE)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Renew leases and return those that still hold."""
        return await self._run(partial(lease_operations.renew, leases=leases), Change.FLEETING)

    async def release(
        self, lease: Lease, spec: JobSpec, failure: str = "", *, has_ended_reader: bool = False
    ) -> bool:
        """Give a lease back, with the reason if the shard failed, or ended who read it; False: it was lost before."""
        return await self._run(
            lambda turn: lease_operations.release(
                turn, lease, spec, failure, has_ended_reader=has_ended_reader
            ),
            Change.FLEETING,
        )

    async def commit(
        self,
        lease: Lease,
        spec: JobSpec,
        manifest: Manifest,
        bad_rows: Sequence[BadRow] = (),
        paid: Paid | None = None,
    ) -> bool:
        """Make a manifest the shard's, with its bad rows; False: it is another router's shard now. `paid` is kept in any case."""
        is_taken = await self._run(
            lambda turn: shard_operations.commit(turn, lease, spec, manifest, bad_rows, paid)
        )
        if is_taken:
            self.committed_rows += manifest.rows
            self.committed_bad_rows += manifest.bad_rows
        return is_taken

    async def keep_prices(self, paid: Sequence[Paid]) -> None:
        """Keep what a process has paid for jobs, those that have ended, too."""
        await self._run(partial(keep_prices, paid=paid))

    async def bad_rows(self, job: JobId, after: int, count: int) -> list[BadRow]:
        """Return bad rows of a job after one, by its number, in order."""
        return await self._run(
            lambda turn: shard_operations.bad_rows(turn, job, after, count), Change.NONE
        )

    async def manifests(
        self, job: JobId, from_seq: int, count: int
    ) -> list[tuple[int, RowRange, Manifest]]:
        """Return the manifests of a job from a shard on, in order, with its number and rows."""
        return await self._run(
            lambda turn: shard_operations.manifests(turn, job, from_seq, count), Change.NONE
        )

    async def place_of(self, job: JobId, row: int) -> tuple[int, int | None]:
        """Return the shard that has a row, and the first row from that shard on that has no manifest; None: all have."""
        return await self._run(lambda turn: shard_operations.place_of(turn, job, row), Change.NONE)
