from __future__ import annotations

import pytest
from engine_desk import Desk

from capamesh.node.scheduling import Batch, Streams
from capamesh.node.scheduling.background import REST_S
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile

OF_ALL = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.080)))
OF_ONE = ServiceProfile((ProfilePoint(1, 0.018), ProfilePoint(4, 0.072)))


class StreamDesk(Desk):
    """An engine whose model also runs on one thread, two runs beside one another."""

    def __init__(self, rows: int = 4) -> None:
        super().__init__(profile=OF_ALL, streams=Streams(2, OF_ONE, rows))

    def kinds(self) -> list[tuple[int, bool]]:
        """Take all that may run now; return the rows of each and whether it runs on one thread."""
        self.batches: list[Batch] = []
        while (batch := self.batcher.take(self.now_s)) is not None:
            self.batches.append(batch)
        return [(batch.rows, batch.is_stream) for batch in self.batches]


def test_many_requests_are_shared_out_among_runs_of_one_thread_each() -> None:
    desk = StreamDesk()
    for _ in range(7):
        desk.submit()
    assert desk.kinds() == [(4, True), (3, True)]


@pytest.mark.parametrize(("crowd", "alone"), [(2, 1), (4, 2), (32, 5)])
def test_all_threads_work_together_again_after_a_few_alone(crowd: int, alone: int) -> None:
    desk = StreamDesk(32)
    for _ in range(crowd):
        desk.submit()
    desk.kinds()
    kinds = []
    for _ in range(alone + 1):
        for batch in desk.batches:
            desk.finish(batch)
        desk.submit()
        kinds += desk.kinds()
    assert kinds == [(1, True)] * alone + [(1, False)]


def test_full_batch_waits_ready_made_behind_streams_and_never_behind_a_run_of_all_threads() -> None:
    desk = StreamDesk()
    desk.submit()
    desk.kinds()
    for _ in range(16):
        desk.submit()
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None
    desk.finish(desk.batches[0])
    desk.kinds()
    ahead = desk.batcher.take(desk.now_s, is_ahead=True)
    assert (ahead.rows, ahead.is_stream, ahead.has_begun) == (4, True, False)
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None


ALONE = ServiceProfile((ProfilePoint(1, 0.015), ProfilePoint(4, 0.050)))


@pytest.fixture
def desk() -> Desk:
    return Desk(streams=Streams(2, ALONE, 4), has_background=True)


def behind(desk: Desk) -> Batch | None:
    return desk.batcher.take_background(desk.now_s)


def begun(desk: Desk) -> Batch:
    batch = behind(desk)
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


def test_people_have_all_slots_beside_the_background(desk: Desk) -> None:
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
