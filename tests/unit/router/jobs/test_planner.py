"""A plan is made under its lease, whatever the input and the store do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_desk import PINNED, Clock
from job_files import ANYWHERE, write_jsonl

from capamesh.router.jobs import planner as planners
from capamesh.router.jobs.errors import JobsUnavailable, PlaceUnavailable
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.planner import TRIES, Planner
from capamesh.router.jobs.readers.input_reading import ReadHere
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_store
from capamesh.router.jobs.store.database import Change, open_database
from capamesh.router.jobs.store.group_commit import Operation, StoreThread
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.store.plan_operations import MAX_PLANS, REST_S
from capamesh.router.jobs.values import LEASE_S, Job

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the disk as long as it takes."""
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)


class FailingThread(StoreThread):
    """A store's thread that fails some operations, each after it was done or instead."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(open_database(str(path), clock))
        self.fails: Iterator[str] = iter(())
        """What happens to the next ones: "", "before" or "after"."""

    def put(self, operation: Operation[object], change: Change = Change.LASTING) -> object:  # type: ignore[override]
        fails = next(self.fails, "")
        future = super().put(operation if fails != "before" else lambda _turn: None, change)
        if fails:
            future.result(LIMIT_S)
            raise JobsUnavailable("the store fails")
        return future


class Planned:
    """A job that waits for its plan, and a planner."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.rests: list[float] = []
        self.thread = FailingThread(folder / "jobs.db", self.clock)
        self.store = JobStore(self.thread, self.clock)
        self.planner = Planner(
            self.store, ReadHere(ANYWHERE, asyncio.to_thread, lambda: 0.0), self._rest
        )

    async def _rest(self, seconds: float) -> None:
        self.rests.append(seconds)

    async def made(self, job: Job, fence: int = 1, rows: int = 1) -> Job:
        done = await self.planner.plan(job, fence, ShardLimits(rows))
        assert done is not None
        return done

    async def submitted(self, path: Path, column: str = "v") -> Job:
        form = InputFormat.CSV if path.suffix == ".csv" else InputFormat.JSONL
        source = InputSpec(str(path), form, {"x": (column,)})
        job, _ = await self.store.submit("t", JobSpec("m", source, OutputSpec("/out")), PINNED)
        taken = await self.store.claim_plan("a")
        assert taken == (job, 1)
        return job


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    planned = Planned(tmp_path)
    yield planned
    planned.thread.close(LIMIT_S)


def lines(folder: Path, count: int) -> Path:
    return write_jsonl(folder / "in.jsonl", [{"v": at} for at in range(count)])


async def test_router_that_lost_the_lease_stops(tmp_path: Path, planned: Planned) -> None:
    job = await planned.submitted(lines(tmp_path, 4))
    planned.clock.now_s += LEASE_S
    assert await planned.store.claim_plan("b") == (job, 2)
    assert await planned.planner.plan(job, 1, ShardLimits(1)) is None
    assert not await planned.store.rest_plan(job.id, 1, "away")  # nor is it given back
    assert (await planned.made(job, 2, 2)).shards == 2


async def test_store_that_fails_again_and_again_leaves_the_plan_to_the_next(
    tmp_path: Path, planned: Planned
) -> None:
    job = await planned.submitted(lines(tmp_path, 5))
    planned.thread.fails = iter(["before"] * TRIES)
    with pytest.raises(JobsUnavailable):
        await planned.planner.plan(job, 1, ShardLimits(1))
    assert len(planned.rests) == TRIES - 1
    planned.clock.now_s += LEASE_S
    assert await planned.store.claim_plan("b") == (job, 2)


async def test_input_that_is_wrong_fails_the_job(tmp_path: Path, planned: Planned) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2\n")
    for column, source, words in (
        ("v", path, "Say which make up that input, in its order: --column v=A,B of"),
        ("v", tmp_path / "none.jsonl", "No such file"),
        ("v", Path("relative.jsonl"), "an absolute path"),
    ):
        job = await planned.submitted(source, column)
        failed = await planned.made(job)
        assert failed.state is JobState.FAILED
        assert words in failed.reason


async def test_plan_of_too_many_shards_fails_the_job(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planners, "MAX_SHARDS", 3)
    job = await planned.submitted(lines(tmp_path, 4))
    assert "more than 3 shards" in (await planned.made(job)).reason


async def test_empty_input_is_a_job_that_ends_at_once(tmp_path: Path, planned: Planned) -> None:
    job = await planned.submitted(lines(tmp_path, 0))
    await planned.made(job)
    assert (await planned.store.finish(job.id)).state is JobState.COMPLETED


async def test_input_that_cannot_be_read_now_is_planned_later(
    tmp_path: Path, planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lines(tmp_path, 4)
    whole = LocalFile.open
    error = PlaceUnavailable("s3://b/x cannot be had now: the store answered 503")

    def away(_source: LocalFile) -> None:
        raise error

    job = await planned.submitted(path)
    for _ in range(2 * MAX_PLANS):  # none of which counts
        monkeypatch.setattr(LocalFile, "open", away)
        assert await planned.planner.plan(job, 1, ShardLimits(1)) is None
        waiting = await planned.store.get(job.id, None)
        assert (waiting.state, waiting.reason) == (JobState.PLANNING, error.message)
        assert await planned.store.claim_plan("b") is None
        planned.clock.now_s += REST_S
        assert await planned.store.claim_plan("b") == (waiting, 1)
    kinds = [each.kind for each in await planned.store.events(job.id, 0, 100)]
    assert kinds.count("waiting") == 1
    monkeypatch.setattr(LocalFile, "open", whole)
    done = await planned.made(job)
    assert (done.state, done.rows, done.reason) == (JobState.RUNNING, 4, "")
