"""A model's engine: what runs with what, who is refused, who gives way, and what becomes of bulk work."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from engine_desk import F32, Desk, y
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository.rules import QueuePolicy, QueueRules, Rules
from capamesh.node.scheduling import Batch, PendingRequest, Streams
from capamesh.node.scheduling.background import REST_S
from capamesh.node.scheduling.dynamic_batcher import AHEAD_S
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.run_health import FAILED_REQUESTS, RunHealth
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.slots import ONLINE_S
from capamesh.protocol.errors import DeadlineExceeded, Overloaded, RunFailed
from capamesh.protocol.links.calls import DEFAULT_PRIORITY
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Tensor


def profile(*points: tuple[int, float]) -> ServiceProfile:
    return ServiceProfile(tuple(ProfilePoint(*each) for each in points))


def submit(desk: Desk, count: int, rows: int = 1, **asked: Any) -> list[PendingRequest]:
    return [desk.submit(rows, **asked) for _ in range(count)]


def answered(desk: Desk) -> list[PendingRequest]:
    return [request for request, _ in desk.answers]


# what runs, and when


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
    desk = Desk(profile=profile((1, 0.01 * slower), (8, AHEAD_S / 2 * slower)))
    desk.submit()
    desk.taken()
    desk.submit(8)
    assert (desk.batcher.take(desk.now_s, is_ahead=True) is not None) is is_taken


def test_request_gets_the_outputs_it_asked_for_in_its_own_order() -> None:
    desk = Desk()
    for outputs in (("z", "y"), ("y",), ()):
        desk.submit(outputs=outputs)
    z, own = Tensor("z", F32, (1,), bytes(4)), y(1)
    desk.finish(desk.taken(), results=[[own, z]] * 3)
    assert [result for _, result in desk.answers] == [[z, own], [own], [own, z]]


def test_waiting_request_that_would_be_late_is_answered_and_not_run() -> None:
    desk = Desk(batch_rows=1)  # a run takes 10 ms
    desk.submit()
    running = desk.taken()
    late, in_time = desk.submit(left_s=0.025), desk.submit(left_s=0.100)
    other = desk.submit()
    desk.finish(running)
    assert desk.take() == [in_time]
    assert desk.answers[1][0] is late
    assert desk.outcomes() == ["ok", "deadline_exceeded"]
    assert desk.batcher.meter.dropped == {"late": 1}
    assert other.state is RequestState.QUEUED


def test_requests_that_all_can_start_now_are_not_late_if_their_runs_end_in_time() -> None:
    desk = Desk()  # a run takes 10 to 24 ms
    requests = submit(desk, 8, left_s=0.018)
    assert desk.take() == requests
    desk = Desk(batch_rows=1, rules=Rules(instances=2))
    requests = submit(desk, 2, left_s=0.018)
    assert [desk.take(), desk.take()] == [requests[:1], requests[1:]]


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Only reference counts free memory, as between two collections of a busy process."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("is_batching", [True, False])
def test_batch_that_has_run_is_let_go_without_waiting_for_the_collector(is_batching: bool) -> None:
    desk = Desk(is_batching=is_batching)
    array = np.zeros((1, 1), np.float32)
    request = desk.request()
    request.inputs = (Tensor("x", F32, (1, 1), array.reshape(-1).view(np.uint8).data),)
    request.done = listener = lambda *_: None
    held, data = weakref.ref(listener), weakref.ref(array)
    del array, listener
    desk.batcher.submit(request, 0.0)
    batch = desk.taken()
    assert data() is not None
    desk.finish(batch)
    assert data() is None
    assert held() is not None
    del request, batch
    assert held() is None


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
    never_ran = RunHealth("it does not run on generated inputs")
    assert never_ran.reason == "no run has succeeded yet: it does not run on generated inputs"
    assert never_ran.is_doubted
    never_ran.succeeded()
    assert (never_ran.reason, never_ran.is_doubted) == ("", False)


# who is refused


def test_request_over_the_limit_is_refused_at_once_with_a_time_to_come_back() -> None:
    desk = Desk(limit_rows=16)
    submit(desk, 16)
    with pytest.raises(Overloaded, match=r"16 rows are in flight .* limit of 16;") as refused:
        desk.submit()
    assert refused.value.retry_after_s == pytest.approx(2 * 0.024)
    assert desk.answers == []
    assert (desk.load().limit, desk.load().in_flight) == (16, 16)
    assert desk.batcher.meter.requests == {"ok": 0, "overloaded": 1}


def test_more_requests_than_may_be_in_flight_are_refused_whatever_their_rows() -> None:
    desk = Desk(max_in_flight=3)
    submit(desk, 3, rows=0)
    assert desk.load().limit == 3
    with pytest.raises(Overloaded, match="3 requests are in flight") as refused:
        desk.submit(0)
    assert refused.value.retry_after_s > 0


def test_load_counts_requests_and_times_what_waits_before_a_newcomer() -> None:
    desk = Desk(limit_rows=16)
    submit(desk, 3, rows=4)
    desk.taken()  # two of them
    report = desk.load()
    assert (report.in_flight, report.queued) == (3, 1)
    assert report.limit == 4  # sixteen rows, in requests of four
    assert report.queue_us == 24_000  # one batch of four rows, and half of one before it


def test_running_requests_are_not_counted_as_waiting() -> None:
    desk = Desk(batch_rows=2, max_queue=4, max_in_flight=1)
    submit(desk, 6)  # two of them run at once
    with pytest.raises(Overloaded, match="4 requests wait at this model, as many as its max_queue"):
        desk.submit()
    desk.taken()
    with pytest.raises(Overloaded):
        desk.submit()
    desk = Desk(batch_rows=1, max_queue=4)
    desk.submit()
    desk.taken()
    submit(desk, 4)
    with pytest.raises(Overloaded):
        desk.submit()


def test_request_of_more_rows_than_the_limit_gets_in_beside_others_up_to_half_of_it() -> None:
    desk = Desk(limit_rows=16)
    submit(desk, 8)
    desk.submit(500)
    with pytest.raises(Overloaded):
        desk.submit()
    desk = Desk(limit_rows=16)
    submit(desk, 9)
    with pytest.raises(Overloaded):
        desk.submit(500)


# who gives way


def test_urgent_request_takes_the_place_of_the_lesser_one_that_would_be_served_last() -> None:
    desk = Desk(max_queue=3, batch_rows=1)
    running = desk.submit(priority=128)
    assert desk.take() == [running]
    first, low, second = (desk.submit(priority=priority) for priority in (128, 200, 128))
    urgent = desk.submit(priority=1)
    assert answered(desk) == [low]
    submit(desk, 2, priority=1)
    assert answered(desk) == [low, second, first]
    for _, error in desk.answers:
        assert isinstance(error, Overloaded)
        assert error.retry_after_s > 0
    with pytest.raises(Overloaded, match="3 requests wait at this model"):
        desk.submit(priority=1)
    assert desk.batcher.meter.dropped == {"displaced": 3}
    assert running.state is RequestState.RUNNING
    desk.finish(next(iter(desk.batcher._requests.running)))
    assert desk.take() == [urgent]


def test_request_of_many_rows_displaces_as_many_as_it_needs_or_nobody() -> None:
    desk = Desk(limit_rows=16)
    rows = submit(desk, 6, rows=2, priority=128)
    desk.submit(4, priority=1)
    with pytest.raises(Overloaded, match="16 rows are in flight"):
        desk.submit(8, priority=1, is_bulk=True)
    desk.submit(3, priority=1)
    assert answered(desk) == rows[:3:-1]
    desk.submit(8, priority=1)
    assert answered(desk) == rows[::-1]
    with pytest.raises(Overloaded, match="15 rows are in flight"):
        desk.submit(2, priority=1)


def test_request_of_a_sequence_does_not_give_way_for_its_state_is_here_alone() -> None:
    desk = Desk(limit_rows=2)
    desk.submit(priority=200, sequence=SequenceMark("s", True, False))
    usual = desk.submit(priority=128)
    desk.submit(priority=1)
    assert answered(desk) == [usual]
    with pytest.raises(Overloaded, match="2 rows are in flight"):
        desk.submit(priority=1)


EVENTS = st.tuples(st.sampled_from([1, 100, 128, 200]), st.booleans(), st.integers(0, 5))


@given(st.lists(EVENTS, min_size=1, max_size=120))
def test_request_is_not_refused_while_a_lesser_waits(events: list[tuple[int, bool, int]]) -> None:
    desk = Desk(limit_rows=12, batch_rows=2)
    accepted: list[PendingRequest] = []
    for priority, is_bulk, what in events:
        if what == 0 and (batch := desk.batcher.take(desk.now_s)) is not None:
            desk.finish(batch)
            continue
        waiting = [request for request in accepted if request.state is RequestState.QUEUED]
        rank = (is_bulk, priority)
        lesser = [each for each in waiting if (each.is_bulk, each.priority) > rank]
        try:
            accepted.append(desk.submit(priority=priority, is_bulk=is_bulk))
        except Overloaded:
            assert not lesser or is_bulk  # bulk work may be over its half
        displaced = [request for request in waiting if request.state is RequestState.ENDED]
        assert set(displaced) <= set(lesser)
        assert len(displaced) <= 1
        for each in displaced:
            assert (each.is_bulk, each.priority) == max((w.is_bulk, w.priority) for w in waiting)
    while (batch := desk.batcher.take(desk.now_s)) is not None:
        desk.finish(batch)
    assert Counter(answered(desk)) == Counter(accepted)
    assert desk.batcher.is_idle


# models whose repository sets priorities and timeouts


REJECT = Rules(queue=QueueRules(QueuePolicy(timeout_us=50_000)))
DELAY = Rules(queue=QueueRules(QueuePolicy(timeout_us=50_000, is_delaying=True)))


def expire(desk: Desk, now_s: float) -> list[str]:
    desk.now_s = now_s
    desk.batcher.expire(now_s)
    return desk.outcomes()


def test_request_that_has_waited_its_time_is_refused_though_it_brought_no_deadline() -> None:
    desk = Desk(batch_rows=1, rules=REJECT)
    desk.submit()
    running = desk.taken()
    desk.submit()
    assert desk.batcher.next_event_s() == 0.05
    assert expire(desk, 0.049) == []
    assert expire(desk, 0.05) == ["deadline_exceeded"]
    assert "it has waited 50 ms, as long as this model's configuration" in str(desk.answers[0][1])
    desk.finish(running)
    assert desk.outcomes() == ["deadline_exceeded", "ok"]  # what runs has waited no longer


@pytest.mark.parametrize(("rules", "outcome"), [(REJECT, ["deadline_exceeded"]), (DELAY, [])])
def test_batch_that_stands_ready_behind_a_run_waits_still(rules: Rules, outcome: list[str]) -> None:
    desk = Desk(batch_rows=1, rules=rules)
    desk.submit()
    desk.taken()
    desk.submit()
    assert desk.batcher.take(desk.now_s, is_ahead=True) is not None
    assert expire(desk, 0.05) == outcome


def test_delayed_requests_go_behind_all_others_of_their_priority() -> None:
    desk = Desk(batch_rows=1, rules=DELAY)
    desk.submit(priority=3)
    running = desk.taken()
    late = submit(desk, 2, priority=5)
    assert expire(desk, 0.05) == []
    young, lower = desk.submit(priority=5), desk.submit(priority=6)
    desk.finish(running, run_s=0.01)
    for _ in range(4):
        desk.finish(desk.taken(), run_s=0.001)
    assert answered(desk)[1:] == [young, *late, lower]
    assert desk.outcomes() == ["ok"] * 5


def test_priority_that_the_model_does_not_know_becomes_its_default() -> None:
    desk = Desk(rules=Rules(queue=QueueRules(levels=3, default_level=2)))
    seen = [desk.submit(priority=one).priority for one in (1, 3, 4, 0, DEFAULT_PRIORITY)]
    assert seen == [1, 3, 2, 2, 2]


def test_each_priority_has_its_own_policy_and_places() -> None:
    first = QueuePolicy(timeout_us=1000, max_queue=2)
    rules = Rules(queue=QueueRules(QueuePolicy(max_queue=1), 2, 2, ((1, first),)))
    desk = Desk(batch_rows=1, rules=rules)
    desk.submit()
    desk.taken()
    desk.submit(priority=2)
    with pytest.raises(Overloaded, match="1 requests of priority 2 wait at this model"):
        desk.submit(priority=2)
    submit(desk, 2, priority=1)
    with pytest.raises(Overloaded, match="2 requests of priority 1 wait at this model"):
        desk.submit(priority=1)
    assert expire(desk, 0.001) == ["deadline_exceeded"] * 2  # those of priority 1 alone


# bulk work beside online work


def test_bulk_work_leaves_half_of_the_limit_to_online_work() -> None:
    desk = Desk(limit_rows=16)
    submit(desk, 8, is_bulk=True)
    with pytest.raises(Overloaded, match="8 bulk requests of 8 rows"):
        desk.submit(is_bulk=True)
    submit(desk, 8)
    with pytest.raises(Overloaded, match="16 rows are in flight"):
        desk.submit(is_bulk=True)
    while desk.batcher.in_flight:
        desk.finish(desk.taken())
    assert (desk.batcher._requests.bulk, desk.batcher._requests.bulk_rows) == (0, 0)


def test_people_wait_for_the_bulk_run_that_has_begun_and_not_for_what_waits() -> None:
    desk = Desk(limit_rows=1000)
    submit(desk, 20, rows=8, is_bulk=True)
    assert desk.load().queue_us == 0
    desk.taken()
    assert desk.load().queue_us == 12_000  # half of a run of eight rows
    desk.submit(4)
    assert desk.load().queue_us == 12_000 + 16_000


def test_request_that_is_to_run_alone_shares_its_run_with_nothing() -> None:
    desk = Desk()
    before = desk.submit(is_bulk=True)
    suspects = submit(desk, 2, is_bulk=True, is_alone=True)
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


# bulk requests that run in parts while requests of people come


STEEP = profile((1, 0.010), (8, 0.024))
"""A row more takes 2 ms more, so that two rows take 1.2 times what one takes, and four 1.6 times."""


def numbered(desk: Desk, rows: int, **asked: bool) -> PendingRequest:
    """Submit a bulk request whose rows are numbered from 0."""
    x = Tensor.from_numpy("x", np.arange(rows, dtype=np.float32).reshape(rows, 1))
    return desk.submit(inputs=[x], is_bulk=True, **asked)


def beside_people() -> Desk:
    """Return an engine that has just answered a person."""
    desk = Desk(profile=STEEP)
    desk.submit()
    desk.finish(desk.taken())
    return desk


def run(desk: Desk, batch: Batch, run_s: float = 0.01) -> list[float]:
    """Run a batch as a model that doubles its input would; return the first numbers of its rows."""
    given = [request.inputs[0].to_numpy() for request in batch.requests]
    desk.finish(batch, run_s, [[Tensor.from_numpy("y", x * np.float32(2))] for x in given])
    return [float(row[0]) for x in given for row in x]


def check_answer(desk: Desk, request: PendingRequest) -> None:
    """Check that each numbered row was answered with its double, in its place."""
    (result,) = [result for one, result in desk.answers if one is request]
    assert not isinstance(result, Exception)
    doubled = result[0].to_numpy()[:, 0].tolist()
    assert doubled == [2.0 * at for at in range(len(doubled))]


def test_bulk_request_runs_whole_where_no_request_of_people_came_of_late() -> None:
    desk = Desk(profile=STEEP)
    request = numbered(desk, 8)
    assert run(desk, desk.taken()) == list(range(8))
    check_answer(desk, request)
    desk.submit()
    desk.finish(desk.taken())
    desk.now_s += ONLINE_S
    numbered(desk, 8)
    assert len(run(desk, desk.taken())) == 8


def test_people_s_request_waits_for_a_part_and_its_run_has_few_bulk_rows() -> None:
    desk = beside_people()
    bulk = numbered(desk, 8)
    first = desk.taken()
    online = desk.submit()
    assert desk.load().bulk_in_flight == 8
    assert run(desk, first, 0.015) == [0, 1]
    assert desk.load().bulk_in_flight == 6
    second = desk.taken()
    assert (second.requests, second.rows) == ([online, bulk], 2)  # its own, and one of the job's
    run(desk, second, 0.012)
    assert desk.answers[-1][0] is online
    while desk.batcher.in_flight:
        run(desk, desk.taken())
    check_answer(desk, bulk)


def test_part_that_fails_fails_the_request_once() -> None:
    desk = beside_people()
    request = numbered(desk, 8)
    run(desk, desk.taken())
    error = RunFailed("a bad row")
    desk.finish(desk.taken(), results=[error])
    assert desk.answers[-1] == (request, error)
    assert (desk.batcher.is_idle, desk.batcher._requests.bulk_rows) == (True, 0)


def test_request_that_is_to_run_alone_and_those_of_people_are_never_cut() -> None:
    desk = beside_people()
    numbered(desk, 8, is_alone=True)
    assert desk.taken().rows == 8
    desk = Desk(profile=STEEP)
    submit(desk, 2, rows=8)
    assert desk.taken().rows == 8


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_run_once_and_answered_in_its_place_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    desk = Desk(profile=STEEP, rules=Rules(instances=rng.choice([1, 2])), limit_rows=10_000)
    bulk: list[PendingRequest] = []
    running: list[Batch] = []
    ran = 0
    for _ in range(200):
        match rng.randrange(4):
            case 0:
                bulk.append(numbered(desk, rng.randrange(1, 20)))
            case 1 if rng.random() < 0.5:
                desk.submit()
            case 2 if running:
                ran += len(run(desk, running.pop(rng.randrange(len(running)))))
            case _:
                batch = desk.batcher.take(desk.now_s)
                running += [] if batch is None else [batch]
        desk.now_s += rng.choice([0.0, 0.01, 2.0])
        assert desk.batcher._requests.queue.bulk_rows >= 0
    while desk.batcher.in_flight or running:
        batch = desk.batcher.take(desk.now_s)
        running += [] if batch is None else [batch]
        ran += len(run(desk, running.pop(0)))
    for request in bulk:
        check_answer(desk, request)
    assert ran == sum(result[0].shape[0] for _, result in desk.answers)
    requests = desk.batcher._requests
    assert (requests.rows, requests.bulk_rows, requests.queue.rows) == (0, 0, 0)


# runs of one thread beside one another


def of_streams(rows: int = 4) -> Desk:
    """Return an engine whose model also runs on one thread, two runs beside one another."""
    of_all, of_one = profile((1, 0.010), (8, 0.080)), profile((1, 0.018), (4, 0.072))
    return Desk(profile=of_all, streams=Streams(2, of_one, rows))


def all_taken(desk: Desk) -> list[Batch]:
    """Take all that may run now."""
    return list(iter(lambda: desk.batcher.take(desk.now_s), None))


def kinds(batches: Sequence[Batch]) -> list[tuple[int, bool]]:
    return [(batch.rows, batch.is_stream) for batch in batches]


def test_many_requests_are_shared_out_among_runs_of_one_thread_each() -> None:
    desk = of_streams()
    submit(desk, 7)
    assert kinds(all_taken(desk)) == [(4, True), (3, True)]


@pytest.mark.parametrize(("crowd", "alone"), [(2, 1), (4, 2), (32, 5)])
def test_all_threads_work_together_again_after_a_few_alone(crowd: int, alone: int) -> None:
    desk = of_streams(32)
    submit(desk, crowd)
    batches, seen = all_taken(desk), []
    for _ in range(alone + 1):
        for batch in batches:
            desk.finish(batch)
        desk.submit()
        batches = all_taken(desk)
        seen += kinds(batches)
    assert seen == [(1, True)] * alone + [(1, False)]


def test_full_batch_waits_ready_made_behind_streams_and_never_behind_a_run_of_all_threads() -> None:
    desk = of_streams()
    desk.submit()
    (alone,) = all_taken(desk)
    submit(desk, 16)
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None
    desk.finish(alone)
    all_taken(desk)
    ahead = desk.batcher.take(desk.now_s, is_ahead=True)
    assert (ahead.rows, ahead.is_stream, ahead.has_begun) == (4, True, False)
    assert desk.batcher.take(desk.now_s, is_ahead=True) is None


# the background


@pytest.fixture
def desk() -> Desk:
    """An engine whose bulk requests run in the background."""
    return Desk(streams=Streams(2, profile((1, 0.015), (4, 0.050)), 4), has_background=True)


def behind(desk: Desk) -> Batch | None:
    return desk.batcher.take_background(desk.now_s)


def begun(desk: Desk) -> Batch:
    batch = behind(desk)
    assert (batch.is_background, batch.is_stream, batch.has_bulk) == (True, True, True)
    return batch


def test_bulk_requests_run_in_the_background_alone(desk: Desk) -> None:
    desk.submit(8, is_bulk=True)
    assert desk.batcher.take(desk.now_s) is None
    for _ in range(2):  # the rest of it follows when the first part has run
        part = begun(desk)
        assert (part.rows, behind(desk)) == (4, None)
        desk.finish(part)
    assert (len(desk.answers), desk.batcher.is_idle) == (1, True)
    without = Desk(has_background=True)
    without.submit(4, is_bulk=True)
    assert (behind(without), without.taken().rows) == (None, 4)


def test_people_have_all_slots_beside_the_background(desk: Desk) -> None:
    submit(desk, 3, rows=4, is_bulk=True)
    begun(desk), begun(desk)
    submit(desk, 2)
    batches = all_taken(desk)
    assert kinds(batches) == [(1, True)] * 2
    assert not any(batch.has_bulk or batch.is_background for batch in batches)


def test_run_in_the_background_says_nothing_of_how_fast_the_device_is(desk: Desk) -> None:
    limit = desk.batcher.limit.rows
    for _ in range(10):
        desk.submit(4, is_bulk=True)
        desk.finish(begun(desk), 10.0)
    assert desk.batcher.limit.rows == limit
    assert desk.batcher._slots.time_of_streams.predicted_s(4) == 0.050


def test_cancelled_call_leaves_the_background(desk: Desk) -> None:
    request = desk.submit(4, is_bulk=True)
    batch = begun(desk)
    stopped: list[bool] = []
    batch.stop = lambda: stopped.append(True)
    desk.batcher.cancel(request, desk.now_s)
    assert stopped == [True]
    desk.finish(batch)
    assert (desk.batcher.is_idle, desk.batcher._requests.bulk_rows) == (True, 0)


def test_background_that_stalls_the_event_loop_rests(desk: Desk) -> None:
    desk.batcher.background_stalled(desk.now_s)
    desk.submit(4, is_bulk=True)
    assert behind(desk) is None
    batch = desk.taken()
    assert not batch.is_background
    desk.finish(batch)
    desk.now_s += REST_S
    desk.submit(4, is_bulk=True)
    assert desk.batcher.take(desk.now_s) is None
    begun(desk)
