"""Dials that wait for their turn: they begin when the budget has room, and leave nothing behind."""

from __future__ import annotations

import asyncio

import virtual_time

from capamesh.router.fleet.dialing import Dialling


def test_dials_of_one_invite_begin_five_at_once_and_then_five_a_second() -> None:
    async def scenario() -> None:
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

    virtual_time.run(scenario())


def test_dial_that_is_cancelled_makes_room_whether_it_waited_or_had_its_turn() -> None:
    async def scenario() -> None:
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

    virtual_time.run(scenario())
