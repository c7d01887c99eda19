"""Jobs are run to their end by any number of routers, whatever nodes, files and the store do."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest
from job_desk import PINNED
from job_files import write_jsonl
from job_nodes import FakeNodes
from job_runners import InlineStore, Rig, wall_s
from typing_extensions import override

from capamesh.router.jobs.outputs.sink import LocalSink, Sink
from capamesh.router.jobs.running import job_states
from capamesh.router.jobs.running.bisection import ENDS_WORKERS
from capamesh.router.jobs.running.shard_run import DEAD_OFTEN
from capamesh.router.jobs.running.trials import MOST_LOST, UNANSWERED
from capamesh.router.jobs.spec import FailurePolicy, InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import LEASE_S, Job

TAKEN_OVER_S = 16.0
"""Seconds after a router's death within which another has its shards."""


async def is_done(rig: Rig, job: Job, *lost: int) -> None:
    """Wait for the end of a job, of which all rows but these have results."""
    done = await rig.ended(job)
    assert done.state is JobState.COMPLETED
    rows = set(range(done.rows)) - set(lost)
    assert await rig.results(job) == {row: row * 2.0 for row in rows}


async def test_two_routers_share_a_job_and_run_no_row_twice(rig: Rig) -> None:
    job = await rig.planned(800, 50)
    rig.runner()
    rig.runner()
    await is_done(rig, job)
    assert set(rig.nodes.ran.values()) == {1}


# rows that are at fault


async def test_refused_rows_are_found_and_the_rest_has_results(rig: Rig) -> None:
    rig.nodes.refused = {3.0, 4.0, 77.0}
    job = await rig.planned(100)
    rig.runner()
    await is_done(rig, job, 3, 4, 77)
    bad = await rig.store.bad_rows(job.id, -1, 10)
    assert [(each.row, each.code) for each in bad] == [(at, "invalid_request") for at in (3, 4, 77)]
    assert {each.node for each in bad} <= {"A", "B"}  # the nodes' names, not their ids
    alone = [call for call in rig.nodes.sent if call.rows == 1 and call.not_at]
    asked_again = {call.inputs[0].to_numpy()[0] for call in alone}
    assert rig.nodes.refused <= asked_again  # two nodes have said so


async def test_row_that_ends_workers_runs_alone_once(rig: Rig) -> None:
    rig.nodes.deadly = {42.0}
    job = await rig.planned(100)
    rig.runner()
    await is_done(rig, job, 42)
    (bad,) = await rig.store.bad_rows(job.id, -1, 10)
    assert (bad.row, bad.code) == (42, ENDS_WORKERS)
    assert sum(node.deaths for node in rig.nodes.nodes.values()) == 2
    alone = [call for call in rig.nodes.sent if call.only_at]
    # the rows of one batch, and of no bystander
    assert len({call.inputs[0].to_numpy()[0] for call in alone}) == 8
    assert all(call.rows == 1 for call in alone)


async def test_rows_of_a_call_of_many_batches_are_suspected_batch_by_batch(rig: Rig) -> None:
    rig.nodes = FakeNodes(row_s=1e-4)
    rig.nodes.deadly = {42.0}
    rig.nodes.refused = {300.0}
    job = await rig.planned(400, 200)
    rig.runner()
    await is_done(rig, job, 42, 300)
    bad = [(each.row, each.code) for each in await rig.store.bad_rows(job.id, -1, 10)]
    assert bad == [(42, ENDS_WORKERS), (300, "invalid_request")]
    assert max(call.rows for call in rig.nodes.sent) == 96
    # the call, the batch of it, and the row
    assert sum(node.deaths for node in rig.nodes.nodes.values()) == 3
    alone = [call.inputs[0].to_numpy()[0] for call in rig.nodes.sent if call.only_at]
    assert alone == [*range(40, 48)]


async def test_job_with_more_bad_rows_than_it_bears_fails_soon(rig: Rig) -> None:
    rig.nodes.refused = set(map(float, range(1000)))
    job = await rig.planned(1000, 500, failure=FailurePolicy(most_bad_rows=20))
    rig.runner()
    done = await rig.ended(job)
    assert done.state is JobState.FAILED
    assert "more than 20 bad rows" in done.reason
    assert len(rig.nodes.sent) < 500


# nodes


async def test_row_that_ends_whole_nodes_is_left_without_an_answer_and_the_rest_has_results(
    rig: Rig,
) -> None:
    rig.nodes = FakeNodes("a", "b", "c")
    rig.nodes.fatal = {42.0}
    job = await rig.planned(100)
    rig.runner()
    await is_done(rig, job, 42)
    (bad,) = await rig.store.bad_rows(job.id, -1, 10)
    assert (bad.row, bad.code) == (42, UNANSWERED)
    assert sum(node.deaths for node in rig.nodes.nodes.values()) == DEAD_OFTEN + MOST_LOST


async def test_valid_row_under_which_nodes_are_lost_by_chance_has_its_result(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", "c")
    rig.nodes.fatal = {42.0}
    left = [DEAD_OFTEN + MOST_LOST - 1]

    def look() -> None:
        if sum(node.deaths for node in rig.nodes.nodes.values()) >= left[0]:
            rig.nodes.fatal = set()

    rig.nodes.on_start = look
    job = await rig.planned(100)
    rig.runner()
    await is_done(rig, job)


@pytest.mark.parametrize("seed", range(12))
async def test_no_row_is_lost_when_nodes_die_at_random(rig: Rig, seed: int) -> None:
    rig.nodes = FakeNodes("a", "b", "c", row_s=0.01)
    rng = random.Random(seed)
    job = await rig.planned(400, 50)
    rig.runner()
    rig.runner()
    for _ in range(6):
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        rig.nodes.kill(rng.choice(list(rig.nodes.nodes)))
        await asyncio.sleep(rng.uniform(1.0, 3.0))
    await is_done(rig, job)


async def test_nodes_without_room_are_waited_for_and_fail_nothing(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    for node in rig.nodes.nodes.values():
        node.most_calls = 1
    job = await rig.planned(400, 50)
    runner = rig.runner()
    await is_done(rig, job)
    calls = runner.calls()
    assert sum(calls.values()) == len(rig.nodes.sent)
    assert calls["refused"] > 0
    assert calls["retried"] == calls["failed"] == 0
    kinds = [each.kind for each in await rig.store.events(job.id, 0, 100)]
    assert "shard_failed" not in kinds


async def test_job_is_blocked_while_nobody_hosts_its_model_and_goes_on_by_itself(rig: Rig) -> None:
    rig.nodes.is_hosted = False
    job = await rig.planned(100)
    rig.runner()
    blocked = await rig.until(lambda each: each.state is JobState.BLOCKED, job)
    assert blocked.reason == "no node has m"
    assert wall_s() - job.created_s >= job_states.ABSENT_S
    rig.nodes.is_hosted = True
    await is_done(rig, job)


async def test_calls_are_never_more_than_a_job_may_have(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", "c", "d")
    job = await rig.planned(2000, 500, concurrency=3)
    rig.runner()
    assert (await rig.ended(job)).state is JobState.COMPLETED
    assert rig.nodes.most_under_way == 3


async def test_tenants_take_turns(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    long = await rig.planned(4000, 40, tenant="one")
    short = await rig.planned(400, 40, tenant="two")
    rig.runner()
    await rig.ended(short)
    counts = await rig.store.counts(long.id)
    assert 300 <= counts.rows <= 900  # as many, and what was under way before


# people


async def test_paused_job_stops_within_a_second_and_goes_on(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    job = await rig.planned(4000, 400)
    rig.runner()
    await asyncio.sleep(2.0)
    await rig.store.move(job.id, JobState.PAUSED)
    await asyncio.sleep(1.0)
    assert not rig.nodes.under_way
    sent = len(rig.nodes.sent)
    await asyncio.sleep(30.0)
    assert len(rig.nodes.sent) == sent
    assert (await rig.store.counts(job.id)).leased_shards == 0  # they were given back
    await rig.store.resume(job.id, None)
    await is_done(rig, job)


async def test_cancelled_job_stops_and_keeps_what_was_done(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    job = await rig.planned(4000, 100)
    rig.runner()
    await asyncio.sleep(5.0)
    await rig.store.move(job.id, JobState.CANCELLED)
    await asyncio.sleep(1.0)
    assert not rig.nodes.under_way
    kept = await rig.results(job)
    assert 0 < len(kept) < 4000
    await asyncio.sleep(30.0)
    assert await rig.results(job) == kept
    assert await rig.store.untidy(10) == []
    named = [manifest.part for _, _, manifest in await rig.store.manifests(job.id, 0, 1000)]
    files = sorted(each.name for each in (rig.folder / job.id).iterdir())
    assert files == sorted(part.name for part in named if part is not None)


async def test_deadline_ends_a_job(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    job = await rig.planned(4000, 100, deadline_s=wall_s() + 6.0)
    rig.runner()
    done = await rig.ended(job)
    assert done.state is JobState.EXPIRED
    assert 6.0 <= wall_s() - job.created_s < 7.0
    assert done.counts is not None
    assert done.counts.rows == len(await rig.results(job)) > 0


async def test_tenant_over_its_quota_is_told_and_paused(rig: Rig) -> None:
    rig.nodes.is_over_quota = True
    job = await rig.planned(100)
    rig.runner()
    await rig.until(lambda each: each.state is JobState.PAUSED, job)
    rig.nodes.is_over_quota = False
    await rig.store.resume(job.id, None)
    assert (await rig.ended(job)).state is JobState.COMPLETED


# files


class FullSink(LocalSink):
    """A disk that is full for its first writes, some in their middle."""

    left = 0

    @override
    def _write_all(self, descriptor: int, chunk: bytes) -> None:
        if type(self).left > 0:
            type(self).left -= 1
            super()._write_all(descriptor, chunk[: len(chunk) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._write_all(descriptor, chunk)

    @override
    def _reserve(self, descriptor: int, size_bytes: int) -> None:
        if type(self).left > 0:
            type(self).left -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._reserve(descriptor, size_bytes)


async def test_disk_that_is_full_pauses_the_job_until_a_person_resumes_it(rig: Rig) -> None:
    FullSink.left = 10**9
    rig.files.sink_of = lambda job: FullSink(rig.folder, job.id)
    job = await rig.planned(100)
    rig.runner()
    paused = await rig.until(lambda each: each.state is JobState.PAUSED, job)
    assert "No space left on device" in paused.reason
    assert "resume" in paused.reason
    # nodes are not paid again for what has no place
    sent = len(rig.nodes.sent)
    for _ in range(2):
        await rig.store.resume(job.id, None)
        await asyncio.sleep(1)
        await rig.until(lambda each: each.state is JobState.PAUSED, job)
    assert len(rig.nodes.sent) == sent
    FullSink.left = 0
    await rig.store.resume(job.id, None)
    await is_done(rig, job)


async def test_input_that_was_changed_fails_the_job(rig: Rig) -> None:
    job = await rig.planned(100)
    write_jsonl(Path(job.spec.input.url), [{"v": 1}] * 100)
    rig.runner()
    done = await rig.ended(job)
    assert done.state is JobState.FAILED
    assert "was changed since the job was planned" in done.reason


async def test_bug_gives_the_shard_back_and_fails_the_job_in_the_end(rig: Rig) -> None:
    def broken(job: Job) -> Sink:
        raise ZeroDivisionError

    rig.files.sink_of = broken
    job = await rig.planned(100, failure=FailurePolicy(most_failures=3))
    rig.runner()
    done = await rig.ended(job)
    assert done.state is JobState.FAILED
    assert "the router failed on it; see its log" in done.reason
    assert "jobs_shard_crashed" in rig.log.events


# the store


@pytest.mark.parametrize("how", ["is_down", "loses_answers"])
async def test_store_that_fails_for_a_while_delays_a_job(rig: Rig, how: str) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    job = await rig.planned(2000, 100)
    rig.runner()
    for _ in range(4):
        await asyncio.sleep(1.3)
        setattr(rig.thread, how, True)
        await asyncio.sleep(4.0)
        setattr(rig.thread, how, False)
    await is_done(rig, job)


@pytest.mark.full
async def test_router_that_cannot_renew_its_leases_stops_and_another_goes_on(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.02)
    lost = InlineStore(rig.folder / "jobs.db")
    job = await rig.planned(4000, 2000)
    rig.runner(JobStore(lost, wall_s))
    await asyncio.sleep(1.0)
    assert rig.nodes.under_way
    lost.is_silent = True
    await asyncio.sleep(LEASE_S + 2.0)
    assert not rig.nodes.under_way
    rig.runner()
    await is_done(rig, job)
    lost.is_silent = False
    await asyncio.sleep(30.0)
    lost.dispose()


@pytest.mark.parametrize("seed", range(10))
async def test_lease_that_another_takes_over_ends_the_work_wherever_it_is(
    rig: Rig, seed: int
) -> None:
    """A router is stopped at any moment, as if frozen: what it does after that is not committed."""

    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    rng = random.Random(seed)
    rig.thread_s = 0.05
    job = await rig.planned(300, 100)
    rig.runner()
    await asyncio.sleep(rng.uniform(0.0, 4.0))
    # every lease ends, and another router takes all over
    rig.thread.skew_s += LEASE_S
    leases = await rig.store.claim(job, "another", 10)
    await asyncio.sleep(4.0)  # before the other one counts as slow
    done = {seq for seq, _, _ in await rig.store.manifests(job.id, 0, 10)}
    assert done.isdisjoint(lease.seq for lease in leases)
    for lease in leases:
        await rig.store.release(lease, job.spec)
    await is_done(rig, job)


@pytest.mark.parametrize("seed", range(10))
async def test_pause_at_any_moment_leaves_nothing_behind(rig: Rig, seed: int) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    rng = random.Random(seed)
    rig.thread_s = 0.05
    rig.nodes.refused = {7.0, 150.0}
    rig.nodes.deadly = {77.0}
    job = await rig.planned(300, 100)
    rig.runner()
    for _ in range(3):
        await asyncio.sleep(rng.uniform(0.0, 3.0))
        if (await rig.store.get(job.id, None)).state is not JobState.RUNNING:
            break
        await rig.store.move(job.id, JobState.PAUSED)
        await asyncio.sleep(1.0)
        assert not rig.nodes.under_way
        await rig.store.resume(job.id, None)
    await is_done(rig, job, 7, 77, 150)


async def test_shard_of_a_slow_router_is_run_by_another_at_the_end(rig: Rig) -> None:
    job = await rig.planned(100, 50)
    (slow,) = await rig.store.claim(job, "slow", 1)

    async def renew() -> None:
        while True:
            await asyncio.sleep(5.0)
            await rig.store.renew([slow])

    renewing = asyncio.create_task(renew())
    rig.runner()
    async with asyncio.timeout(20.0):  # without the second lease it never ends
        await is_done(rig, job)
    renewing.cancel()


@pytest.mark.full
async def test_shards_of_a_dead_router_are_taken_over_in_time_however_busy_the_other_is(
    rig: Rig,
) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.05)
    busy = await rig.planned(4000, 2000)
    job = await rig.planned(300, 100, tenant="u")
    await rig.store.claim(job, "dead", 3)
    rig.runner()
    await asyncio.sleep(1.0)
    holders = await rig.store.holders([busy.id, job.id])
    assert holders == {busy.id: {"router 0"}, job.id: {"dead"}}
    await asyncio.sleep(TAKEN_OVER_S - 1.0)
    assert await rig.store.holders([job.id]) == {job.id: {"router 0"}}
    assert await rig.store.ended_leases() == []
    for each in (busy, job):
        await is_done(rig, each)


async def test_stopped_router_gives_its_leases_back(rig: Rig) -> None:
    rig.nodes = FakeNodes("a", "b", row_s=0.01)
    job = await rig.planned(4000, 1000)
    rig.runner()
    await asyncio.sleep(1.0)
    assert (await rig.store.counts(job.id)).leased_shards > 0
    rig.routers[0].cancel()
    await asyncio.sleep(0.5)
    assert (await rig.store.counts(job.id)).leased_shards == 0


async def test_job_without_a_plan_is_planned(rig: Rig) -> None:
    path = write_jsonl(rig.folder / "in.jsonl", [{"v": row} for row in range(100)])
    output, failure = OutputSpec(str(rig.folder)), FailurePolicy(most_bad_rows=100)
    for column, bad_rows in (("v", 0), ("w", 100)):
        source = InputSpec(str(path), InputFormat.JSONL, {"x": (column,)})
        spec = JobSpec("m", source, output, failure=failure)
        job, _ = await rig.store.submit("t", spec, PINNED)
        rig.runners[0].wake() if rig.runners else rig.runner()
        done = await rig.ended(job)
        assert (done.state, done.rows) == (JobState.COMPLETED, 100)
        assert len(await rig.store.bad_rows(job.id, -1, 1000)) == bad_rows
