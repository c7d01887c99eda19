"""A shard is some seconds of work whatever its rows cost: a kill loses little, what is done moves and is kept, and estimates are true."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from job_desk import PINNED
from job_nodes import FakeNodes
from job_runners import InlineStore, Rig, wall_s

from capamesh.router.jobs.errors import InputChanged
from capamesh.router.jobs.inputs.limits import shard_limits
from capamesh.router.jobs.inputs.lines import read_range
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import Job

LIMITS = shard_limits(2_000.0, 8, 4)
"""The plan's, for nodes that say that a row takes half a millisecond."""


class Work:
    """A job of rows that cost many times what nodes say, at two nodes and two routers."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rig = rig
        self.threads: list[InlineStore] = []
        rig.nodes = FakeNodes("a", "b", best_rows=8, row_s=5e-4)
        for node in rig.nodes.nodes.values():
            node.row_s = self.rng.uniform(1e-3, 6e-3)

    async def begin(self, rows: int) -> Job:
        job = await self.rig.planned(rows, LIMITS.rows)
        self.start()
        self.start()
        return job

    def start(self) -> None:
        """Start a router with a store of its own."""
        thread = InlineStore(self.rig.folder / "jobs.db")
        self.threads.append(thread)
        self.rig.runner(JobStore(thread, wall_s))

    def kill(self, router: int) -> None:
        """End a router, which gives nothing back, and start another."""
        self.threads[router].is_down = True
        self.rig.routers[router].cancel()
        self.start()

    async def done(self, job: Job) -> int:
        counts = await self.rig.store.counts(job.id)
        return counts.rows


def change(path: Path) -> None:
    """Change the last line of a file."""
    path.write_bytes(path.read_bytes().replace(b"99", b"98"))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
async def test_kills_of_each_process_cost_a_tenth_of_the_rows_at_most(rig: Rig, seed: int) -> None:
    work = Work(rig, seed)
    rows = 10_000
    job = await work.begin(rows)
    kills: list[Callable[[], object]] = [
        lambda: rig.nodes.kill("a"),
        lambda: rig.nodes.kill("b"),
        lambda: work.kill(0),
        lambda: work.kill(1),
    ]
    work.rng.shuffle(kills)
    for kill in kills:
        await asyncio.sleep(work.rng.uniform(1.0, 4.0))
        kill()
    done = await rig.ended(job)
    assert done.state is JobState.COMPLETED
    assert await rig.results(job) == {row: row * 2.0 for row in range(rows)}
    assert sum(rig.nodes.ran.values()) <= 1.1 * rows


@pytest.mark.full
@pytest.mark.parametrize(("seed", "rows"), [(0, 6_000), (1, 6_000), (2, 30_000)])
async def test_estimates_are_true_from_a_tenth_of_the_work_on(
    rig: Rig, seed: int, rows: int
) -> None:
    work = Work(rig, seed)
    job = await work.begin(rows)
    now_s = asyncio.get_running_loop().time
    began_s, told = now_s(), list[tuple[int, list[float]]]()
    while (await rig.store.get(job.id, None)).state is JobState.RUNNING:
        await asyncio.sleep(0.2)
        standings = [runner.standing(job.id) for runner in rig.runners]
        left = [each.left_s for each in standings if each is not None]
        told.append((await work.done(job), [now_s() + s for s in left if s is not None]))
    took_s = now_s() - began_s
    moved = {done for done, _ in told}
    assert len(moved) >= 10  # it does not jump
    for done, ends_s in told:
        if rows / 10 <= done < rows:
            assert len(ends_s) == 2
            for end_s in ends_s:
                assert took_s / 1.5 <= end_s - began_s <= 1.5 * took_s
    # and what comes later is promised by that
    spec = JobSpec("m", job.spec.input, job.spec.output)
    promised_s = rig.runners[0].promise(spec, rows)
    assert promised_s is not None
    assert took_s / 1.5 <= promised_s <= 1.5 * took_s


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
async def test_dry_run_measures_before_it_promises(rig: Rig, seed: int) -> None:
    work = Work(rig, seed)
    rows = 6_000
    job = await rig.planned(rows, LIMITS.rows)
    await rig.store.move(job.id, JobState.PAUSED)
    work.start()
    runner = rig.runners[0]
    before_s = runner.promise(job.spec, rows)
    measured = await runner.measure(job.spec, PINNED, "t")
    assert measured is not None
    assert measured.rows == sum(rig.nodes.ran.values()) - LIMITS.rows <= rows / 2
    promised_s = runner.promise(job.spec, rows)
    assert (await rig.store.get(job.id, None)).price.rows == 0
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    await rig.store.resume(job.id, None)
    await rig.ended(job)
    took_s = now_s() - began_s
    assert before_s is not None
    assert promised_s is not None
    assert before_s < took_s / 1.5  # by what nodes say
    assert took_s / 1.5 <= promised_s <= 1.5 * took_s


async def test_dry_run_says_so_when_nodes_run_nothing(rig: Rig) -> None:
    job = await rig.planned(100)
    await rig.store.move(job.id, JobState.PAUSED)
    runner = rig.runner()
    for node in rig.nodes.nodes.values():
        node.hangs = True
    assert await runner.measure(job.spec, PINNED, "t") is None
    rig.nodes.is_hosted = False
    assert await runner.measure(job.spec, PINNED, "t") is None
    await rig.store.move(job.id, JobState.CANCELLED)


async def test_cancelled_job_keeps_all_but_some_seconds_of_what_was_run(rig: Rig) -> None:
    work = Work(rig, 0)
    job = await work.begin(10_000)
    await asyncio.sleep(6.0)
    await rig.store.move(job.id, JobState.CANCELLED)
    rate = sum(1 / node.row_s for node in rig.nodes.nodes.values())
    assert await work.done(job) >= sum(rig.nodes.ran.values()) - 3.0 * rate
    assert await work.done(job) >= 0.5 * sum(rig.nodes.ran.values())
    ended = await rig.ended(job)
    assert len(await rig.results(ended)) == await work.done(job)


async def test_joined_shards_are_read_as_they_were_planned_and_found_by_their_rows(
    rig: Rig,
) -> None:
    job = await rig.planned(100, 10)
    (first,) = await rig.store.claim(job, "one", 1, rows=35)
    (second,) = await rig.store.claim(job, "two", 1, rows=10)
    await rig.store.release(first, job.spec)
    (again,) = await rig.store.claim(job, "one", 1, rows=90)
    (third,) = await rig.store.claim(job, "one", 1, rows=1000)
    ranges = [each.range for each in (first, second, again, third)]
    assert [(each.first_row, each.rows) for each in ranges] == [
        (0, 30),
        (30, 10),
        (0, 30),
        (40, 60),
    ]
    assert [len(list(each.digests())) for each in ranges] == [3, 1, 3, 6]
    assert [(await rig.store.place_of(job.id, row))[0] for row in (0, 29, 30, 39, 40, 99)] == [
        *(first.seq, first.seq, second.seq, second.seq, third.seq, third.seq)
    ]
    counts = await rig.store.counts(job.id)
    assert (counts.shards, counts.leased_shards) == (3, 3)
    path = Path(job.spec.input.url)
    source = LocalFile(path)
    data, sha256, _ = read_range(source, third.range)
    assert sha256 == hashlib.sha256(data).hexdigest()
    change(path)
    with pytest.raises(InputChanged):
        read_range(source, third.range)
    assert read_range(source, second.range)


async def test_slow_batches_keep_many_nodes_busy(rig: Rig) -> None:
    rig.nodes = FakeNodes(*map(str, range(100)), best_rows=8, row_s=0.5)
    job = await rig.planned(4_000, 8)
    rig.runner()
    done = await rig.ended(job)
    assert done.state is JobState.COMPLETED
    assert rig.nodes.most_under_way >= 190


def test_planned_shards_are_whole_batches_of_little_work() -> None:
    assert shard_limits(20_000.0, 64, 4).rows == 1024
    assert shard_limits(1.0, 8, 0).rows == 8
