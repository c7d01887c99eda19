from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.scheduling.pending_request import PendingRequest, RequestState, unheard
from capamesh.node.scheduling.queue import BULK_SHARE, STALE_ENTRIES, RequestQueue
from capamesh.node.scheduling.reading_queue import Reading, ReadingQueue
from capamesh.protocol.errors import Overloaded


def request(
    rows: int = 1, *, key: object = None, priority: int = 0, **asked: Any
) -> PendingRequest:
    made = PendingRequest((), (), pytest.fail, arrived_s=0.0, priority=priority, **asked)
    made.rows, made.key = rows, key
    return made


def put(queue: RequestQueue, requests: Iterable[PendingRequest]) -> None:
    for one in requests:
        queue.put(one)


def of_both(count: int) -> list[PendingRequest]:
    return [request(is_bulk=half) for half in (False, True) for _ in range(count)]


def start(requests: Iterable[PendingRequest]) -> None:
    for one in requests:
        one.state = RequestState.RUNNING


def drop(queue: RequestQueue, dropped: PendingRequest) -> None:
    dropped.state = RequestState.ENDED
    queue.drop(dropped)


def heap_entries(queue: RequestQueue) -> int:
    return sum(len(heap) for half in (queue._online, queue._bulk) for heap in half.heaps.values())


def test_endless_putting_and_dropping_leaves_a_bounded_number_of_stale_entries() -> None:
    queue = RequestQueue()
    kept = [request(key=index % 2) for index in range(10)]
    put(queue, kept)
    most = 0
    for index in range(5_000):
        passing = request(key=index, priority=1, is_bulk=index % 3 == 0)
        queue.put(passing)
        drop(queue, passing)
        most = max(most, heap_entries(queue))
    assert most <= 2 * (STALE_ENTRIES + 1) + 2 * len(kept)
    assert sorted(one.order for one in queue) == [one.order for one in kept]


def test_endless_bulk_gets_a_tenth_of_the_rows_and_online_the_rest() -> None:
    queue = RequestQueue()
    taken = {False: 0, True: 0}
    put(queue, of_both(20))
    for _ in range(1_000):
        batch = queue.take(10)
        start(batch)
        for one in batch:
            taken[one.is_bulk] += 1
            queue.put(request(is_bulk=one.is_bulk))
    assert taken == {False: 9_000, True: 1_000}


def test_bulk_that_may_be_in_no_run_of_online_work_gets_its_tenth_all_the_same() -> None:
    queue = RequestQueue()
    put(queue, of_both(20))
    taken = [0, 0]
    for _ in range(500):
        batch = queue.take(4, lambda online: 0 if online else 1)
        assert sum(one.is_bulk for one in batch) <= 1
        for one in batch:
            taken[one.is_bulk] += 1
            queue.put(request(is_bulk=one.is_bulk))
    assert abs(taken[True] / sum(taken) - BULK_SHARE) < 0.01


def test_bulk_requests_without_rows_cannot_keep_online_work_from_running() -> None:
    queue = RequestQueue()
    put(queue, [request() for _ in range(90)])
    put(queue, [request(0, key=index, is_bulk=True) for index in range(90)])
    order = [one.is_bulk for _ in range(100) for one in queue.take(1)]
    assert order.count(True) == 10


def test_share_that_online_did_not_use_is_not_owed_to_it_later() -> None:
    queue = RequestQueue()
    for _ in range(100):  # bulk alone, for long
        queue.put(request(is_bulk=True))
        assert queue.take(1)
    put(queue, of_both(100))
    order = [one.is_bulk for _ in range(100) for one in queue.take(1)]
    assert 9 <= order.count(True) <= 11


PUTS = st.tuples(
    st.just("put"),
    st.integers(0, 5),
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.none() | st.integers(0, 3),
    st.booleans(),
)
DROPS = st.tuples(st.just("drop"), st.integers(0, 1_000))
TAKES = st.tuples(st.just("take"), st.integers(1, 8))


def urgency(one: PendingRequest) -> tuple[int, float, int]:
    return one.priority, math.inf if one.deadline_s is None else one.deadline_s, one.order


@given(st.lists(st.one_of(PUTS, DROPS, TAKES), max_size=60))
def test_queue_loses_doubles_and_reorders_nothing(steps: list[tuple[object, ...]]) -> None:
    queue = RequestQueue()
    waiting: list[PendingRequest] = []
    for step in steps:
        match step:
            case ("put", int(rows), str(key), int(priority), deadline, bool(is_bulk)):
                deadline_s = float(deadline) if isinstance(deadline, int) else None
                how = {"deadline_s": deadline_s, "is_bulk": is_bulk}
                one = request(rows, key=key, priority=priority, **how)
                queue.put(one)
                waiting.append(one)
            case ("drop", int(index)) if waiting:
                drop(queue, waiting.pop(index % len(waiting)))
            case ("take", int(max_rows)):
                batch = queue.take(max_rows)
                assert bool(batch) == bool(waiting)
                assert len(batch) == 1 or sum(one.rows for one in batch) <= max_rows
                assert len({one.key for one in batch}) <= 1
                start(batch)
                waiting = [one for one in waiting if one not in batch]
                for half in (False, True):
                    mine = [one for one in batch if one.is_bulk is half]
                    assert mine == sorted(mine, key=urgency)
                    for one in waiting:
                        if one.is_bulk is half and mine and one.key == mine[0].key:
                            assert urgency(one) > urgency(mine[-1])
            case _:
                pass
        assert len(queue) == len(waiting)
        assert queue.rows == sum(one.rows for one in waiting)
        assert queue.bulk_rows == sum(one.rows for one in waiting if one.is_bulk)
        assert queue.online == sum(not one.is_bulk for one in waiting)
        assert {id(one) for one in queue} == {id(one) for one in waiting}


def call(size: int, client: str = "") -> Reading:
    return Reading(PendingRequest((), (), unheard, arrived_s=0.0), b"x" * size, client)


def all_put(queue: ReadingQueue, *calls: Reading) -> None:
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
    all_put(queue, *crowd)
    assert queue.take() is crowd[1]
    lone = [call(90, "lone"), call(20, "lone")]
    all_put(queue, *lone)
    assert taken(queue) == [lone[1], crowd[2], lone[0], crowd[0]]


def test_long_call_waits_for_few_shorter_ones_of_its_client() -> None:
    queue = ReadingQueue()
    long = call(1000)
    all_put(queue, long, *(call(10) for _ in range(20)))
    assert taken(queue).index(long) == 3


def test_bytes_of_all_and_of_each_client_are_bounded_until_they_are_read() -> None:
    queue = ReadingQueue(most_bytes=106, most_client_bytes=60)
    first, other = call(50, "a"), call(51, "b")
    all_put(queue, first, other)
    refusal = r"50 bytes of this client's calls .* 11 more .* limit of 60"
    with pytest.raises(Overloaded, match=refusal):
        queue.put(call(11, "a"))
    with pytest.raises(Overloaded, match=r"101 bytes of calls .* 6 more .* limit of 106"):
        queue.put(call(6, "c"))
    assert queue.take() is first
    with pytest.raises(Overloaded):
        queue.put(call(11, "a"))
    queue.ended(first)
    queue.ended(other)  # which nobody waits for any more
    assert queue.take() is None
    all_put(queue, call(60, "a"), call(40, "b"))
    assert len(queue) == 2
