"""When a node's address may be dialled: rationed for each invite and in all."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from capamesh.router.fleet.dial_budget import KNOWN, NEW, Dial, DialBudget
from capamesh.router.fleet.dialing import Dialling


def wanted(budget: DialBudget, invite: str, count: int, *, is_known: bool = False) -> list[Dial]:
    return [budget.want(invite, is_known=is_known, now_s=0.0) for _ in range(count)]


def test_address_that_never_answers_holds_its_places_and_no_more() -> None:
    budget = DialBudget(0.0)
    wanted(budget, "evil", 100)
    assert len(budget.due(0.0)) == 5
    assert budget.due(60.0) == []
    assert budget.wait_s(60.0) is None
    wanted(budget, "honest", 1)
    assert [dial.invite for dial in budget.due(60.0)] == ["honest"]


def test_address_that_answers_and_hangs_up_again_and_again_is_rationed_too() -> None:
    budget, begun = DialBudget(0.0), 0
    wanted(budget, "evil", 1000, is_known=True)
    for step in range(101):
        for dial in budget.due(step / 100):
            begun += 1
            budget.over(dial, has_answered=True, now_s=step / 100)
    assert begun == 150


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.floats(0, 0.5)), max_size=80
    )
)
def test_dials_under_way_are_never_more_than_may_be_and_each_has_its_turn(
    steps: list[tuple[int, bool, bool, float]],
) -> None:
    budget, now_s = DialBudget(0.0), 0.0
    running: list[Dial] = []
    asked = begun = 0
    for invite, is_known, has_answered, pause_s in steps:
        now_s += pause_s
        budget.want(str(invite), is_known=is_known, now_s=now_s)
        asked += 1
        running += (new := budget.due(now_s))
        begun += len(new)
        assert sum(not dial.is_known for dial in running) <= NEW.at_once
        assert sum(dial.is_known for dial in running) <= KNOWN.at_once
        if running and has_answered:
            budget.over(running.pop(0), has_answered=is_known, now_s=now_s)
    for _ in range(200):
        now_s += 1.0
        for dial in running:
            budget.over(dial, has_answered=False, now_s=now_s)
        running = budget.due(now_s)
        begun += len(running)
    assert begun == asked


async def test_dials_of_one_invite_begin_five_at_once_and_then_five_a_second() -> None:
    dialling, begun = Dialling(), list[float]()
    loop = asyncio.get_running_loop()

    async def dial() -> None:
        over = await dialling.permit("evil", is_known=False)
        begun.append(round(loop.time(), 3))
        over(False)

    tasks = [asyncio.create_task(dial()) for _ in range(10)]
    await asyncio.sleep(0)
    assert dialling.waiting == 5
    await asyncio.gather(*tasks)
    assert begun == [0.0] * 5 + [0.2, 0.4, 0.6, 0.8, 1.0]
    assert repr(dialling) == "Dialling(DialBudget(0 under way, 0 waiting))"


async def test_dial_that_is_cancelled_makes_room_whether_it_waited_or_had_its_turn() -> None:
    dialling = Dialling()
    held = [await dialling.permit("a", is_known=False) for _ in range(5)]
    waiting = [asyncio.create_task(dialling.permit("a", is_known=False)) for _ in range(3)]
    await asyncio.sleep(60)
    assert dialling.waiting == 3
    waiting[1].cancel()
    held[0](True)  # gives the turn to the first
    waiting[0].cancel()
    await asyncio.sleep(1)
    assert waiting[2].done()
    for over in (*held, waiting[2].result()):
        over(False)
    assert repr(dialling) == "Dialling(DialBudget(0 under way, 0 waiting))"
