"""Nodes where people wait have few calls of jobs, and one is kept free for rows that may end workers."""

from __future__ import annotations

import asyncio

import virtual_time
from job_desk import PINNED
from job_nodes import At, FakeNodes

from capamesh.router.jobs.running.lane import Ticket
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.running.nodes import Crowd
from capamesh.router.jobs.running.pace import CALLS_A_NODE
from capamesh.router.jobs.values import JobId

CALM = Crowd(0.004, is_calm=True)
CROWDED = Crowd(10.0, is_calm=False)


class Rig:
    """A model at nodes whose best batch has 32 rows, and calls that are on their way for ever."""

    def __init__(self, *names: str, run_s: float = 0.32) -> None:
        self.now_s = 0.0
        self.nodes = FakeNodes(*names or ("a", "b"), best_rows=32)
        self.work = ModelWork(PINNED, "m", self.nodes, lambda _job: None, lambda: self.now_s)
        self.look(dict.fromkeys(self.nodes.nodes, CALM))
        self.work.lane.answered(32, run_s + 0.01, 0.0, run_s, 0.0)

    def look(self, people: dict[str, Crowd]) -> None:
        self.nodes.people = people
        self.work.look()

    def send(self, *nodes: str) -> None:
        """Send a call to each of these, and leave one more waiting."""
        for node in nodes:
            ticket = self.ask()
            self.work.pump()
            assert ticket in self.work.lane._in_flight
            ticket.sent(At(node))

    def ask(self) -> Ticket:
        return self.work.lane.ask(JobId("j"), 32, lambda: None)


def test_node_that_lies_of_people_who_wait_takes_nothing_from_others() -> None:
    rig = Rig("a", "b", "liar")
    before = rig.work.lane.pace.most_in_flight
    for _ in range(100):
        rig.now_s += 2.0
        rig.look({"a": CALM, "b": CALM, "liar": CROWDED})
    assert rig.work.lane.pace.most_in_flight == before
    rig.send("liar", "liar")
    assert rig.work.full_nodes(()) == {"liar"}
    rig.send("a", "b", "a", "b")  # there is room for these
    assert rig.work.lane.in_flight == before


def test_fleet_of_crowded_nodes_has_its_calls_and_no_more() -> None:
    rig = Rig()
    rig.work.lane.pace._pace = 100.0
    rig.look(dict.fromkeys("ab", CROWDED))
    rig.send(*"ab" * CALLS_A_NODE)
    rig.ask()
    rig.work.pump()
    assert rig.work.lane.waiting == 1
    rig.look({"a": CROWDED, "b": Crowd(0.0, is_calm=False)})
    rig.work.pump()
    assert rig.work.lane.waiting == 0


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
