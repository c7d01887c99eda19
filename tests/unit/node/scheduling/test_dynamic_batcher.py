from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
from engine_desk import F32, PROFILE, Desk, y

from capamesh.node.scheduling import PendingRequest, Result, Streams
from capamesh.node.scheduling.dynamic_batcher import AHEAD_S
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.queue import STALE_ENTRIES
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.shedding import EXPIRE_EVERY_S
from capamesh.protocol.errors import (
    DeadlineExceeded,
    Overloaded,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Tensor

GENEROUS = ServiceProfile((ProfilePoint(1, 1e-6),))
"""A limit of two million rows."""


def test_request_at_an_idle_model_runs_at_once_and_is_answered_with_its_outputs() -> None:
    desk = Desk()
    request = desk.submit(3)
    batch = desk.taken()
    assert (batch.requests, batch.rows, batch.wanted) == ([request], 3, 1)
    assert (request.state, request.started_s) == (RequestState.RUNNING, 0.0)
    assert desk.take() == []
    output = y(3)
    desk.finish(batch, 0.012, [[output]])
    assert desk.answers == [(request, [output])]
    assert (request.state, request.run_s) == (RequestState.ENDED, 0.012)
    assert desk.batcher.is_idle


def test_requests_queued_while_the_instance_was_busy_run_together_when_it_is_free() -> None:
    desk = Desk()
    desk.submit()
    first = desk.taken()
    queued = [desk.submit(rows) for rows in (2, 3, 1)]
    assert desk.take() == []
    desk.finish(first)
    assert desk.take() == queued


def test_batches_run_at_once_are_as_many_as_instances() -> None:
    desk = Desk(instances=2, batch_rows=1)
    requests = [desk.submit() for _ in range(3)]
    first = desk.taken()
    assert (first.requests, desk.take(), desk.take()) == ([requests[0]], [requests[1]], [])
    desk.finish(first)
    assert desk.take() == [requests[2]]


def test_every_request_runs_alone_without_batching_whatever_its_shape() -> None:
    desk = Desk(is_batching=False, profile=GENEROUS)
    requests = [desk.submit() for _ in range(2)]
    for request in requests:
        batch = desk.taken()
        assert batch.requests == [request]
        desk.finish(batch)


def test_batching_can_be_given_up_while_requests_are_queued() -> None:
    desk = Desk()
    requests = [desk.submit() for _ in range(2)]
    desk.batcher.stop_batching()
    requests.append(desk.submit())
    taken: list[list[PendingRequest]] = []
    for _ in requests:
        batch = desk.taken()
        taken.append(list(batch.requests))
        desk.finish(batch)
    assert taken == [[request] for request in requests]


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


def test_full_batch_goes_at_once_in_spite_of_a_delay() -> None:
    desk = Desk(max_delay_us=5_000)
    requests = [desk.submit(4), desk.submit(4)]
    assert desk.take() == requests


def test_urgent_newcomers_do_not_stretch_the_wait_of_those_before_them() -> None:
    desk = Desk(max_delay_us=5_000)
    first = desk.submit(priority=9)
    desk.now_s = 0.004
    urgent = desk.submit(priority=0)
    assert desk.batcher.next_event_s() == 0.005
    desk.now_s = 0.005
    assert desk.take() == [urgent, first]


def test_wait_for_company_leaves_time_to_run_before_the_deadline() -> None:
    desk = Desk(max_delay_us=1_000_000)
    requests = [desk.submit(left_s=0.060), desk.submit(left_s=0.050)]
    assert 0.020 < desk.batcher.next_event_s() < 0.030  # a run takes 10 to 15 ms
    desk.now_s = desk.batcher.next_event_s()
    assert sorted(desk.take(), key=requests.index) == requests


def test_next_event_is_the_first_deadline_or_the_end_of_the_wait_for_company() -> None:
    desk = Desk(max_delay_us=5_000)
    assert desk.batcher.next_event_s() == math.inf
    desk.submit(left_s=0.5)
    assert desk.batcher.next_event_s() == 0.005
    desk.now_s = 0.005
    batch = desk.taken()
    assert desk.batcher.next_event_s() == 0.5  # its deadline, as it runs
    desk.finish(batch)
    assert desk.batcher.next_event_s() == math.inf


def test_deadlines_that_pass_one_after_the_other_are_looked_at_together() -> None:
    desk = Desk(batch_rows=1)
    desk.submit()
    desk.taken()
    for left_s in (0.0100, 0.0101, 0.0108, 0.2):
        desk.submit(left_s=left_s)
    times_s = []
    while (due_s := desk.batcher.next_event_s()) < 0.1:
        times_s.append(due_s)
        desk.batcher.expire(due_s)
    assert times_s == [0.01, 0.01 + EXPIRE_EVERY_S]
    assert desk.outcomes() == ["deadline_exceeded"] * 3


@pytest.mark.parametrize(("slower", "is_taken"), [(1.0, True), (10.0, False)])
def test_batch_is_taken_ahead_only_if_short(slower: float, is_taken: bool) -> None:
    points = (ProfilePoint(1, 0.01 * slower), ProfilePoint(8, AHEAD_S / 2 * slower))
    desk = Desk(profile=ServiceProfile(points))
    desk.submit()
    desk.taken()
    desk.submit(8)
    ahead = desk.batcher.take(desk.now_s, is_ahead=True)
    assert (ahead is not None) is is_taken


def test_scheduler_without_a_delay_has_nothing_due_later() -> None:
    desk = Desk()
    desk.submit()
    assert desk.batcher.next_event_s() == math.inf
    assert len(desk.take()) == 1


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


def test_refusal_names_a_time_even_when_nothing_is_queued() -> None:
    desk = Desk(instances=2, limit_rows=16)
    desk.submit(30)
    desk.taken()
    with pytest.raises(Overloaded) as refused:
        desk.submit(30)
    assert refused.value.retry_after_s == pytest.approx(0.005)


def test_idle_model_takes_a_request_of_more_rows_than_its_limit() -> None:
    desk = Desk(limit_rows=16)
    request = desk.submit(100)
    assert desk.take() == [request]


def test_more_requests_than_may_be_in_flight_are_refused_whatever_their_rows() -> None:
    desk = Desk(max_in_flight=3)
    for _ in range(3):
        desk.submit(0)
    assert desk.load().limit == 3
    with pytest.raises(Overloaded, match="3 requests are in flight") as refused:
        desk.submit(0)
    assert refused.value.retry_after_s > 0


def test_short_deadline_is_no_reason_to_refuse_because_it_goes_first() -> None:
    desk = Desk()
    desk.submit(8)
    batch = desk.taken()
    desk.submit(8)
    assert desk.load().queue_us == 36_000  # a batch of eight rows, and half of one before it
    urgent = desk.submit(left_s=0.050)
    desk.finish(batch, 0.024)
    assert desk.take() == [urgent]


def test_deadline_that_has_passed_is_refused_as_such() -> None:
    desk = Desk()
    with pytest.raises(DeadlineExceeded):
        desk.submit(left_s=0.0)
    assert desk.batcher.is_idle


def test_refused_request_leaves_no_trace() -> None:
    desk = Desk(max_rows=4, limit_rows=16)
    with pytest.raises(TooLarge):
        desk.submit(5)
    assert desk.batcher.is_idle
    assert desk.load()[:4] == (0, 0, 16, 0)


def test_slow_runs_lower_the_limit_and_quick_ones_raise_it_again() -> None:
    desk = Desk()
    start = desk.batcher.limit.rows
    assert start == 667  # rows that run within two seconds, at 3 ms each

    def window(factor: float) -> int:
        for _ in range(10):
            while True:
                try:
                    desk.submit(8)
                except Overloaded:
                    break
            desk.finish(desk.taken(), 0.024 * factor)
        desk.now_s += 1.0
        return desk.batcher.limit.rows

    for _ in range(60):
        assert window(1.0) == start
    for _ in range(20):
        low = window(10.0)
    assert low < start / 4
    for _ in range(20):
        again = window(1.0)
    assert again == start


# deadlines and cancelling


def test_expired_work_is_answered_and_not_run() -> None:
    desk = Desk()
    first = desk.submit(left_s=1.0)
    second = desk.submit()
    desk.now_s = 1.0
    desk.batcher.expire(desk.now_s)
    assert [request for request, _ in desk.answers] == [first]
    assert desk.outcomes() == ["deadline_exceeded"]
    assert desk.take() == [second]
    assert desk.batcher.meter.dropped == {"expired": 1}


def test_each_of_many_deadlines_is_kept_in_its_turn() -> None:
    desk = Desk(batch_rows=64)
    requests = [desk.submit(left_s=1.0 + at) for at in range(20)]
    for at, request in enumerate(requests):
        desk.now_s = 1.0 + at
        desk.batcher.expire(desk.now_s)
        assert [answered for answered, _ in desk.answers] == requests[: at + 1]
        assert request.state is RequestState.ENDED


def test_batch_never_contains_what_expired_since_anyone_last_looked() -> None:
    desk = Desk()
    late, timely = desk.submit(left_s=1.0), desk.submit(left_s=1.001)
    desk.now_s = 1.0
    assert desk.take() == [timely]
    assert desk.answers[0][0] is late


def test_cancelled_work_is_neither_run_nor_answered() -> None:
    desk = Desk()
    gone, kept = desk.submit(), desk.submit()
    desk.batcher.cancel(gone, 0.0)
    desk.batcher.cancel(gone, 0.0)
    assert desk.take() == [kept]
    assert desk.answers == []
    assert desk.batcher.meter.requests["cancelled"] == 1


def test_cancelling_what_was_never_accepted_does_nothing() -> None:
    desk = Desk()
    desk.batcher.cancel(desk.request(), 0.0)
    assert desk.batcher.is_idle
    assert "cancelled" not in desk.batcher.meter.requests


def test_running_batch_is_stopped_once_when_nobody_wants_any_of_it() -> None:
    desk = Desk()
    cancelled, expiring = desk.submit(), desk.submit(left_s=1.0)
    batch = desk.taken()
    stops: list[float] = []
    batch.stop = lambda: stops.append(desk.now_s)
    desk.batcher.cancel(cancelled, 0.0)
    assert (stops, batch.wanted) == ([], 1)
    desk.now_s = 1.0
    desk.batcher.expire(desk.now_s)
    assert (stops, batch.wanted) == ([1.0], 0)
    assert (desk.batcher.in_flight, desk.batcher.queued, desk.batcher.is_idle) == (0, 0, False)
    desk.finish(batch)
    assert [request for request, _ in desk.answers] == [expiring]
    assert (stops, desk.batcher.is_idle) == ([1.0], True)


def test_instance_is_busy_until_its_unwanted_run_has_ended() -> None:
    desk = Desk()
    desk.batcher.cancel(desk.submit(), 0.0)
    unwanted = desk.submit()
    batch = desk.taken()
    desk.batcher.cancel(unwanted, 0.0)
    following = desk.submit()
    assert desk.take() == []
    desk.finish(batch)
    assert desk.take() == [following]


def test_request_that_an_answer_cancels_is_not_answered_even_if_its_turn_to_expire_had_come() -> (
    None
):
    """A link that breaks while an answer is sent takes all its other requests with it."""
    desk = Desk()
    requests: list[PendingRequest] = []
    answered: list[PendingRequest] = []

    def lose_the_link(request: PendingRequest, result: Result) -> None:
        answered.append(request)
        for other in requests:
            if other is not request:
                desk.batcher.cancel(other, desk.now_s)

    for _ in range(4):
        request = desk.request(left_s=1.0)
        request.done = lose_the_link
        requests.append(request)
        desk.batcher.submit(request, 0.0)
    desk.now_s = 1.0
    desk.batcher.expire(desk.now_s)
    assert len(answered) == 1
    assert (desk.batcher.in_flight, desk.batcher.queued, desk.load().queue_us) == (0, 0, 0)
    assert desk.batcher._requests.rows == 0


@pytest.mark.parametrize("way", ["finished", "fail"])
def test_request_that_an_answer_of_its_batch_cancels_is_not_answered_after_it(way: str) -> None:
    desk = Desk()
    answered: list[PendingRequest] = []
    requests: list[PendingRequest] = []

    def lose_the_link(request: PendingRequest, result: Result) -> None:
        answered.append(request)
        for other in requests:
            desk.batcher.cancel(other, desk.now_s)

    for _ in range(3):
        request = desk.request()
        request.done = lose_the_link
        requests.append(request)
        desk.batcher.submit(request, 0.0)
    batch = desk.taken()
    if way == "fail":
        desk.batcher.fail(batch, RunFailed("stuck"), 0.0)
    desk.finish(batch)
    assert len(answered) == 1
    assert desk.batcher.is_idle
    assert desk.batcher._requests.rows == 0


def test_answer_may_submit_the_next_request() -> None:
    desk = Desk()
    following: list[PendingRequest] = []
    first = desk.request()
    first.done = lambda _, __: following.append(desk.submit(5, left_s=1.0))
    desk.batcher.submit(first, 0.0)
    desk.finish(desk.taken())
    assert desk.take() == following


# failures


def test_each_request_of_a_batch_gets_its_own_result() -> None:
    desk = Desk()
    fine, faulty = desk.submit(), desk.submit()
    error = RunFailed("a bad index")
    output = y(1)
    desk.finish(desk.taken(), results=[[output], error])
    assert desk.answers == [(fine, [output]), (faulty, error)]
    assert desk.batcher.meter.requests == {"ok": 1, "run_failed": 1}


def test_run_that_was_not_whole_says_nothing_about_the_model() -> None:
    desk = Desk()
    desk.submit()
    batch = desk.taken()
    desk.batcher.finished(batch, [RunFailed("no")], 9.0, run_s=9.0, is_whole=False)
    assert desk.batcher.time.slowdown == 1.0
    assert desk.load().run_us == 10_000
    assert desk.batcher.meter.batches == 1


def test_requests_that_end_together_are_reported_in_the_order_in_which_they_came() -> None:
    desk = Desk()
    requests = [desk.submit(left_s=5.0 - at % 5) for at in range(40)]
    desk.batcher.expire(5.0)
    assert [request for request, _ in desk.answers] == requests


def test_running_batch_can_be_failed_and_its_report_changes_nothing_then() -> None:
    desk = Desk(batch_rows=1, instances=2)
    running, beside, waiting = desk.submit(), desk.submit(), desk.submit()
    batch, other = desk.taken(), desk.taken()
    stops: list[str] = []
    batch.stop = lambda: stops.append("stop")
    error = RunFailed("stuck")
    desk.batcher.fail(batch, error, 0.0)
    assert (desk.answers, stops) == ([(running, error)], ["stop"])
    desk.finish(batch)
    assert desk.take() == [waiting]
    assert len(desk.answers) == 1
    desk.finish(other)
    assert [request for request, _ in desk.answers] == [running, beside]


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


def test_idle_model_reports_no_load_and_its_whole_limit() -> None:
    assert Desk(limit_rows=16).load() == LoadReport(
        in_flight=0,
        queued=0,
        limit=16,
        queue_us=0,
        run_us=10_000,
        free_bytes=7,
        latency_us=0,
        device_in_flight=9,
        bulk_in_flight=0,
        online_queue_us=0,
        limit_rows=16,
    )


def test_load_counts_requests_and_times_what_waits_before_a_newcomer() -> None:
    desk = Desk(limit_rows=16)
    for _ in range(3):
        desk.submit(4)
    desk.taken()  # two of them
    report = desk.load()
    assert (report.in_flight, report.queued) == (3, 1)
    assert report.limit == 4  # sixteen rows, in requests of four
    assert report.queue_us == 24_000  # one batch of four rows, and half of one before it


def test_wait_of_requests_that_run_alone_is_by_the_rows_of_each() -> None:
    desk = Desk(is_batching=False, profile=GENEROUS, max_in_flight=10)
    for _ in range(3):
        desk.submit(100)
    desk.taken()
    assert desk.load().queue_us == 250  # two of 100 rows and half of one, a microsecond each row


def test_all_of_the_load_is_back_at_nothing_after_every_way_to_end() -> None:
    desk = Desk(batch_rows=2, profile=GENEROUS)
    expiring, *others = [desk.submit(left_s=left_s) for left_s in (1.0, None, None, None)]
    batch = desk.taken()
    assert batch.requests == [expiring, others[0]]
    desk.batcher.cancel(others[1], 0.0)
    desk.batcher.cancel(others[0], 0.0)
    desk.now_s = 1.0
    desk.batcher.expire(desk.now_s)
    desk.finish(batch)
    desk.finish(desk.taken())
    report = desk.load()
    assert (report.in_flight, report.queued, report.queue_us) == (0, 0, 0)
    assert (
        desk.batcher._requests.rows,
        desk.batcher._requests.queue.rows,
        len(desk.batcher._requests.queue),
    ) == (0, 0, 0)
    assert desk.outcomes() == ["deadline_exceeded", "ok"]


def test_latency_is_reported_as_it_was_at_such_a_load() -> None:
    desk = Desk()
    desk.submit()
    desk.finish(desk.taken(), 0.010)
    assert desk.load().latency_us == 10_000
    for _ in range(7):
        desk.submit()
    desk.finish(desk.taken(), 0.040)
    assert desk.load().latency_us == pytest.approx(13_000)  # at one in flight: one more sample
    for _ in range(3):
        desk.submit()
    assert desk.load().latency_us == 40_000  # as the fourth in flight, not the third
    desk.finish(desk.taken(), 0.010)
    for _ in range(3):
        desk.submit()
    assert desk.load().latency_us == 40_000


@pytest.mark.parametrize("profile", [None, PROFILE])
def test_requests_without_rows_are_run_and_answered(profile: ServiceProfile | None) -> None:
    desk = Desk(profile=profile)
    for _ in range(3):
        desk.submit(0)
        desk.submit(0)
        desk.finish(desk.taken(), 0.010)
        desk.finish(desk.taken(), 0.010)
    assert desk.outcomes() == ["ok"] * 6
    assert desk.batcher.time.slowdown == pytest.approx(1.0)


def test_runs_of_no_measurable_time_harm_nothing() -> None:
    desk = Desk(profile=None)
    for _ in range(30):
        desk.submit()
        desk.finish(desk.taken(), 0.0)
    assert desk.outcomes() == ["ok"] * 30
    assert min(desk.load()) >= 0


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
def test_inputs_of_what_was_given_up_in_the_queue_are_let_go_at_once() -> None:
    desk = Desk()
    kept = desk.submit()
    cancelled, data_of_cancelled = watched(desk)
    expired, data_of_expired = watched(desk, left_s=1.0)
    for request in (cancelled, expired):
        desk.batcher.submit(request, 0.0)
    assert data_of_cancelled() is not None
    assert data_of_expired() is not None
    desk.batcher.cancel(cancelled, 0.0)
    desk.batcher.expire(1.0)
    assert (data_of_cancelled(), data_of_expired()) == (None, None)
    assert desk.take() == [kept]


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


def test_endless_submitting_and_cancelling_keeps_nothing() -> None:
    desk = Desk(batch_rows=1)
    desk.submit()
    desk.taken()
    for index in range(2_000):
        desk.batcher.cancel(desk.submit(width=1 + index % 7, is_bulk=index % 2 == 0), 0.0)
    halves = desk.batcher._requests.queue._online, desk.batcher._requests.queue._bulk
    entries = sum(len(heap) for half in halves for heap in half.heaps.values())
    assert entries <= 2 * (STALE_ENTRIES + 1)
    assert (desk.batcher.in_flight, desk.batcher.queued) == (1, 0)


def test_caller_that_fails_costs_the_others_of_its_batch_nothing() -> None:
    desk = Desk()

    def broken(request: PendingRequest, result: Result) -> None:
        raise ZeroDivisionError

    first, second = desk.submit(), desk.submit()
    first.done = broken
    batch = desk.taken()
    with pytest.raises(ZeroDivisionError):
        desk.finish(batch)
    assert [request for request, _ in desk.answers] == [second]
    assert second.batch is None
    assert desk.batcher.is_idle


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


def test_last_that_waits_is_run_however_late_it_seems() -> None:
    desk = Desk(batch_rows=1)
    desk.submit()
    running = desk.taken()
    first, last = desk.submit(left_s=0.012), desk.submit(left_s=0.028)
    desk.finish(running)
    assert desk.take() == [last]
    assert [request for request, _ in desk.answers][1:] == [first]


@pytest.mark.parametrize("others", [1, 2])
def test_late_request_that_withdraws_all_others_leaves_nothing_to_run(others: int) -> None:
    desk = Desk(batch_rows=1)
    desk.submit()
    running = desk.taken()
    late = desk.submit(left_s=0.012)
    waiting = [desk.submit(left_s=0.014) for _ in range(others)]

    def withdraw(request: PendingRequest, result: Result) -> None:
        desk.answered(request, result)
        for other in waiting:
            desk.batcher.cancel(other, desk.now_s)

    late.done = withdraw
    desk.finish(running)
    assert desk.batcher.take(desk.now_s) is None
    assert desk.batcher.is_idle


def test_requests_that_all_can_start_now_are_not_late_if_their_runs_end_in_time() -> None:
    desk = Desk()  # a run takes 10 to 24 ms
    requests = [desk.submit(left_s=0.018) for _ in range(8)]
    assert desk.take() == requests
    desk = Desk(batch_rows=1, instances=2)
    requests = [desk.submit(left_s=0.018) for _ in range(2)]
    assert [desk.take(), desk.take()] == [requests[:1], requests[1:]]


def test_requests_at_the_edge_are_late_where_not_all_can_start_now() -> None:
    desk = Desk()
    for _ in range(9):
        desk.submit(left_s=0.018)
    assert len(desk.take()) == 1
    (_, refusal) = desk.answers[0]
    assert isinstance(refusal, DeadlineExceeded)
    assert refusal.message == "18.0 ms are left, too few where 9 wait and a run takes 10.0 ms"


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


def test_requests_of_a_model_with_streams_start_at_once_as_many_as_there_are() -> None:
    streams = Streams(4, PROFILE, 1)
    desk = Desk(batch_rows=1, max_queue=1, streams=streams)
    for _ in range(5):
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


def test_bulk_requests_fill_half_of_those_that_may_be_in_flight() -> None:
    desk = Desk(max_in_flight=6, profile=GENEROUS)
    for _ in range(3):
        desk.submit(is_bulk=True)
    with pytest.raises(Overloaded, match="3 bulk requests"):
        desk.submit(is_bulk=True)
    desk.submit()


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


def test_load_tells_of_bulk_rows_and_of_the_limit_in_rows() -> None:
    desk = Desk(limit_rows=64)
    desk.submit(8, is_bulk=True)
    desk.submit(6, is_bulk=True)
    desk.submit()
    running = desk.taken()
    load = desk.load()
    assert (load.bulk_in_flight, load.limit_rows, load.in_flight) == (14, 64, 3)
    assert load.limit == 12  # in requests of five rows, as those that are in flight have on average
    desk.finish(running)
    while desk.batcher.in_flight:
        desk.finish(desk.taken())
    assert (desk.load().bulk_in_flight, desk.load().limit_rows) == (0, desk.batcher.limit.rows)


def test_people_wait_for_the_bulk_run_that_has_begun_and_not_for_what_waits() -> None:
    desk = Desk(limit_rows=1000)
    for _ in range(20):
        desk.submit(8, is_bulk=True)
    assert desk.load().queue_us == 0
    desk.taken()
    assert desk.load().queue_us == 12_000  # half of a run of eight rows
    desk.submit(4)
    assert desk.load().queue_us == 12_000 + 16_000


def test_latency_that_is_told_is_that_of_people() -> None:
    desk = Desk(limit_rows=1000)
    for _ in range(5):
        desk.submit(8, is_bulk=True)
    desk.submit()
    desk.finish(desk.taken(), 0.010)
    assert desk.load().latency_us == 10_000
    while desk.batcher.in_flight:
        desk.finish(desk.taken(), 0.5)
    assert desk.load().latency_us == 10_000


def test_delay_of_people_s_requests_in_the_queue_is_told_and_passes() -> None:
    desk = Desk(limit_rows=1000)
    desk.submit(8, is_bulk=True)
    running = desk.taken()
    desk.submit()
    desk.finish(running, 0.3)
    assert desk.load().online_queue_us == 0
    desk.finish(desk.taken(), 0.1)
    assert desk.load().online_queue_us == 300_000
    desk.submit(8, is_bulk=True)
    desk.finish(desk.taken(), 0.5)  # a bulk run says nothing, and time goes by
    assert desk.load().online_queue_us == pytest.approx(225_000, abs=1)
    desk.submit()
    desk.finish(desk.taken(), 0.0)
    assert desk.load().online_queue_us == pytest.approx(
        200_000, abs=1
    )  # it found a free device, half a second later
    desk.now_s += 5.0
    desk.batcher.expire(desk.now_s)
    assert desk.load().online_queue_us == 0


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


def test_batch_knows_whether_it_has_bulk_requests() -> None:
    desk = Desk()
    desk.submit()
    assert not desk.taken().has_bulk
    desk = Desk()
    desk.submit()
    desk.submit(is_bulk=True)
    batch = desk.taken()
    assert (len(batch.requests), batch.has_bulk) == (2, True)


# rows without data


@pytest.mark.parametrize("is_batching", [True, False])
def test_rows_without_data_count_for_nothing(is_batching: bool) -> None:
    desk = Desk(is_batching=is_batching)
    limit, expected_s = desk.load().limit, desk.batcher.time.predicted_s(1)
    requests = [desk.submit(10_000, width=0, is_bulk=True) for _ in range(3)]
    assert sum(request.rows for request in requests) <= 3
    desk.submit(8)
    for _ in requests:
        batch = desk.taken()
        assert len(batch.requests) == 1
        desk.finish(batch, 0.010)
    assert desk.batcher.meter.rows <= 8 + 3
    assert desk.batcher.time.predicted_s(1) == pytest.approx(expected_s, rel=0.2)
    assert desk.load().limit <= 1.05 * limit  # the run of eight rows was faster than expected


# a model without a profile


def test_model_that_was_never_measured_takes_as_many_as_its_runs_turn_out_to_allow() -> None:
    desk = Desk(profile=None, is_batching=False)
    assert desk.load().limit == 8
    for _ in range(3):
        desk.submit()
        desk.finish(desk.taken(), 0.010)
    assert 100 < desk.load().limit <= 200
