"""Bodies within one budget: who is let in, who waits, who has to go, and how much of one a turn of the loop takes."""

from __future__ import annotations

import asyncio
from typing import cast

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


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


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


def made(most: int = 100 * MIB, arriving: int = 50 * MIB) -> tuple[BodyBudget, Clock]:
    clock = Clock()
    return BodyBudget(most, arriving, clock=clock), clock


def test_body_that_stands_still_is_ended_for_one_that_needs_the_room() -> None:
    budget, clock = made()
    still = Body(budget)
    budget.begin(still, 0)
    assert budget.grow(still, 50 * MIB)
    still.moved = 50 * MIB - 1
    budget.look()
    clock.now_s += STALLED_S
    new = Body(budget)
    assert budget.begin(new, 1000)
    assert still.reported == []  # so little is let in beside it
    assert budget.grow(new, STEP_BYTES)
    assert (still.reported, new.reported, budget.ended) == (["give up"], [], 1)
    assert budget.arriving_bytes == STEP_BYTES + 1000


def test_body_that_makes_progress_is_waited_for() -> None:
    budget, clock = made()
    fast, new = Body(budget), Body(budget)
    for body in (fast, new):
        budget.begin(body, 0)
    assert budget.grow(fast, 50 * MIB)
    for _ in range(5):
        clock.now_s += 1.0
        fast.moved += 5 * MIB
        budget.look()
        assert not budget.grow(new, STEP_BYTES)
    assert (fast.reported, new.reported) == ([], [])
    budget.arrived(fast, 50 * MIB)
    assert new.reported == ["go on"]
    assert budget.grow(new, STEP_BYTES)


def test_trickling_bodies_are_ended_the_slowest_first() -> None:
    budget, clock = made()
    bodies = [Body(budget) for _ in range(3)]
    for body in bodies:
        budget.begin(body, 16 * MIB)
    for second in range(5):
        clock.now_s += 0.9
        for rate, body in zip((SLOW_BYTES_S * 2, 100, 1000), bodies, strict=True):
            body.moved = int((second + 1) * rate)
        budget.look()
    new = Body(budget)
    budget.begin(new, 0)
    assert budget.grow(new, 3 * MIB)
    assert [body.reported for body in bodies] == [[], ["give up"], []]


def test_oldest_may_go_on_when_all_wait_for_one_another() -> None:
    budget, _ = made()
    oldest, other = Body(budget), Body(budget)
    for body in (oldest, other):
        budget.begin(body, 0)
        assert budget.grow(body, 25 * MIB)
    assert not budget.grow(other, STEP_BYTES)
    assert budget.grow(oldest, 39 * MIB)
    assert not budget.grow(oldest, 12 * MIB)  # never beyond all there is


def test_answer_that_is_not_read_counts_and_goes_for_those_who_do_read() -> None:
    budget, clock = made()
    unread = Body(budget, is_arriving=False)
    assert budget.begin(unread, 90 * MIB)
    assert budget.unread_bytes == 90 * MIB
    assert not budget.hold(20 * MIB)
    clock.now_s += STALLED_S
    assert budget.hold(20 * MIB)
    assert unread.reported == ["give up"]
    assert (budget.used_bytes, budget.unread_bytes) == (20 * MIB, 0)


# shares of sites


def crowded(
    count: int, rate_bytes_s: int, *, is_trusted: bool = False
) -> tuple[BodyBudget, Clock, list[Body]]:
    """Return a budget whose part for arriving a site has taken by `count` bodies, none of which is slow."""
    clock = Clock()
    budget = BodyBudget(100 * MIB, 50 * MIB, clock=clock, is_trusted=lambda _: is_trusted)
    bodies = [Body(budget, site="greedy") for _ in range(count)]
    for body in bodies:
        assert budget.begin(body, 16 * 1024)
    while all(budget.grow(body, STEP_BYTES) for body in bodies):
        pass
    for _ in range(3):
        pass_s(budget, clock, bodies, rate_bytes_s)
    assert [body for body in bodies if body.reported] == []
    return budget, clock, bodies


def pass_s(budget: BodyBudget, clock: Clock, bodies: list[Body], rate_bytes_s: int) -> None:
    """Let a second pass in which the bodies move."""
    clock.now_s += 1.0
    for body in bodies:
        body.moved += rate_bytes_s
    budget.look()


def test_site_that_fills_the_budget_with_bodies_that_are_not_slow_gives_up_the_share_of_others() -> (
    None
):
    budget, clock, greedy = crowded(40, 2 * SLOW_BYTES_S)
    mine = Body(budget, site="mine")
    assert budget.begin(mine, 16 * 1024)
    assert not budget.grow(mine, STEP_BYTES)  # it waits as before, for theirs may be about to end
    assert budget.ended == 0
    seconds = 0
    while mine.size_bytes < 4 * MIB:
        seconds += 1
        assert seconds < 10
        pass_s(budget, clock, greedy, 2 * SLOW_BYTES_S)
        mine.moved = mine.size_bytes
        while "go on" in mine.reported and budget.grow(mine, STEP_BYTES):
            pass
        mine.reported.clear()
    ended = [body for body in greedy if "give up" in body.reported]
    assert 0 < len(ended) < 8
    assert ended == greedy[-len(ended) :]  # the youngest


def test_turns_to_go_on_are_those_of_sites_however_many_wait_of_one() -> None:
    budget, _, greedy = crowded(40, 2 * SLOW_BYTES_S)
    for body in greedy:
        budget.grow(body, STEP_BYTES)
    mine = Body(budget, site="mine")
    assert budget.begin(mine, 0)
    assert not budget.grow(mine, STEP_BYTES)
    budget.release(greedy[-1])
    assert mine.reported == ["go on"]


def test_beginnings_of_one_site_keep_no_other_from_beginning() -> None:
    budget, _ = made()
    for _ in range(2000):
        budget.begin(Body(budget, site="greedy"), 64 * 1024)
    assert budget.arriving_bytes == 50 * MIB + OVERDRAFT_BYTES
    assert not budget.begin(Body(budget, site="greedy"), 64 * 1024)
    mine = Body(budget, site="mine")
    assert budget.begin(mine, 64 * 1024)
    assert (budget.ended, budget.arriving_bytes) == (1, 50 * MIB + OVERDRAFT_BYTES)


def test_site_that_stands_for_many_clients_gives_nothing_up() -> None:
    budget, clock, many = crowded(40, 2 * SLOW_BYTES_S, is_trusted=True)
    mine = Body(budget, site="mine")
    assert budget.begin(mine, 0)
    assert not budget.grow(mine, STEP_BYTES)
    for _ in range(5):
        pass_s(budget, clock, many, 2 * SLOW_BYTES_S)
    assert (budget.ended, mine.reported) == (0, [])


class Anything(RuleBasedStateMachine):
    """Whatever happens in whatever order, the sums are those of what there is, and within the limits."""

    def __init__(self) -> None:
        super().__init__()
        self.budget, self.clock = made(40 * MIB, 20 * MIB)
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
        self.clock.now_s += seconds
        self.budget.look()

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


class Transport:
    def __init__(self) -> None:
        self.is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return False


class Receiver:
    def no_room(self) -> None:
        raise AssertionError("there is room")


async def test_neither_a_read_nor_a_turn_takes_more_than_leaves_the_loop_to_others() -> None:
    budget = BodyBudget(128 * MIB, 64 * MIB, clock=lambda: 0.0)
    here, transport = memoryview(b"begins"), Transport()
    body = ArrivingBody(
        budget, Receiver(), cast("asyncio.Transport", transport), 9 * MIB + 10, here, ""
    )
    assert body.begin()
    assert budget.arriving_bytes == 9 * MIB + 10  # all its room at once
    reads, turns = list[int](), [0]
    while body.filled_bytes < len(body.memory):
        if not transport.is_reading:
            await asyncio.sleep(0)
            turns.append(0)
        assert transport.is_reading
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
