"""A router leases as many shards as keep nodes busy, within what it may hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from job_desk import NOW_S, PINNED, spec_with
from job_nodes import FakeNodes

from capamesh.router.jobs.running.claiming import BATCHES_AHEAD, Claiming
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.running.room import HELD_BYTES, HELD_BYTES_EACH
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import Job, JobId, Pinned

OTHER = Pinned(PINNED.version, "sha256:01")


@dataclass(eq=False)
class Run:
    """A shard at work, as far as claiming looks at it."""

    job: Job
    work: ModelWork
    unsent_rows: int = 0
    planned_bytes: int = 0
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)


def job_of(name: str, tenant: str = "t", pinned: Pinned = PINNED) -> Job:
    return Job(
        JobId(name), tenant, spec_with(), pinned, JobState.RUNNING, "", NOW_S, None, 1000, 10, ""
    )


class Rig:
    """Two models that nodes host, and a router that claims."""

    def __init__(self) -> None:
        nodes = FakeNodes("a", "b")
        self.most: dict[JobId, int] = {}
        self.works = {
            ("digits", pinned): ModelWork(pinned, "digits", nodes, self.most.get, lambda: 0.0)
            for pinned in (PINNED, OTHER)
        }
        for work in self.works.values():
            work.look()
        self.claiming = Claiming()
        self.runs: list[Run] = []

    def next(self, *jobs: Job, now_s: float = 0.0, rests: bool = False) -> Job | None:
        return self.claiming.next(
            jobs,
            self.works,
            self.runs,  # type: ignore[arg-type] - it has all that is looked at
            lambda _job: rests,
            now_s,
        )

    def may_take_over(self, job: Job, *, rests: bool = False) -> int:
        return self.claiming.may_take_over(
            job,
            self.works,
            self.runs,  # type: ignore[arg-type] - it has all that is looked at
            lambda _job: rests,
        )

    def run(
        self, job: Job, unsent_rows: int = 0, planned_bytes: int = 0, *, has_room: bool = True
    ) -> None:
        run = Run(job, self.works["digits", job.pinned], unsent_rows, planned_bytes)
        if has_room:
            run.may_begin.set()
        self.runs.append(run)


ONE, TWO, FAR = job_of("one"), job_of("two"), job_of("far", pinned=OTHER)
AHEAD = 8 * BATCHES_AHEAD * 4
"""The rows that wait for two nodes with two calls of eight rows each."""


def test_shard_is_leased_while_too_few_rows_wait() -> None:
    rig = Rig()
    assert rig.next(ONE) is ONE
    rig.run(ONE, AHEAD - 1)
    assert rig.next(ONE) is ONE
    rig.run(ONE, 1)
    assert rig.next(ONE) is None


def test_job_that_rests_or_does_not_run_gets_nothing() -> None:
    rig = Rig()
    assert rig.next(ONE, rests=True) is None
    assert rig.next(replace(ONE, state=JobState.PAUSED)) is None


def test_bytes_that_are_held_have_a_bound() -> None:
    rig = Rig()
    rig.run(ONE, 0, HELD_BYTES_EACH)
    assert rig.next(ONE) is None  # the rest is for other models
    assert rig.next(ONE, FAR) is FAR
    rig.run(FAR, 0, HELD_BYTES - HELD_BYTES_EACH)
    assert rig.next(ONE, FAR) is None


def test_shards_are_taken_over_only_of_jobs_that_may_have_more_here() -> None:
    rig = Rig()
    assert rig.may_take_over(ONE, rests=True) == 0
    assert rig.may_take_over(replace(ONE, state=JobState.PAUSED)) == 0
    rig.works["digits", OTHER].hosted = None
    assert rig.may_take_over(FAR) == 0
    rig.most[ONE.id] = 1
    assert rig.may_take_over(ONE) == 1  # one at a time: its rows may be enough
    rig.run(ONE, 8)
    assert rig.may_take_over(ONE) == 0


def test_shards_that_are_taken_over_are_their_job_s_turns() -> None:
    rig = Rig()
    assert [rig.next(ONE, TWO), rig.next(ONE, TWO)] == [ONE, TWO]
    for _ in range(3):
        rig.claiming.took_over(ONE, rig.works)
    got = [rig.next(ONE, TWO) for _ in range(6)]
    assert got.count(TWO) >= 4, "the job that got shards by the way goes behind"
