"""Decides which job gets a shard next, and whether one more is needed to keep nodes busy, within what a router holds. Pure.

Shards of a router that is gone are another matter: they are taken over at once, and count as their job's turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.running.hosted_rows import out_row_bytes
from capamesh.router.jobs.running.room import HELD_BYTES, HELD_BYTES_EACH, MOST_SHARDS
from capamesh.router.jobs.running.shard_size import ShardSizes
from capamesh.router.jobs.running.turns import Turns
from capamesh.router.jobs.states import JobState

if TYPE_CHECKING:
    from capamesh.router.jobs.running.model_work import ModelWork
    from capamesh.router.jobs.running.shard_run import ShardRun
    from capamesh.router.jobs.values import Job, JobId, Pinned

    Works = Mapping[tuple[str, Pinned], ModelWork]

MOST_LEASES: Final = 64
"""The most leases of a router, from which on it takes none over: those that have no room yet wait (guess: several dead routers' worth)."""
BATCHES_AHEAD: Final = 2
"""The calls' worth of rows that is to wait here for each call in flight: the next shard is leased and read meanwhile (guess)."""
DRY_S: Final = 0.5
"""Seconds until a job is asked again that had no free shard."""
UNKNOWN_ROW_S: Final = 1e-3
"""Seconds of a row, for turns, where nobody says (guess: jobs of one model are compared by it)."""


class Claiming:
    """The leases that one router takes. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._turns: Turns[JobId] = Turns()
        self.sizes = ShardSizes()
        self._dry: dict[JobId, float] = {}
        """The times until which jobs have no free shard, as far as is known."""

    def next(
        self,
        jobs: Iterable[Job],
        works: Works,
        runs: Collection[ShardRun],
        rests: Callable[[Job], bool],
        now_s: float,
    ) -> Job | None:
        """Return the job whose turn it is to get a shard; None: nobody wants one, or there is enough at work.

        `works` are the models that jobs run here, `runs` the shards at work; `rests` tells which jobs are left alone now.
        """
        short = self._short(works, runs)
        if not short:
            return None
        wanted: dict[str, dict[JobId, float]] = {}
        found: dict[JobId, Job] = {}
        self._dry = {job: until_s for job, until_s in self._dry.items() if until_s > now_s}
        for job in jobs:
            work = short.get((job.spec.model, job.pinned))
            if work is None or job.state is not JobState.RUNNING:
                continue
            if job.id in self._dry or rests(job) or self._has_enough(job, work, runs):
                continue
            found[job.id] = job
            wanted.setdefault(job.tenant, {})[job.id] = self._cost_s(job, work)
        turn = self._turns.next(wanted)
        return None if turn is None else found[turn[1]]

    def shard_rows(self, job: Job, works: Works) -> int:
        """Return the most rows of the next shard of a job: half of the shards that may be at work keep all nodes busy. 0: as planned."""
        work = works.get((job.spec.model, job.pinned))
        if work is None or work.hosted is None:
            return 0
        ahead = BATCHES_AHEAD * work.call_rows * work.lane.pace.most_in_flight
        return self.sizes.rows(job, ahead // (MOST_SHARDS // 2), out_row_bytes(work.hosted))

    def is_short(self, works: Works, runs: Collection[ShardRun]) -> bool:
        """Return whether nodes may soon have nothing to do for want of shards that are leased."""
        return bool(self._short(works, runs))

    def may_take_over(
        self, job: Job, works: Works, runs: Collection[ShardRun], rests: Callable[[Job], bool]
    ) -> int:
        """Return how many shards of a job this router may take over from one that is gone.

        It takes them whether nodes are short of rows or not, and whether it has room for them or not: somebody is to have them soon.
        """
        work = works.get((job.spec.model, job.pinned))
        if work is None or work.hosted is None or job.state is not JobState.RUNNING:
            return 0
        if rests(job) or self._has_enough(job, work, runs):
            return 0
        left = max(0, MOST_LEASES - len(runs))
        return left if work.most_of(job.id) is None else min(left, 1)

    def took_over(self, job: Job, works: Works) -> None:
        """Count a shard that was taken over as one of its job's and its tenant's turns."""
        work = works.get((job.spec.model, job.pinned))
        if work is not None:
            self._turns.settle(job.tenant, job.id, self._cost_s(job, work))

    def found_none(self, job: JobId, now_s: float) -> None:
        """Take in that a job has no free shard now."""
        self._dry[job] = now_s + DRY_S

    def ended(
        self, job: Job, rows: int, began_s: float, took_s: float, work: ModelWork, now_s: float
    ) -> None:
        """Take in that a shard of so many rows, which was begun at a time, has taken so many row-seconds."""
        planned_s = self._cost_s(job, work)
        self.sizes.ended(job.id, rows, began_s, now_s)
        self._dry.pop(job.id, None)  # who looks again ends the job, if that was the last
        self._turns.settle(job.tenant, job.id, took_s - planned_s)

    def _short(
        self, works: Works, runs: Collection[ShardRun]
    ) -> dict[tuple[str, Pinned], ModelWork]:
        """Return the models of which too few rows wait here, if there is room for more."""
        at_work = [run for run in runs if run.may_begin.is_set()]
        if len(at_work) >= MOST_SHARDS or sum(run.planned_bytes for run in at_work) >= HELD_BYTES:
            return {}
        short: dict[tuple[str, Pinned], ModelWork] = {}
        for key, work in works.items():
            if work.hosted is None:
                continue
            own = [run for run in runs if run.work is work]
            if sum(run.planned_bytes for run in own) >= HELD_BYTES_EACH:
                continue
            ahead = (
                work.call_rows * BATCHES_AHEAD * max(BATCHES_AHEAD, work.lane.pace.most_in_flight)
            )
            if sum(self._sendable(work, own).values()) < ahead:
                short[key] = work
        return short

    def _sendable(self, work: ModelWork, own: Iterable[ShardRun]) -> dict[JobId, int]:
        """Return the rows of each job that wait here, as far as the job may have so many calls in flight."""
        rows: dict[JobId, int] = {}
        for run in own:
            rows[run.job.id] = rows.get(run.job.id, 0) + run.unsent_rows
        for job, waiting in rows.items():
            most = work.most_of(job)
            if most is not None:
                rows[job] = min(waiting, most * BATCHES_AHEAD * work.call_rows)
        return rows

    def _has_enough(self, job: Job, work: ModelWork, runs: Collection[ShardRun]) -> bool:
        """Return whether a job that may have few calls in flight has rows for them."""
        most = work.most_of(job.id)
        if most is None:
            return False
        own = [run for run in runs if run.job.id == job.id]
        return sum(run.unsent_rows for run in own) >= most * work.call_rows

    def _cost_s(self, job: Job, work: ModelWork) -> float:
        hosted = work.hosted
        row_s = (hosted.row_s if hosted is not None else 0.0) or UNKNOWN_ROW_S
        planned = max(1, job.rows // max(1, job.shards))
        return max(planned, self.sizes.rows(job, 0, 0)) * row_s
