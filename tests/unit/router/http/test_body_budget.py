"""Bodies within one budget: who is let in, who waits, who has to go, and how much of one a turn of the loop takes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from capamesh.router.http.arrivals import READ_BYTES, TURN_BYTES, ArrivingBody
from capamesh.router.http.body_budget import (
    OVERDRAFT_BYTES,
    SLOW_BYTES_S,
    STALLED_S,
    STEP_BYTES,
    BodyBudget,
    Charge,
)

MIB = 2**20


class Body(Charge):
    """One that does as it is told, and keeps what it was told."""

    def __init__(self, budget: BodyBudget, *, is_arriving: bool = True, site: str = "") -> None:
        super().__init__(is_arriving=is_arriving, site=site)
        self.budget = budget
        self.moved = 0
        self.reported: list[str] = []

    def go_on(self) -> None:
        self.reported.append("go on")

    def give_up(self) -> None:
        self.reported.append("give up")
        self.budget.release(self)

    def moved_bytes(self) -> int:
        return self.moved


class Rig:
    """A budget whose time the test moves."""

    def __init__(self, arriving: int = 50 * MIB, **options: Any) -> None:
        self.now_s = 100.0
        self.budget = BodyBudget(2 * arriving, arriving, clock=lambda: self.now_s, **options)

    def pass_s(self, seconds: float, moved: dict[Body, int] | None = None) -> None:
        """Let time pass in which bodies move by so much, and look at them."""
        self.now_s += seconds
        for body, size_bytes in (moved or {}).items():
            body.moved += size_bytes
        self.budget.look()

    def begun(self, *sizes: int, **how: Any) -> list[Body]:
        """Return new bodies of which so much is there."""
        bodies = [Body(self.budget, **how) for _ in sizes]
        for body, size_bytes in zip(bodies, sizes, strict=True):
            assert self.budget.begin(body, size_bytes)
        return bodies


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_body_that_stands_still_is_ended_for_one_that_needs_the_room(rig: Rig) -> None:
    budget = rig.budget
    (still,) = rig.begun(0)
    assert budget.grow(still, 50 * MIB)
    rig.pass_s(0.0, {still: 50 * MIB - 1})
    rig.now_s += STALLED_S
    (new,) = rig.begun(1000)
    assert still.reported == []  # so little is let in beside it
    assert budget.grow(new, STEP_BYTES)
    assert (still.reported, new.reported, budget.ended) == (["give up"], [], 1)
    assert budget.arriving_bytes == STEP_BYTES + 1000


def test_body_that_makes_progress_is_waited_for(rig: Rig) -> None:
    budget = rig.budget
    fast, new = rig.begun(0, 0)
    assert budget.grow(fast, 50 * MIB)
    for _ in range(5):
        rig.pass_s(1.0, {fast: 5 * MIB})
        assert not budget.grow(new, STEP_BYTES)
    assert (fast.reported, new.reported) == ([], [])
    budget.arrived(fast, 50 * MIB)
    assert new.reported == ["go on"]
    assert budget.grow(new, STEP_BYTES)


def test_trickling_bodies_are_ended_the_slowest_first(rig: Rig) -> None:
    budget = rig.budget
    bodies = rig.begun(*[16 * MIB] * 3)
    for _ in range(5):
        rig.pass_s(0.9, dict(zip(bodies, (SLOW_BYTES_S * 2, 100, 1000), strict=True)))
    (new,) = rig.begun(0)
    assert budget.grow(new, 3 * MIB)
    assert [body.reported for body in bodies] == [[], ["give up"], []]


def test_oldest_may_go_on_when_all_wait_for_one_another(rig: Rig) -> None:
    budget = rig.budget
    oldest, other = bodies = rig.begun(0, 0)
    assert all(budget.grow(body, 25 * MIB) for body in bodies)
    assert not budget.grow(other, STEP_BYTES)
    assert budget.grow(oldest, 39 * MIB)
    assert not budget.grow(oldest, 12 * MIB)  # never beyond all there is


def test_answer_that_is_not_read_counts_and_goes_for_those_who_do_read(rig: Rig) -> None:
    budget = rig.budget
    (unread,) = rig.begun(90 * MIB, is_arriving=False)
    assert budget.unread_bytes == 90 * MIB
    assert not budget.hold(20 * MIB)
    rig.now_s += STALLED_S
    assert budget.hold(20 * MIB)
    assert unread.reported == ["give up"]
    assert (budget.used_bytes, budget.unread_bytes) == (20 * MIB, 0)


# shares of sites

PACE = 2 * SLOW_BYTES_S


def crowded(*, is_trusted: bool = False) -> tuple[Rig, list[Body]]:
    """Return a budget whose part for arriving a site has taken by bodies of which none is slow."""
    rig = Rig(is_trusted=lambda _: is_trusted)
    bodies = rig.begun(*[16 * 1024] * 40, site="greedy")
    while all(rig.budget.grow(body, STEP_BYTES) for body in bodies):
        pass
    for _ in range(3):
        rig.pass_s(1.0, dict.fromkeys(bodies, PACE))
    assert not any(body.reported for body in bodies)
    return rig, bodies


def test_site_that_fills_the_budget_with_bodies_that_are_not_slow_gives_up_the_share_of_others() -> (
    None
):
    rig, greedy = crowded()
    budget = rig.budget
    (mine,) = rig.begun(16 * 1024, site="mine")
    assert not budget.grow(mine, STEP_BYTES)  # it waits as before, for theirs may be about to end
    assert budget.ended == 0
    for _ in range(10):
        rig.pass_s(1.0, dict.fromkeys(greedy, PACE))
        mine.moved = mine.size_bytes
        while "go on" in mine.reported and budget.grow(mine, STEP_BYTES):
            pass
        mine.reported.clear()
    assert mine.size_bytes >= 4 * MIB
    ended = [body for body in greedy if "give up" in body.reported]
    assert 0 < len(ended) < 20
    assert ended == greedy[-len(ended) :]  # the youngest


def test_turns_to_go_on_are_those_of_sites_however_many_wait_of_one() -> None:
    rig, greedy = crowded()
    budget = rig.budget
    for body in greedy:
        budget.grow(body, STEP_BYTES)
    (mine,) = rig.begun(0, site="mine")
    assert not budget.grow(mine, STEP_BYTES)
    budget.release(greedy[-1])
    assert mine.reported == ["go on"]


def test_beginnings_of_one_site_keep_no_other_from_beginning(rig: Rig) -> None:
    budget = rig.budget
    for _ in range(2000):
        budget.begin(Body(budget, site="greedy"), 64 * 1024)
    assert budget.arriving_bytes == 50 * MIB + OVERDRAFT_BYTES
    assert not budget.begin(Body(budget, site="greedy"), 64 * 1024)
    rig.begun(64 * 1024, site="mine")
    assert (budget.ended, budget.arriving_bytes) == (1, 50 * MIB + OVERDRAFT_BYTES)


def test_site_that_stands_for_many_clients_gives_nothing_up() -> None:
    rig, many = crowded(is_trusted=True)
    budget = rig.budget
    (mine,) = rig.begun(0, site="mine")
    assert not budget.grow(mine, STEP_BYTES)
    for _ in range(5):
        rig.pass_s(1.0, dict.fromkeys(many, PACE))
    assert (budget.ended, mine.reported) == (0, [])


class Anything(RuleBasedStateMachine):
    """Whatever happens in whatever order, the sums are those of what there is, and within the limits."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(20 * MIB)
        self.budget = self.rig.budget
        self.bodies: list[Body] = []
        self.held: list[int] = []

    @rule(size=st.integers(0, 64 * 1024), is_arriving=st.booleans(), site=st.sampled_from("abc"))
    def begin(self, size: int, is_arriving: bool, site: str) -> None:
        body = Body(self.budget, is_arriving=is_arriving, site=site)
        if self.budget.begin(body, size):
            self.bodies.append(body)

    @rule(at=st.integers(0, 99), size=st.integers(1, 4 * MIB))
    def grow(self, at: int, size: int) -> None:
        if self.bodies:
            self.budget.grow(self.bodies[at % len(self.bodies)], size)

    @rule(at=st.integers(0, 99), size=st.integers(1, 4 * MIB))
    def move(self, at: int, size: int) -> None:
        if self.bodies:
            self.bodies[at % len(self.bodies)].moved += size

    @rule(at=st.integers(0, 99))
    def release(self, at: int) -> None:
        if self.bodies:
            self.budget.release(self.bodies[at % len(self.bodies)])

    @rule(at=st.integers(0, 99))
    def arrive(self, at: int) -> None:
        mine = [body for body in self.bodies if body.is_arriving]
        if mine:
            body = mine[at % len(mine)]
            self.held.append(body.size_bytes)
            self.budget.arrived(body, body.size_bytes)
            self.bodies.remove(body)

    @rule(size=st.integers(0, 30 * MIB))
    def hold(self, size: int) -> None:
        if self.budget.hold(size):
            self.held.append(size)

    @rule()
    def let_go(self) -> None:
        if self.held:
            self.budget.let_go(self.held.pop())

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.rig.pass_s(seconds)

    @invariant()
    def sums_are_right(self) -> None:
        self.bodies = [body for body in self.bodies if body in self.budget._charges]
        arriving = sum(body.size_bytes for body in self.bodies if body.is_arriving)
        unread = sum(body.size_bytes for body in self.bodies if not body.is_arriving)
        assert self.budget.arriving_bytes == arriving
        assert self.budget.unread_bytes == unread
        assert self.budget.used_bytes == arriving + unread + sum(self.held)
        assert self.budget.used_bytes <= 40 * MIB + OVERDRAFT_BYTES
        waiting = [body for each in self.budget._waiting.values() for body in each]
        assert len(waiting) == len(set(waiting))
        assert {body for body in self.bodies if body.is_waiting} == set(waiting)
        for site in "abc":
            of_site = [body for body in self.bodies if body.is_arriving and body.site == site]
            assert self.budget._arriving_of.get(site, 0) == sum(body.size_bytes for body in of_site)


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_neither_a_read_nor_a_turn_takes_more_than_leaves_the_loop_to_others(
    rig: Rig,
) -> None:
    budget = rig.budget
    may_read: list[bool] = [True]
    transport: Any = SimpleNamespace(
        pause_reading=lambda: may_read.append(False),
        resume_reading=lambda: may_read.append(True),
        is_closing=lambda: False,
    )
    receiver: Any = SimpleNamespace(no_room=pytest.fail)
    body = ArrivingBody(budget, receiver, transport, 9 * MIB + 10, memoryview(b"begins"), "")
    assert body.begin()
    assert budget.arriving_bytes == 9 * MIB + 10  # all its room at once
    reads, turns = list[int](), [0]
    while body.filled_bytes < len(body.memory):
        if not may_read[-1]:
            await asyncio.sleep(0)
            turns.append(0)
        assert may_read[-1]
        reads.append(len(body.buffer()))
        body.buffer()[:] = bytes([len(reads)]) * reads[-1]
        turns[-1] += reads[-1]
        is_whole = body.took(reads[-1])
    assert is_whole
    assert max(reads) == READ_BYTES
    assert sum(reads) == 9 * MIB + 4
    assert turns == [TURN_BYTES] * 9 + [4]
    assert bytes(body.memory[:7]) == b"begins\x01"
    assert body.memory[-1] == len(reads)
