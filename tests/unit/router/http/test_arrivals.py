"""A body on its way into its memory: how much of it one read, and one turn of the loop, may take."""

from __future__ import annotations

import asyncio
from typing import cast

from capamesh.router.http.arrivals import READ_BYTES, TURN_BYTES, ArrivingBody
from capamesh.router.http.body_budget import BodyBudget

MIB = 2**20


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


async def test_a_body_that_was_dropped_is_not_read_on() -> None:
    budget = BodyBudget(128 * MIB, 64 * MIB, clock=lambda: 0.0)
    transport = Transport()
    body = ArrivingBody(
        budget, Receiver(), cast("asyncio.Transport", transport), 9 * MIB, memoryview(b""), ""
    )
    assert body.begin()
    while transport.is_reading:
        assert not body.took(len(body.buffer()))
    body.drop()
    await asyncio.sleep(0)
    assert not transport.is_reading
