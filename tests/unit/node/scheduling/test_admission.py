"""Who gives way to whom when there is no room for all."""

from __future__ import annotations

from collections import Counter

import pytest
from engine_desk import Desk
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.node.scheduling import PendingRequest
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.sequence_mark import SequenceMark


def test_urgent_request_takes_the_place_of_the_lesser_one_that_would_be_served_last() -> None:
    desk = Desk(max_queue=3, batch_rows=1)
    running = desk.submit(priority=128)
    assert desk.take() == [running]
    first = desk.submit(priority=128)
    low = desk.submit(priority=200)
    second = desk.submit(priority=128)
    urgent = desk.submit(priority=1)
    assert [request for request, _ in desk.answers] == [low]
    desk.submit(priority=1)
    assert [request for request, _ in desk.answers] == [low, second]
    desk.submit(priority=1)
    assert [request for request, _ in desk.answers] == [low, second, first]
    assert desk.outcomes() == ["overloaded"] * 3
    assert all(
        isinstance(error, Overloaded) and error.retry_after_s > 0 for _, error in desk.answers
    )
    with pytest.raises(Overloaded, match="3 requests wait at this model"):
        desk.submit(priority=1)
    assert desk.batcher.meter.dropped == {"displaced": 3}
    assert running.state is RequestState.RUNNING
    desk.finish(next(iter(desk.batcher._requests.running)))
    assert desk.take() == [urgent]


def test_request_of_many_rows_displaces_as_many_as_it_needs_or_nobody() -> None:
    desk = Desk(limit_rows=16)
    rows = [desk.submit(2, priority=128) for _ in range(6)]
    desk.submit(4, priority=1)
    with pytest.raises(Overloaded, match="16 rows are in flight"):
        desk.submit(8, priority=1, is_bulk=True)
    desk.submit(3, priority=1)
    assert [request for request, _ in desk.answers] == rows[:3:-1]
    desk.submit(8, priority=1)
    assert [request for request, _ in desk.answers] == rows[::-1]
    with pytest.raises(Overloaded, match="15 rows are in flight"):
        desk.submit(2, priority=1)


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 100, 128, 200]), st.booleans(), st.integers(0, 5)),
        min_size=1,
        max_size=120,
    )
)
@settings(deadline=None)
def test_request_is_not_refused_while_a_lesser_waits(events: list[tuple[int, bool, int]]) -> None:
    desk = Desk(limit_rows=12, batch_rows=2)
    accepted: list[PendingRequest] = []
    for priority, is_bulk, what in events:
        if what == 0 and (batch := desk.batcher.take(desk.now_s)) is not None:
            desk.finish(batch)
            continue
        waiting = [request for request in accepted if request.state is RequestState.QUEUED]
        lesser = [
            request
            for request in waiting
            if (request.is_bulk, request.priority) > (is_bulk, priority)
            or request.is_bulk > is_bulk
        ]
        try:
            accepted.append(desk.submit(priority=priority, is_bulk=is_bulk))
        except Overloaded:
            assert not lesser or is_bulk  # bulk work may be over its half
        displaced = [request for request in waiting if request.state is RequestState.ENDED]
        assert set(displaced) <= set(lesser)
        assert len(displaced) <= 1
        if displaced:
            rank = (displaced[0].is_bulk, displaced[0].priority)
            assert rank == max((request.is_bulk, request.priority) for request in waiting)
    while (batch := desk.batcher.take(desk.now_s)) is not None:
        desk.finish(batch)
    assert Counter(request for request, _ in desk.answers) == Counter(accepted)
    assert desk.batcher.is_idle


def test_request_of_a_sequence_does_not_give_way_for_its_state_is_here_alone() -> None:
    desk = Desk(limit_rows=2)
    step = desk.request(priority=200)
    step.sequence = SequenceMark("s", True, False)
    desk.batcher.submit(step, desk.now_s)
    usual = desk.submit(priority=128)
    desk.submit(priority=1)
    assert [request for request, _ in desk.answers] == [usual]
    with pytest.raises(Overloaded, match="2 rows are in flight"):
        desk.submit(priority=1)
