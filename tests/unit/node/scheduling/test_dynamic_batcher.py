from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
from engine_desk import F32, Desk, y

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import PendingRequest
from capamesh.node.scheduling.dynamic_batcher import AHEAD_S
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.run_health import FAILED_REQUESTS, RunHealth
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import (
    DeadlineExceeded,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.tensors import Tensor

# the optional wait for company


def test_request_waits_for_company_as_long_as_the_delay_and_no_longer() -> None:
    desk = Desk(max_delay_us=5_000)
    request = desk.submit()
    assert desk.take() == []
    assert desk.batcher.next_event_s() == 0.005
    desk.now_s = 0.004
    company = desk.submit()
    assert desk.take() == []
    desk.now_s = desk.batcher.next_event_s()
    assert desk.take() == [request, company]
    assert desk.batcher.next_event_s() == math.inf


def test_wait_for_company_leaves_time_to_run_before_the_deadline() -> None:
    desk = Desk(max_delay_us=1_000_000)
    requests = [desk.submit(left_s=0.060), desk.submit(left_s=0.050)]
    assert 0.020 < desk.batcher.next_event_s() < 0.030  # a run takes 10 to 15 ms
    desk.now_s = desk.batcher.next_event_s()
    assert sorted(desk.take(), key=requests.index) == requests


@pytest.mark.parametrize(("slower", "is_taken"), [(1.0, True), (10.0, False)])
def test_batch_is_taken_ahead_only_if_short(slower: float, is_taken: bool) -> None:
    points = (ProfilePoint(1, 0.01 * slower), ProfilePoint(8, AHEAD_S / 2 * slower))
    desk = Desk(profile=ServiceProfile(points))
    desk.submit()
    desk.taken()
    desk.submit(8)
    ahead = desk.batcher.take(desk.now_s, is_ahead=True)
    assert (ahead is not None) is is_taken


# refusals


def test_request_over_the_limit_is_refused_at_once_with_a_time_to_come_back() -> None:
    desk = Desk(limit_rows=16)
    assert desk.load().limit == 16
    for _ in range(16):
        desk.submit()
    with pytest.raises(Overloaded, match=r"16 rows are in flight .* limit of 16;") as refused:
        desk.submit()
    assert refused.value.retry_after_s == pytest.approx(2 * 0.024)
    assert desk.answers == []
    assert desk.load().in_flight == 16
    assert desk.batcher.meter.requests == {"ok": 0, "overloaded": 1}


def test_more_requests_than_may_be_in_flight_are_refused_whatever_their_rows() -> None:
    desk = Desk(max_in_flight=3)
    for _ in range(3):
        desk.submit(0)
    assert desk.load().limit == 3
    with pytest.raises(Overloaded, match="3 requests are in flight") as refused:
        desk.submit(0)
    assert refused.value.retry_after_s > 0


# outputs


def test_request_gets_the_outputs_it_asked_for_in_its_own_order() -> None:
    desk = Desk()
    desk.submit(outputs=("z", "y"))
    desk.submit(outputs=("y",))
    desk.submit()
    z = Tensor("z", F32, (1,), bytes(4))
    own = y(1)
    desk.finish(desk.taken(), results=[[own, z]] * 3)
    assert [result for _, result in desk.answers] == [[z, own], [own], [own, z]]


# what is told of the load


def test_load_counts_requests_and_times_what_waits_before_a_newcomer() -> None:
    desk = Desk(limit_rows=16)
    for _ in range(3):
        desk.submit(4)
    desk.taken()  # two of them
    report = desk.load()
    assert (report.in_flight, report.queued) == (3, 1)
    assert report.limit == 4  # sixteen rows, in requests of four
    assert report.queue_us == 24_000  # one batch of four rows, and half of one before it


# memory


def watched(desk: Desk, **asked: Any) -> tuple[PendingRequest, weakref.ref[Any]]:
    request = desk.request(**asked)
    array = np.zeros((1, 1), np.float32)
    request.inputs = (Tensor("x", F32, (1, 1), array.reshape(-1).view(np.uint8).data),)
    return request, weakref.ref(array)


@pytest.fixture
def no_collector() -> Any:
    """Only reference counts free memory, as between two collections of a busy process."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("is_batching", [True, False])
def test_batch_that_has_run_is_let_go_without_waiting_for_the_collector(is_batching: bool) -> None:
    desk = Desk(is_batching=is_batching)
    request, data = watched(desk)
    desk.batcher.submit(request, 0.0)
    batch = desk.taken()
    assert data() is not None
    desk.finish(batch)
    assert data() is None
    before = living_works()
    desk.answers.clear()
    del request, batch
    assert living_works() == before - 1


def living_works() -> int:
    return sum(isinstance(one, PendingRequest) for one in gc.get_objects())


def test_waiting_request_that_would_be_late_is_answered_and_not_run() -> None:
    desk = Desk(batch_rows=1)  # a run takes 10 ms
    desk.submit()
    running = desk.taken()
    late, in_time, other = (
        desk.submit(left_s=0.025),
        desk.submit(left_s=0.100),
        desk.submit(),
    )
    desk.finish(running)
    assert desk.take() == [in_time]
    assert desk.answers[1][0] is late
    assert desk.outcomes() == ["ok", "deadline_exceeded"]
    assert desk.batcher.meter.dropped == {"late": 1}
    assert other.state is RequestState.QUEUED


def test_requests_that_all_can_start_now_are_not_late_if_their_runs_end_in_time() -> None:
    desk = Desk()  # a run takes 10 to 24 ms
    requests = [desk.submit(left_s=0.018) for _ in range(8)]
    assert desk.take() == requests
    desk = Desk(batch_rows=1, rules=Rules(instances=2))
    requests = [desk.submit(left_s=0.018) for _ in range(2)]
    assert [desk.take(), desk.take()] == [requests[:1], requests[1:]]


# what may wait


def test_running_requests_are_not_counted_as_waiting() -> None:
    desk = Desk(batch_rows=2, max_queue=4, max_in_flight=1)
    for _ in range(6):
        desk.submit()  # two of them run at once
    with pytest.raises(Overloaded, match="4 requests wait at this model, as many as its max_queue"):
        desk.submit()
    desk.taken()
    with pytest.raises(Overloaded):
        desk.submit()
    desk = Desk(batch_rows=1, max_queue=4)
    desk.submit()
    desk.taken()
    for _ in range(4):
        desk.submit()
    with pytest.raises(Overloaded):
        desk.submit()


# bulk work beside online work


def test_bulk_work_leaves_half_of_the_limit_to_online_work() -> None:
    desk = Desk(limit_rows=16)
    for _ in range(8):
        desk.submit(is_bulk=True)
    with pytest.raises(Overloaded, match="8 bulk requests of 8 rows"):
        desk.submit(is_bulk=True)
    for _ in range(8):
        desk.submit()
    with pytest.raises(Overloaded, match="16 rows are in flight"):
        desk.submit(is_bulk=True)
    while desk.batcher.in_flight:
        desk.finish(desk.taken())
    assert (desk.batcher._requests.bulk, desk.batcher._requests.bulk_rows) == (0, 0)


def test_request_of_more_rows_than_the_limit_gets_in_beside_others_up_to_half_of_it() -> None:
    desk = Desk(limit_rows=16)
    for _ in range(8):
        desk.submit()
    desk.submit(500)
    with pytest.raises(Overloaded):
        desk.submit()
    desk = Desk(limit_rows=16)
    for _ in range(9):
        desk.submit()
    with pytest.raises(Overloaded):
        desk.submit(500)


def test_people_wait_for_the_bulk_run_that_has_begun_and_not_for_what_waits() -> None:
    desk = Desk(limit_rows=1000)
    for _ in range(20):
        desk.submit(8, is_bulk=True)
    assert desk.load().queue_us == 0
    desk.taken()
    assert desk.load().queue_us == 12_000  # half of a run of eight rows
    desk.submit(4)
    assert desk.load().queue_us == 12_000 + 16_000


def test_request_that_is_to_run_alone_shares_its_run_with_nothing() -> None:
    desk = Desk()
    before = desk.submit(is_bulk=True)
    suspects = [desk.submit(is_bulk=True, is_alone=True) for _ in range(2)]
    after = desk.submit(is_bulk=True)
    runs: list[list[PendingRequest]] = []
    while desk.batcher.in_flight:
        batch = desk.taken()
        assert batch.has_bulk
        runs.append(batch.requests)
        desk.finish(batch)
    assert sorted(map(len, runs)) == [1, 1, 2]
    assert [before, after] in runs
    assert all([suspect] in runs for suspect in suspects)


# what is said of a model's runs


def test_model_that_never_ran_is_said_so_until_a_run_succeeds() -> None:
    health = RunHealth("it does not run on generated inputs: bad allocation")
    assert health.reason == (
        "no run has succeeded yet: it does not run on generated inputs: bad allocation"
    )
    assert health.is_doubted
    health.succeeded()
    assert (health.reason, health.is_doubted) == ("", False)


def test_engine_takes_note_of_runs_that_fail_and_of_the_first_that_does_not() -> None:
    desk = Desk(batch_rows=1)

    def run(value: float, *results: object) -> None:
        desk.submit(inputs=[Tensor.from_numpy("x", np.full((1, 1), value, np.float32))])
        desk.finish(desk.taken(), results=list(results))

    for number in range(FAILED_REQUESTS):
        run(number, RunFailed("broken"))
    assert desk.batcher.health.reason.endswith("the latest: broken")
    run(1)
    assert desk.batcher.health.reason == ""
    for number in range(FAILED_REQUESTS):  # nobody's run has failed
        run(number, DeadlineExceeded("too late"))
    assert desk.batcher.health.reason == ""
