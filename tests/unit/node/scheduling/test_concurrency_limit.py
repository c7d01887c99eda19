from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.scheduling.concurrency_limit import (
    FALL_S,
    MAX_QUEUE_S,
    MOST_SPEED,
    RISE_S,
    STOCK_BATCHES,
    ConcurrencyLimit,
)


class Device:
    """Runs a row at a time, each in 10 ms of a device that has all its speed, and tells a limit of it."""

    def __init__(self) -> None:
        self.limit = ConcurrencyLimit(full_rows=1, row_s=0.01)
        self.now_s = 0.0

    def run(self, seconds: float, *, slowdown: float = 1.0, pause_s: float = 0.0) -> int:
        """Run rows for so long, with pauses between them; return the limit."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s += pause_s + 0.01 * slowdown
            self.limit.ran(slowdown, 0.01 * slowdown, self.now_s)
        return self.limit.rows


def test_limit_starts_from_what_the_device_runs_in_its_time_by_the_profile() -> None:
    assert ConcurrencyLimit(full_rows=16, row_s=0.001).rows == round(MAX_QUEUE_S / 0.001)
    assert ConcurrencyLimit(full_rows=16, row_s=9.0).rows == 16 * STOCK_BATCHES
    assert ConcurrencyLimit(full_rows=1, row_s=0.0).rows == STOCK_BATCHES


def test_one_run_moves_the_speed_by_its_part_of_the_time_constant() -> None:
    limit = ConcurrencyLimit(full_rows=1, row_s=0.01)
    limit.ran(4.0, FALL_S, 10.0)
    down = 1 - 0.75 * (1 - math.exp(-1))
    assert limit.speed == pytest.approx(down)
    assert limit.rows == round(200 * down)
    limit.ran(1.0, 0.01, 10.0 + RISE_S / 2)
    up = down + (1 - down) * (1 - math.exp(-0.5))
    assert limit.speed == pytest.approx(up)
    assert limit.rows == round(200 * up)


def test_device_that_stays_slow_is_never_taken_for_normal() -> None:
    device = Device()
    assert device.run(5) == 200
    assert device.run(2, slowdown=10) == pytest.approx(20, abs=1)
    assert device.run(600, slowdown=10) == 20


def test_limit_is_back_within_some_seconds_of_the_device() -> None:
    device = Device()
    device.run(25, slowdown=10)
    assert device.run(0.5) > 100
    assert device.run(2.5) > 195


def test_limit_follows_when_next_to_nothing_is_in_flight() -> None:
    device = Device()
    device.run(60, slowdown=10, pause_s=1.0)
    assert device.limit.rows < 30
    device.run(10, pause_s=1.0)
    assert device.limit.rows > 190


def test_one_hiccup_of_an_idle_device_says_little() -> None:
    device = Device()
    device.run(30, pause_s=1.0)
    device.run(0.1, slowdown=10, pause_s=30.0)
    assert device.limit.rows > 140


def test_average_is_of_rows_a_second_and_not_of_runs() -> None:
    """Nine runs in ten take 10 ms and one 100 ms: 10 rows in 190 ms, so 105 in two seconds."""
    device = Device()
    for _ in range(100):
        device.run(0.09)
        device.run(0.1, slowdown=10)
    assert 60 < device.limit.rows < 105  # lower, for it falls sooner than it rises


def test_device_that_is_faster_than_its_profile_may_have_more() -> None:
    device = Device()
    assert device.run(10, slowdown=0.5) == 400
    assert device.run(20, slowdown=0.01) == 200 * MOST_SPEED


def test_slow_models_stock_of_batches_is_as_much_work_on_a_slower_device() -> None:
    limit = ConcurrencyLimit(full_rows=1, row_s=4.0)
    assert limit.rows == 8
    for at in range(20):
        limit.ran(2.0, 8.0, 8.0 * at)
    assert limit.rows == 4
    for at in range(40):
        limit.ran(0.5, 2.0, 200 + 2.0 * at)
    assert limit.rows == 8


def test_profile_that_was_too_slow_lends_no_longer_stock_once_the_device_has_shown_better() -> None:
    limit = ConcurrencyLimit(full_rows=1, row_s=4.0)
    for at in range(40):
        limit.ran(0.5, 2.0, 2.0 * at)
    for at in range(40):
        limit.ran(1.0, 4.0, 100 + 4.0 * at)
    assert limit.rows == 4


def test_model_without_a_profile_goes_by_what_its_runs_take() -> None:
    limit = ConcurrencyLimit(full_rows=2, row_s=0.0)
    assert limit.rows == 16
    limit.learnt(0.01)
    assert limit.rows == 200
    limit.learnt(0.1)
    assert limit.rows == 20


def test_runs_that_took_no_time_at_all_by_the_clock_do_no_harm() -> None:
    limit = ConcurrencyLimit(full_rows=1, row_s=0.01)
    for _ in range(100):
        limit.ran(0.0, 0.0, 5.0)
    assert limit.rows == 200


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
