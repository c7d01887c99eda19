from __future__ import annotations

import pytest
from engine_desk import Desk

from capamesh.node.scheduling import Batch, Streams
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
def test_all_threads_work_together_again_once_a_few_in_a_row_were_alone(
    crowd: int, alone: int
) -> None:
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
    assert ahead is not None
    assert (ahead.rows, ahead.is_stream, ahead.has_begun) == (4, True, False)
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None


def test_limit_and_the_wait_follow_the_streams() -> None:
    desk = StreamDesk()
    assert desk.batcher.limit.rows == round(2.0 / (0.072 / 4 / 2))
    assert desk.batcher.slots == 2
    for _ in range(12):
        desk.submit()
    desk.kinds()  # two of four rows run; four wait
    assert desk.load().queue_us == pytest.approx((0.072 + 0.036) / 2 * 1e6, abs=1)
    desk.finish(desk.batches[0], 0.144)
    assert desk.load().run_us == pytest.approx((0.018 + 0.1 * (0.144 - 0.018)) * 1e6, abs=1)
    desk.finish(desk.batches[1], 0.144)
    assert desk.batcher._slots.full_batch_s() > 0.072  # slower than measured at load: it is told
