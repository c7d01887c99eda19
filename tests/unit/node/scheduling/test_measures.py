"""What an engine measures, and what becomes of callers when a device is slow."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest
import virtual_time
from engine_desk import F32
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.contract.buckets import Buckets
from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.concurrency_limit import (
    MAX_QUEUE_S,
    MOST_SPEED,
    STOCK_BATCHES,
    ConcurrencyLimit,
)
from capamesh.node.scheduling.latency import PAST_S, LatencyByLoad, QueueDelay
from capamesh.node.scheduling.pending_request import Batch
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.service_time import FIRST_GUESS_S, ServiceTime
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Tensor, TensorSpec

PROFILE = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.024)))


def test_first_run_without_a_profile_is_the_measure_and_later_ones_move_it() -> None:
    time = ServiceTime(None)
    assert (time.run_s, time.predicted_s(4)) == (0.0, FIRST_GUESS_S)
    assert time.ran(4, 0.040) == 1.0
    assert time.run_s == 0.040
    assert [time.predicted_s(rows) for rows in (4, 8)] == pytest.approx([0.040, 0.080])
    time.ran(4, 0.080)
    assert time.predicted_s(4) == pytest.approx(0.044)


@pytest.mark.parametrize(
    ("profile", "before_s", "run_s", "predicted_s"),
    [(ServiceProfile((ProfilePoint(1, 0.002),)), None, 16.0, 0.0038), (None, 60.0, 6000.0, 114.0)],
)
def test_run_that_was_stopped_for_long_counts_for_ten_of_what_was_predicted(
    profile: ServiceProfile | None, before_s: float | None, run_s: float, predicted_s: float
) -> None:
    time = ServiceTime(profile)
    if before_s is not None:  # the first of a model that was never measured counts as it is
        time.ran(1, before_s)
        assert time.predicted_s(1) == pytest.approx(before_s)
    time.ran(1, run_s)
    assert time.predicted_s(1) == pytest.approx(predicted_s)


@given(
    st.sampled_from([None, PROFILE]),
    st.lists(st.tuples(st.integers(0, 2_000), st.floats(0, 1e6)), max_size=50),
    st.integers(0, 5_000),
)
def test_no_history_makes_a_prediction_negative_or_endless(
    profile: ServiceProfile | None, runs: list[tuple[int, float]], rows: int
) -> None:
    time = ServiceTime(profile)
    for ran_rows, seconds in runs:
        assert time.ran(ran_rows, seconds) >= 0
    assert 0 <= time.predicted_s(rows) < float("inf")
    assert 0 <= time.run_s <= 1e6


def test_latency_at_a_load_is_smoothed_and_of_the_nearest_known_power_of_two() -> None:
    latency = LatencyByLoad()
    assert latency.estimate_s(5) == 0.0
    latency.answered(5, 0.100)
    assert latency.estimate_s(4) == latency.estimate_s(7) == 0.100
    latency.answered(4, 0.200)
    assert latency.estimate_s(6) == pytest.approx(0.110)
    assert latency.estimate_s(1) == latency.estimate_s(100_000) == pytest.approx(0.110)
    latency.answered(64, 0.5)
    assert latency.estimate_s(32) == 0.5  # one power away, where 4 is three
    assert latency.estimate_s(1) == pytest.approx(0.110)
    latency.answered(64, 100.0)  # counts for ten of those before
    assert latency.estimate_s(64) == pytest.approx(0.5 + 0.1 * (5.0 - 0.5))


def told_s(delay: QueueDelay, now_s: float) -> float:
    delay.seen_s = now_s
    return delay.seconds()


def test_delay_in_the_queue_falls_to_nothing_while_nobody_comes_and_begins_anew() -> None:
    delay = QueueDelay()
    delay.observe(0.4, 1.0)
    delay.observe(9.0, 1.0)  # of a run that ends at the same time, it counts for nothing
    falling = [told_s(delay, 1.0 + PAST_S * part) for part in (0.25, 0.5, 1.0, 9.0)]
    assert falling == pytest.approx([0.3, 0.2, 0.0, 0.0])
    delay.observe(0.1, 1.0 + PAST_S)
    assert told_s(delay, 1.0 + PAST_S) == 0.1


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9)), max_size=20))
def test_delay_is_within_those_that_were_told(told: list[tuple[float, float]]) -> None:
    delay = QueueDelay()
    for longest_s, now_s in told:
        delay.observe(longest_s, now_s)
        known_s = told_s(delay, now_s)
        assert math.isfinite(known_s)
        assert 0.0 <= known_s <= max(each for each, _ in told) * (1 + 1e-9)


def test_bound_belongs_to_the_bucket_below_it_and_the_last_bucket_has_no_bound() -> None:
    histogram = Buckets((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 5):
        histogram.add(value)
    assert histogram.snapshot() == {"bounds": [1, 2, 4], "counts": [2, 2, 1, 1], "sum": 13.5}


def test_limit_starts_from_what_the_device_runs_in_its_time_by_the_profile() -> None:
    assert ConcurrencyLimit(full_rows=16, row_s=0.001).rows == round(MAX_QUEUE_S / 0.001)
    assert ConcurrencyLimit(full_rows=16, row_s=9.0).rows == 16 * STOCK_BATCHES
    assert ConcurrencyLimit(full_rows=1, row_s=0.0).rows == STOCK_BATCHES


@given(
    st.integers(1, 4096),
    st.just(0.0) | st.floats(1e-9, 10),
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100), st.floats(-1, 2)), max_size=200),
)
def test_queue_is_at_least_a_row_and_no_longer_than_its_time_whatever_is_measured(
    full_rows: int, row_s: float, runs: list[tuple[float, float, float]]
) -> None:
    limit = ConcurrencyLimit(full_rows=full_rows, row_s=row_s)
    most_s = max(MAX_QUEUE_S, full_rows * STOCK_BATCHES * row_s)
    now_s = 0.0
    for slowdown, run_s, passed_s in runs:
        now_s += passed_s
        limit.ran(slowdown, run_s, now_s)
        assert 0 < limit.speed <= MOST_SPEED
        assert limit.rows >= 1
        assert limit.rows == 1 or limit.rows * limit.row_s <= most_s * 1.01 + limit.row_s / 2


SLOW_FROM_S, SLOW_TO_S, END_S = 5.0, 30.0, 40.0
PAUSE_S = 0.05
"""Before who was refused comes again."""


class World:
    """An engine, a device and callers that ask for a row each."""

    def __init__(self, batch_rows: int, run_s: float) -> None:
        self.rng = random.Random(1)
        specs = (TensorSpec("x", F32, (-1, 1)),), (TensorSpec("y", F32, (-1, 1)),)
        plan = BatchPlan(*specs, is_batching=batch_rows > 1, batch_rows=batch_rows)
        points = (ProfilePoint(1, run_s / 2), ProfilePoint(batch_rows, run_s))
        self.profile = ServiceProfile(points if batch_rows > 1 else points[1:])
        self.batcher = DynamicBatcher(plan, Rules(), self.profile, max_in_flight=512)
        self.answered: list[tuple[float, float]] = []
        """When, and after how long."""
        self.refused_after_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.limits: dict[float, int] = {}

    async def run(self, callers: int) -> None:
        self.loop = asyncio.get_running_loop()
        tasks = [self.loop.create_task(self._call()) for _ in range(callers)]
        for tenth in range(int(END_S * 10)):
            self.limits[tenth / 10] = self.batcher.limit.rows
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()

    async def _call(self) -> None:
        await asyncio.sleep(self.rng.random())
        while True:
            asked_s, end = self.loop.time(), self.loop.create_future()
            request = PendingRequest(
                (Tensor("x", F32, (1, 1), bytes(4)),),
                (),
                lambda _, result, end=end: end.set_result(result),
                arrived_s=asked_s,
                deadline_s=asked_s + 30,
            )
            try:
                self.batcher.submit(request, asked_s)
            except CapameshError as error:
                end.set_result(error)
            self._pump()
            result = await end
            waited_s = self.loop.time() - asked_s
            if isinstance(result, CapameshError):
                self.outcomes[result.code] += 1
                self.refused_after_s.append(waited_s)
                await asyncio.sleep(PAUSE_S * self.rng.uniform(0.5, 1.5))
            else:
                self.outcomes["ok"] += 1
                self.answered.append((self.loop.time(), waited_s))
                await asyncio.sleep(0.001)

    def _pump(self) -> None:
        now_s = self.loop.time()
        batch = self.batcher.take(now_s)
        if batch is not None:
            run_s = self.profile.seconds_at(batch.rows) * self.rng.uniform(0.8, 1.3)
            run_s *= 10 if SLOW_FROM_S <= now_s < SLOW_TO_S else 1
            self.loop.call_later(run_s, self._end, batch, run_s)

    def _end(self, batch: Batch, run_s: float) -> None:
        y = Tensor("y", F32, (1, 1), bytes(4))
        self.batcher.finished(batch, [[y]] * len(batch.requests), self.loop.time(), run_s=run_s)
        self._pump()


@pytest.mark.seeds
@pytest.mark.parametrize("callers", [60, 400])
@pytest.mark.parametrize(
    ("batch_rows", "run_s"), [(1, 0.010), (8, 0.050)], ids=["a row at a time", "eight"]
)
def test_slow_device_keeps_its_queue_short(callers: int, batch_rows: int, run_s: float) -> None:
    world = World(batch_rows, run_s)
    virtual_time.run(world.run(callers))
    full = round(MAX_QUEUE_S / run_s * batch_rows)
    slow = round(full / 10)
    assert set(world.outcomes) <= {"ok", "overloaded"}
    assert max(waited_s for _, waited_s in world.answered) <= 3.0
    assert max(world.refused_after_s) <= 3.0
    settled = [limit for at_s, limit in world.limits.items() if 7 <= at_s < SLOW_TO_S]
    assert 0.7 * slow <= min(settled) <= max(settled) <= 1.3 * slow
    before = world.limits[SLOW_FROM_S - 0.1]
    assert before == pytest.approx(full, rel=0.15)
    assert world.limits[SLOW_TO_S + 4.0] >= 0.9 * before
    # it has work all the time, and whoever was there is refused for the slow device alone
    slow_answers = sum(7 <= at_s < SLOW_TO_S for at_s, _ in world.answered)
    assert slow_answers >= 0.85 * (SLOW_TO_S - 7) * batch_rows / (10 * run_s)
