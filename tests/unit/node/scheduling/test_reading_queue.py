from __future__ import annotations

import pytest

from capamesh.node.scheduling import PendingRequest
from capamesh.node.scheduling.pending_request import unheard
from capamesh.node.scheduling.reading_queue import Reading, ReadingQueue
from capamesh.protocol.errors import Overloaded


def call(size: int, client: str = "", *, is_bulk: bool = False) -> Reading:
    request = PendingRequest((), (), unheard, arrived_s=0.0, is_bulk=is_bulk)
    return Reading(request, b"x" * size, client)


def put(queue: ReadingQueue, *calls: Reading) -> None:
    for each in calls:
        queue.put(each)


def taken(queue: ReadingQueue) -> list[Reading]:
    found: list[Reading] = []
    while (reading := queue.take()) is not None:
        queue.ended(reading)
        found.append(reading)
    return found


def test_clients_take_turns_by_bytes_and_each_begins_with_its_shortest() -> None:
    queue = ReadingQueue()
    crowd = [call(size, "crowd") for size in (400, 100, 300)]
    put(queue, *crowd)
    assert queue.take() is crowd[1]
    lone = [call(90, "lone"), call(20, "lone")]
    put(queue, *lone)
    assert taken(queue) == [lone[1], crowd[2], lone[0], crowd[0]]


def test_long_call_waits_for_few_shorter_ones_of_its_client() -> None:
    queue = ReadingQueue()
    long = call(1000)
    put(queue, long, *(call(10) for _ in range(20)))
    assert taken(queue).index(long) == 3


def test_bytes_of_all_and_of_each_client_are_bounded_until_they_are_read() -> None:
    queue = ReadingQueue(most_bytes=106, most_client_bytes=60)
    first, other = call(50, "a"), call(51, "b")
    put(queue, first, other)
    with pytest.raises(
        Overloaded, match=r"50 bytes of this client's calls .* 11 more .* limit of 60"
    ):
        queue.put(call(11, "a"))
    with pytest.raises(Overloaded, match=r"101 bytes of calls .* 6 more .* limit of 106"):
        queue.put(call(6, "c"))
    assert queue.take() is first
    with pytest.raises(Overloaded):
        queue.put(call(11, "a"))
    queue.ended(first)
    queue.ended(other)  # which nobody waits for any more
    assert queue.take() is None
    put(queue, call(60, "a"), call(40, "b"))
    assert len(queue) == 2
