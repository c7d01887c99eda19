"""Calls of jobs are short while people are there, and a node is kept free for rows that may end workers."""

from __future__ import annotations

import asyncio

import virtual_time
from job_desk import PINNED
from job_nodes import FakeNodes

from capamesh.router.jobs.running.hosted_rows import CALL_S
from capamesh.router.jobs.running.model_work import (
    CAREFUL_S,
    CROWDED_PART,
    CROWDED_S,
    ModelWork,
)
from capamesh.router.jobs.running.nodes import Crowd
from capamesh.router.jobs.values import JobId

CALM = Crowd(0.0, 0.04, is_calm=True)
CROWDED = Crowd(0.01, 0.06, is_calm=False)


class Rig:
    """A model at nodes whose best batch of 32 rows runs for 0.32 s."""

    def __init__(self, *names: str, run_s: float = 0.32) -> None:
        self.now_s = 0.0
        self.nodes = FakeNodes(*names or ("a", "b"), best_rows=32)
        self.work = ModelWork(PINNED, "m", self.nodes, lambda _job: None, lambda: self.now_s)
        self.look(CALM)
        self.work.lane.answered(32, run_s + 0.01, 0.0, run_s, 0.0)

    def look(self, people: Crowd | None) -> int:
        self.nodes.people = people
        self.work.look()
        return self.work.call_rows


def test_calls_have_the_best_batch_while_nobody_waits() -> None:
    assert Rig().look(Crowd(0.0, 0.04, is_calm=False)) == 32


def test_calls_run_for_a_part_of_what_people_wait_while_they_are_there() -> None:
    rig = Rig()
    rows = rig.look(CROWDED)
    assert rows == 2
    assert rows * 0.01 <= CROWDED_PART * CALM.latency_s < 2 * rows * 0.01
    rig.now_s += CROWDED_S
    assert rig.look(Crowd(0.0, 0.04, is_calm=False)) == 2
    rig.now_s += 0.1
    assert rig.work.call_rows == 32


def test_calls_of_tiny_rows_have_many_batches_until_people_come() -> None:
    rig = Rig(run_s=CALL_S / 5)
    assert rig.look(Crowd(0.0, 0.04, is_calm=False)) == 5 * 32
    assert rig.work.run_rows == 32
    assert rig.look(CROWDED) == 32
    rig.now_s += CROWDED_S + 0.1
    assert rig.look(Crowd(0.0, 0.04, is_calm=False)) == 5 * 32


def test_calls_have_one_batch_for_a_while_after_rows_were_suspected() -> None:
    rig = Rig(run_s=CALL_S / 5)
    rig.work.suspect()
    rig.now_s += CAREFUL_S
    assert rig.work.call_rows == 32
    rig.now_s += 0.1
    assert rig.work.call_rows == 5 * 32


def test_latency_with_jobs_there_says_nothing_of_what_people_are_used_to() -> None:
    rig = Rig()
    rig.look(Crowd(0.5, 5.0, is_calm=False))
    assert rig.look(Crowd(0.5, 5.0, is_calm=True)) == 32  # now it is known: 5 s


def test_calls_are_never_of_less_than_a_row() -> None:
    rig = Rig()
    rig.look(Crowd(0.0, 1e-6, is_calm=True))
    assert rig.look(CROWDED) == 1


def test_pace_is_kept_at_a_call_a_node_while_people_wait() -> None:
    rig = Rig("a", "b", "c")
    rig.work.lane.pace.take_nodes(3)
    for _ in range(20):
        rig.now_s += 2.0
        rig.look(Crowd(10.0, 10.0, is_calm=False))
    assert rig.work.lane.pace.most_in_flight == 3


def test_wait_for_one_run_is_no_reason_to_slow_down() -> None:
    rig = Rig()
    before = rig.work.lane.pace.most_in_flight
    rig.now_s += 10.0
    rig.look(Crowd(0.03, 0.05, is_calm=False))
    assert rig.work.lane.pace.most_in_flight == before


def test_free_node_is_another_than_the_lost_one_and_waited_for() -> None:
    async def scenario() -> None:
        rig = Rig()
        work = rig.work
        ticket = work.lane.ask(JobId("j"), 8, lambda: None)
        work.pump()
        async with work.kept_free("a"):
            assert await work.free_node(is_other=True) == "b"
            assert await work.free_node(is_other=False) == "b"
            assert work.lane.reserved == "b"
            assert not work.lane.is_only_node
        assert work.lane.reserved == ""
        ticket.leave()

    virtual_time.run(scenario())


def test_lone_node_is_kept_free_of_all_others() -> None:
    async def scenario() -> None:
        work = Rig("a").work
        async with work.kept_free("a"):
            assert await work.free_node(is_other=True) == "a"
            assert work.lane.is_only_node
        assert not work.lane.is_only_node

    virtual_time.run(scenario())


def test_agent_that_is_heard_again_has_outlived_its_worker() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        nodes = FakeNodes("a", "b")
        work = ModelWork(PINNED, "m", nodes, lambda _job: None, loop.time)
        before = nodes.word_of("a")
        nodes.kill("a", is_worker_only=True)
        assert await work.has_outlived("a", before)
        before = nodes.word_of("a")
        nodes.kill("a")
        assert not await work.has_outlived("a", before)  # it was started anew
        before = nodes.word_of("b")
        assert not await work.has_outlived("b", before)  # nothing was heard of it
        assert not await work.has_outlived("gone", None)

    virtual_time.run(scenario())
