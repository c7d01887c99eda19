"""Bulk requests that run behind all others, on what these leave of the cores."""

from __future__ import annotations

import pytest
from engine_desk import Desk

from capamesh.node.scheduling import Batch, Streams
from capamesh.node.scheduling.background import REST_S
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile

ALONE = ServiceProfile((ProfilePoint(1, 0.015), ProfilePoint(4, 0.050)))


@pytest.fixture
def desk() -> Desk:
    return Desk(streams=Streams(2, ALONE, 4), has_background=True)


def behind(desk: Desk) -> Batch | None:
    return desk.batcher.take_background(desk.now_s)


def begun(desk: Desk) -> Batch:
    batch = behind(desk)
    assert batch is not None
    assert (batch.is_background, batch.is_stream, batch.has_bulk) == (True, True, True)
    return batch


def test_bulk_requests_run_in_the_background_alone(desk: Desk) -> None:
    desk.submit(rows=8, is_bulk=True)
    assert desk.batcher.take(desk.now_s) is None
    for _ in range(2):  # the rest of it follows when the first part has run
        part = begun(desk)
        assert (part.rows, behind(desk)) == (4, None)
        desk.finish(part)
    assert (len(desk.answers), desk.batcher.is_idle) == (1, True)


def test_people_have_all_slots_beside_the_background_and_no_bulk_rows_in_their_runs(
    desk: Desk,
) -> None:
    for _ in range(3):
        desk.submit(rows=4, is_bulk=True)
    begun(desk), begun(desk)
    for _ in range(2):
        desk.submit()
    for batch in (desk.taken(), desk.taken()):
        assert (batch.rows, batch.has_bulk, batch.is_background, batch.is_stream) == (
            1,
            False,
            False,
            True,
        )
    assert desk.batcher.take(desk.now_s) is None


def test_run_in_the_background_says_nothing_of_how_fast_the_device_is(desk: Desk) -> None:
    limit = desk.batcher.limit.rows
    for _ in range(10):
        desk.submit(rows=4, is_bulk=True)
        desk.finish(begun(desk), 10.0)
    assert desk.batcher.limit.rows == limit
    assert desk.batcher._slots.time_of_streams.predicted_s(4) == 0.050


def test_cancelled_call_leaves_the_background(desk: Desk) -> None:
    request = desk.submit(rows=4, is_bulk=True)
    batch = begun(desk)
    stopped: list[bool] = []
    batch.stop = lambda: stopped.append(True)
    desk.batcher.cancel(request, desk.now_s)
    assert stopped == [True]
    desk.finish(batch)
    assert (desk.batcher.is_idle, desk.batcher._requests.bulk_rows) == (True, 0)


def test_background_that_stalls_the_event_loop_rests(desk: Desk) -> None:
    desk.batcher.background_stalled(desk.now_s)
    desk.submit(rows=4, is_bulk=True)
    assert behind(desk) is None
    batch = desk.taken()
    assert not batch.is_background
    desk.finish(batch)
    desk.now_s += REST_S
    desk.submit(rows=4, is_bulk=True)
    assert desk.batcher.take(desk.now_s) is None
    begun(desk)


def test_model_without_streams_has_no_background() -> None:
    desk = Desk(has_background=True)
    desk.submit(rows=4, is_bulk=True)
    assert behind(desk) is None
    assert desk.taken().rows == 4
