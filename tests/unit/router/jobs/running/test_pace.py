"""How many calls of jobs are in flight, at which nodes, and whose turn it is."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from job_desk import NOW_S, PINNED, spec_with
from job_nodes import At, FakeNodes

from capamesh.router.jobs.running import room
from capamesh.router.jobs.running.crowded import CrowdedNodes
from capamesh.router.jobs.running.estimate import Estimate
from capamesh.router.jobs.running.known_jobs import KnownJobs
from capamesh.router.jobs.running.lane import Lane, Ticket
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.running.nodes import Crowd
from capamesh.router.jobs.running.pace import (
    BACKOFF_S,
    CALLS_A_NODE,
    MOST_BACKOFF_S,
    WINDOW,
    Outcome,
    Pace,
)
from capamesh.router.jobs.running.room import HELD_BYTES, HELD_BYTES_EACH, Room
from capamesh.router.jobs.running.turns import Turns
from capamesh.router.jobs.states import UNDER_WAY, JobState
from capamesh.router.jobs.values import Job, JobId, Pinned


def window(pace: Pace, refused: int = 0, late: int = 0, now_s: float = 0.0) -> int:
    for at in range(WINDOW):
        outcome = Outcome.OVERLOADED if at < refused else Outcome.ANSWERED
        took_s = 2.1 if refused <= at < refused + late else 2.0
        pace.record(outcome, took_s, 1.0, now_s)
    return pace.most_in_flight


def test_pace_grows_by_a_quarter_until_the_first_trouble_then_by_one() -> None:
    pace = Pace(1000)
    assert [window(pace) for _ in range(12)] == [2, 3, 4, 5, 6, 7, 9, 12, 15, 19, 23, 29]
    assert window(pace, refused=1) == 26
    assert [window(pace) for _ in range(3)] == [27, 28, 29]


def test_pace_is_lower_after_refusals_and_late_answers() -> None:
    pace = Pace(1000)
    for _ in range(12):
        window(pace)
    assert window(pace, late=WINDOW // 2 - 1) > 29  # most were in time
    before = pace.most_in_flight
    assert window(pace, late=WINDOW // 2) == int(before * 0.8)
    assert window(pace, refused=1) < before * 0.8


def test_rest_doubles_from_the_second_window_of_refusals_on() -> None:
    pace = Pace(100)
    window(pace, refused=1, now_s=0.0)
    assert pace.room(0, 0.0) == 1
    rests = []
    now_s = 0.0
    for _ in range(7):
        window(pace, refused=1, now_s=now_s)
        rest_s = next(s / 2 for s in range(1, 100) if pace.room(0, now_s + s / 2))
        rests.append(rest_s)
        now_s += rest_s
    assert rests == [BACKOFF_S, 1.0, 2.0, 4.0, 8.0, MOST_BACKOFF_S, MOST_BACKOFF_S]
    window(pace, now_s=now_s)
    window(pace, refused=1, now_s=now_s)
    assert pace.room(0, now_s) == 1


def test_first_call_at_a_worker_that_ended_is_suspected_and_the_others_are_not() -> None:
    lane = Lane(Pace(100))
    lane.pace.take_nodes(100)
    tickets = [lane.ask(JobId("one"), 8, lambda: None) for _ in "abcd"]
    for at, ticket in enumerate(tickets):
        room_now = 1 + len(lane.unsent)
        lane.pump(lambda _rows, room=room_now: room, {}.get, float(at))
        ticket.sent(At("a" if at != 3 else "b"))
    found = []
    for ticket in (tickets[1], tickets[0], tickets[2]):  # whatever the order in which they hear
        found.append(lane.is_suspect(ticket))
        ticket.leave()
    assert found == [False, True, False]
    assert lane.is_suspect(tickets[3])  # at another worker


def test_tenants_share_alike_however_many_jobs_they_have() -> None:
    wanted = {"one": {"a": 5.0}, "many": {f"b{at}": 5.0 for at in range(9)}}
    turns, taken = Turns[str](), Counter[str]()
    for _ in range(900):
        found = turns.next(wanted)
        assert found is not None
        taken[found[1]] += 5
    assert taken == {"a": 2250, **{f"b{at}": 250 for at in range(9)}}


@dataclass(eq=False)
class Run:
    """A shard, as far as its room is concerned."""

    room: Any
    planned_bytes: int = 0
    work: str = "digits"

    def __post_init__(self) -> None:
        self.may_begin = asyncio.Event()
        self.room.enter(self)


def began(*runs: Run) -> list[bool]:
    return [run.may_begin.is_set() for run in runs]


def test_bytes_of_one_model_leave_room_for_others() -> None:
    rows: Any = Room()
    first, second = Run(rows, HELD_BYTES_EACH), Run(rows, 1)
    other, third = Run(rows, HELD_BYTES - HELD_BYTES_EACH, "text"), Run(rows, 1, "sound")
    assert began(first, second, other, third) == [True, False, True, False]
    rows.leave(first)
    assert began(second, third) == [True, True]


def test_shard_that_waits_and_leaves_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SHARDS", 1)
    rows: Any = Room()
    first, second, third = Run(rows), Run(rows), Run(rows)
    rows.leave(second)
    rows.leave(first)
    assert began(second, third) == [False, True]


PINS = (PINNED, Pinned(PINNED.version, "sha256:01"))


def job_of(name: str, pinned: Pinned = PINNED, state: JobState = JobState.RUNNING) -> Job:
    return Job(JobId(name), "t", spec_with(), pinned, state, "", NOW_S, None, 10, 1, "")


def test_jobs_are_where_a_plain_table_has_them() -> None:
    known, plain = KnownJobs(), dict[JobId, Job]()
    rng = random.Random(1)
    for _ in range(3000):
        name = JobId(f"job-{rng.randrange(40)}")
        if rng.random() < 0.3:
            known.forget(name)
            plain.pop(name, None)
        else:
            plain[name] = job_of(name, rng.choice(PINS), rng.choice(sorted(UNDER_WAY)))
            known.put(plain[name])
        assert known.ids() == set(plain)
        assert set(known.models()) == {("digits", job.pinned) for job in plain.values()}
        for state in UNDER_WAY:
            expected = {job.id for job in plain.values() if job.state is state}
            assert {job.id for job in known.in_state(state)} == expected
            for pinned in PINS:
                of_model = {job.id for job in plain.values() if job.pinned == pinned}
                found = {job.id for job in known.of(("digits", pinned), state)}
                assert found == expected & of_model


def test_estimate_says_nothing_while_there_is_nothing_to_go_by() -> None:
    estimate = Estimate()
    assert (estimate.left_s(100), estimate.left_s(0)) == (None, 0.0)
    estimate.observe(0, 0.0)
    assert estimate.left_s(100) is None
    estimate.observe(50, 10.0)
    assert estimate.left_s(100) == 20.0  # from the beginning, for there is nothing else
    estimate.observe(150, 20.0)
    assert estimate.left_s(100) == 10.0  # from one commit to the next
    estimate.observe(150, 30.0)
    assert estimate.left_s(100) == 10.0  # the next may be about to come
    estimate.observe(150, 1010.0)
    assert estimate.left_s(100) == 990.0  # nothing moves
    later = Estimate()
    later.observe(5000, 0.0)  # what was done before says nothing
    later.observe(5050, 1.0)
    assert later.left_s(100) is None


def test_node_is_crowded_when_people_wait_twice_as_long_as_without_jobs() -> None:
    nodes, many = CrowdedNodes(), {"a": 9, "b": 9}
    nodes.look("ab", {"a": Crowd(0.01, is_calm=True), "b": Crowd(0.05, is_calm=True)}, 0.0)
    nodes.look("ab", dict.fromkeys("ab", Crowd(0.019, is_calm=False)), 1.0)
    assert not nodes.is_any
    nodes.look("ab", dict.fromkeys("ab", Crowd(0.020, is_calm=False)), 2.0)
    assert nodes.full(many) == {"a"}
    nodes.look("ab", {}, 3.0)
    assert not nodes.is_any  # it has told nothing of late


CALM = Crowd(0.004, is_calm=True)
CROWDED = Crowd(10.0, is_calm=False)


class Hosted:
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
    rig = Hosted("a", "b", "liar")
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
    rig = Hosted()
    rig.work.lane.pace._pace = 100.0
    rig.look(dict.fromkeys("ab", CROWDED))
    rig.send(*"ab" * CALLS_A_NODE)
    rig.ask()
    rig.work.pump()
    assert rig.work.lane.waiting == 1
    rig.look({"a": CROWDED, "b": Crowd(0.0, is_calm=False)})
    rig.work.pump()
    assert rig.work.lane.waiting == 0


async def test_agent_that_is_heard_again_has_outlived_its_worker() -> None:
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
