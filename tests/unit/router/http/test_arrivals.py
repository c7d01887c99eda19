"""A body on its way into its memory: how much of it one read may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from capamesh.router.http.arrivals import READ_BYTES, ArrivingBody
from capamesh.router.http.body_budget import BodyBudget

if TYPE_CHECKING:
    import asyncio

MIB = 2**20


class Transport:
    """Is never paused: there is room for all."""


class Receiver:
    def no_room(self) -> None:
        raise AssertionError("there is room")


def test_no_read_takes_more_than_leaves_the_loop_to_others_however_much_room_there_is() -> None:
    budget = BodyBudget(64 * MIB, 32 * MIB, clock=lambda: 0.0)
    here = memoryview(b"begins")
    body = ArrivingBody(
        budget, Receiver(), cast("asyncio.Transport", Transport()), 4 * MIB + 10, here, ""
    )
    assert body.begin()
    assert budget.arriving_bytes == 4 * MIB + 10  # all its room at once
    reads = list[int]()
    while body.filled_bytes < len(body.memory):
        reads.append(len(body.buffer()))
        body.buffer()[:] = bytes([len(reads)]) * reads[-1]
        is_whole = body.took(reads[-1])
    assert is_whole
    assert max(reads) == READ_BYTES
    assert sum(reads) == 4 * MIB + 4
    assert bytes(body.memory[:7]) == b"begins\x01"
    assert body.memory[-1] == len(reads)
