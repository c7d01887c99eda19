"""A store of jobs without its thread, and with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from capamesh.protocol.ids import ModelVersion
from capamesh.router.jobs.inputs.limits import PIECE_RANGES
from capamesh.router.jobs.spec import FailurePolicy, InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import (
    job_operations,
    lease_operations,
    plan_operations,
    shard_operations,
)
from capamesh.router.jobs.store.database import Database
from capamesh.router.jobs.store.group_commit import Operation, Waiting, run_group
from capamesh.router.jobs.values import (
    BadRow,
    Job,
    JobId,
    Lease,
    Manifest,
    Paid,
    Part,
    Pinned,
    RowRange,
)

NOW_S = 1_800_000_000.0
PINNED = Pinned(ModelVersion("1"), "sha256:00")
_Result = TypeVar("_Result")


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def spec_with(
    client_key: str = "", *, deadline_s: float | None = None, failure: FailurePolicy | None = None
) -> JobSpec:
    source = InputSpec("/data/in.jsonl", InputFormat.JSONL, {"x": ("pixels",)})
    return JobSpec(
        "digits",
        source,
        OutputSpec("/data/out"),
        deadline_s=deadline_s,
        client_key=client_key,
        failure=failure or FailurePolicy(),
    )


def ranges(count: int, rows: int = 10) -> list[RowRange]:
    return [RowRange(at * rows, rows, 0, at * rows * 7, rows * 7) for at in range(count)]


def manifest(lease: Lease, *, bad: int = 0) -> Manifest:
    part = Part(f"part-{lease.seq}-{lease.token}.jsonl", 100, "ab" * 32)
    return Manifest(lease.range.rows - bad, bad, part)


class Desk:
    """Runs operations on a database at once, each in a transaction of its own."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        # a test's time is its own on PostgreSQL, too
        database.now_s = lambda _connection: clock.now_s  # type: ignore[method-assign]
        self._made = 0

    def run(self, operation: Operation[_Result]) -> _Result:
        waiting = self.waiting(operation)
        run_group(self.database, (waiting,))
        return waiting.future.result(timeout=0)

    def call(self, function: Callable[..., _Result], *words: object, **named: object) -> _Result:
        return self.run(lambda turn: function(turn, *words, **named))

    @staticmethod
    def waiting(operation: Operation[_Result]) -> Waiting[_Result]:
        future: Future[_Result] = Future()
        future.set_running_or_notify_cancel()
        return Waiting(operation, future)

    def submitted(self, spec: JobSpec | None = None, tenant: str = "acme") -> Job:
        self._made += 1
        job_id = JobId(f"job-{self._made:04}")
        job, _ = self.call(job_operations.submit, job_id, tenant, spec or spec_with(), PINNED)
        return job

    def planned(
        self,
        shards: int | Sequence[RowRange] = 3,
        spec: JobSpec | None = None,
        tenant: str = "acme",
    ) -> Job:
        """Return a running job of so many shards; no other may wait for its plan."""
        self.submitted(spec, tenant)
        taken = self.call(plan_operations.claim_plan, "planner")
        assert taken is not None
        job, token = taken
        added = ranges(shards) if isinstance(shards, int) else list(shards)
        step = PIECE_RANGES
        for at in range(0, len(added), step):
            assert self.call(plan_operations.add_shards, job.id, token, at, added[at : at + step])
        done = self.call(plan_operations.finish_plan, job.id, token, "fingerprint")
        assert done is not None
        return done

    def now(self, job: Job) -> Job:
        return self.call(job_operations.get, job.id)

    def move(self, job: Job, to: JobState, reason: str = "") -> Job:
        return self.call(job_operations.move, job.id, to, reason)

    def claim(self, job: Job, owner: str = "a", count: int = 1, **more: bool) -> list[Lease]:
        return self.call(lease_operations.claim, job.id, job.spec, owner, count, **more)

    def one(self, job: Job, owner: str = "a", **more: bool) -> Lease:
        """Return the only lease that a router can have now, of those that it asks for."""
        (lease,) = self.claim(job, owner, **more)
        return lease

    def commit(
        self,
        job: Job,
        lease: Lease,
        *,
        bad: int = 0,
        rows: Sequence[BadRow] = (),
        paid: Paid | None = None,
    ) -> bool:
        made = manifest(lease, bad=bad)
        return self.call(shard_operations.commit, lease, job.spec, made, rows, paid)

    def release(self, job: Job, lease: Lease, failure: str = "", **more: bool) -> bool:
        return self.call(lease_operations.release, lease, job.spec, failure, **more)

    def renew(self, *leases: Lease) -> list[Lease]:
        return self.call(lease_operations.renew, leases)
