"""Bulk requests that run behind all others, on what these leave of the cores."""

from __future__ import annotations

from engine_desk import Desk

from capamesh.node.scheduling import Batch, Streams
from capamesh.node.scheduling.background import REST_S
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile

ALONE = ServiceProfile((ProfilePoint(1, 0.015), ProfilePoint(4, 0.050)))
STREAMS = Streams(2, ALONE, 4)


def desk() -> Desk:
    return Desk(streams=STREAMS, has_background=True)


def behind(desk: Desk) -> Batch | None:
    return desk.batcher.take_background(desk.now_s)


def test_bulk_requests_run_in_the_background_alone() -> None:
    one = desk()
    one.submit(rows=8, is_bulk=True)
    assert one.batcher.take(one.now_s) is None
    first, second = behind(one), behind(one)
    assert first is not None
    assert first.is_background
    assert first.is_stream
    assert first.has_bulk
    assert first.rows == 4
    assert second is None  # the rest of it follows when that has run
    one.finish(first)
    rest = behind(one)
    assert rest is not None
    assert rest.rows == 4
    one.finish(rest)
    assert len(one.answers) == 1
    assert one.batcher.is_idle


def test_people_have_all_slots_beside_the_background_and_no_bulk_rows_in_their_runs() -> None:
    one = desk()
    for _ in range(3):
        one.submit(rows=4, is_bulk=True)
    assert behind(one) is not None
    assert behind(one) is not None
    for _ in range(2):
        one.submit()
    batches = [one.batcher.take(one.now_s) for _ in range(3)]
    assert [batch and batch.rows for batch in batches] == [1, 1, None]
    for batch in batches[:2]:
        assert batch is not None
        assert not batch.has_bulk
        assert not batch.is_background
        assert batch.is_stream


def test_run_in_the_background_says_nothing_of_how_fast_the_device_is() -> None:
    one = desk()
    limit = one.batcher.limit.rows
    for _ in range(10):
        one.submit(rows=4, is_bulk=True)
        batch = behind(one)
        assert batch is not None
        one.finish(batch, 10.0)
    assert one.batcher.limit.rows == limit
    assert one.batcher._slots.time_of_streams.predicted_s(4) == 0.050


def test_cancelled_call_leaves_the_background() -> None:
    one = desk()
    request = one.submit(rows=4, is_bulk=True)
    batch = behind(one)
    assert batch is not None
    stopped: list[bool] = []
    batch.stop = lambda: stopped.append(True)
    one.batcher.cancel(request, one.now_s)
    assert stopped == [True]
    one.finish(batch)
    assert one.batcher.is_idle
    assert not one.batcher._requests.bulk_rows


def test_background_that_stalls_the_event_loop_rests() -> None:
    one = desk()
    one.batcher.background_stalled(one.now_s)
    one.submit(rows=4, is_bulk=True)
    assert behind(one) is None
    batch = one.taken()
    assert not batch.is_background
    one.finish(batch)
    one.now_s += REST_S
    one.submit(rows=4, is_bulk=True)
    assert one.batcher.take(one.now_s) is None
    assert behind(one) is not None


def test_call_without_rows_runs_in_the_background_too() -> None:
    one = desk()
    one.submit(rows=0, is_bulk=True)
    batch = behind(one)
    assert batch is not None
    assert behind(one) is None


def test_model_without_streams_has_no_background() -> None:
    one = Desk(has_background=True)
    one.submit(rows=4, is_bulk=True)
    assert behind(one) is None
    assert one.taken().rows == 4
