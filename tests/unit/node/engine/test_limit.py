from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.engine.limit import (
    MAX_QUEUE_S,
    STOCK_BATCHES,
    WINDOW_RUNS,
    ConcurrencyLimit,
)


class Driver:
    """Feeds whole windows to a limit, one a second."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self.now_s = 0.0

    def window(self, slowdown: float, rows_in_flight: int) -> None:
        for _ in range(WINDOW_RUNS):
            self.limit.ran(slowdown, rows_in_flight, self.now_s)
        self.now_s += 1.0

    def settle(self, slowdown: float = 1.0) -> None:
        """Let the long average be `slowdown`, and weigh a new sample 2/601, with nothing in flight."""
        for _ in range(301):
            self.window(slowdown, 0)


def limit_of(rows: int, ceiling: int = 1_000) -> ConcurrencyLimit:
    """Return a limit that has come to `rows`."""
    made = ConcurrencyLimit(full_rows=1, row_s=MAX_QUEUE_S / ceiling)
    made._limit = float(rows)
    assert (made.rows, made.ceiling) == (rows, ceiling)
    return made


def exact(limit: ConcurrencyLimit) -> float:
    return limit._limit


def test_a_steady_run_time_raises_the_limit_by_a_fifth_of_its_root() -> None:
    """Gradient2's vector (20, 100, 100) with our queue: 0.8*20 + 0.2*(20 + sqrt(20)) = 20.894."""
    limit = limit_of(20)
    Driver(limit).window(1.0, 20)
    assert exact(limit) == pytest.approx(20.894427191)
    assert limit.rows == 20


def test_a_threefold_slowdown_halves_what_the_new_limit_aims_at() -> None:
    """Gradient2's vector (20, 100, 300).

    The long average takes the sample in first: 1 + 2/601*2 = 1.00665557; the gradient is
    1.5*1.00665557/3 = 0.50332779; 0.8*20 + 0.2*(20 + sqrt(20))*0.50332779 = 18.463501.
    """
    limit = limit_of(20)
    driver = Driver(limit)
    driver.settle()
    driver.window(3.0, 20)
    assert exact(limit) == pytest.approx(18.46350121)


def test_a_fourfold_slowdown_is_cut_off_at_one_half() -> None:
    """Gradient2's vector (100, 100, 400): 1.5*1.00998/4 < 0.5; 0.8*100 + 0.2*(100 + 10)/2 = 91."""
    limit = limit_of(100)
    driver = Driver(limit)
    driver.settle()
    driver.window(4.0, 100)
    assert exact(limit) == pytest.approx(91.0)


def test_a_slowdown_within_the_tolerance_is_no_congestion() -> None:
    limit = limit_of(100)
    driver = Driver(limit)
    driver.settle()
    driver.window(1.5, 100)  # 1.5*1.0017/1.5 > 1
    assert exact(limit) == pytest.approx(102.0)


def test_the_limit_stays_while_less_than_half_of_it_is_in_flight() -> None:
    limit = limit_of(100)
    driver = Driver(limit)
    driver.settle()
    driver.window(9.0, 49)
    assert exact(limit) == 100.0
    driver.window(9.0, 50)
    assert exact(limit) == pytest.approx(91.0)


def test_the_long_average_falls_quickly_once_the_device_has_recovered() -> None:
    """After one window of 10 and two of 1 it is 0.95*5.5 and 0.95*3.816667: over twice as long, both times."""
    limit = limit_of(100)
    driver = Driver(limit)
    driver.window(10.0, 0)
    driver.window(1.0, 0)
    assert limit._long == pytest.approx(5.225)
    driver.window(1.0, 0)
    assert limit._long == pytest.approx(3.625833333)


def test_a_window_takes_ten_runs_and_a_second() -> None:
    limit = limit_of(100)
    for _ in range(9):
        limit.ran(1.0, 100, 0.0)
    assert exact(limit) == 100.0
    limit.ran(1.0, 100, 0.0)
    assert exact(limit) == 102.0
    for _ in range(50):
        limit.ran(1.0, 100, 0.999)
    assert exact(limit) == 102.0
    limit.ran(1.0, 100, 1.0)
    assert exact(limit) == pytest.approx(102.0 + 0.2 * math.sqrt(102.0))


def test_without_end_of_congestion_it_falls_to_one_row() -> None:
    """0.9*limit + 0.1*sqrt(limit) = limit at 1 row, from above."""
    for start in (1_000, 2):
        limit = limit_of(start)
        driver = Driver(limit)
        driver.settle()
        for exponent in range(300):
            driver.window(4.0**exponent, start)
        assert exact(limit) == pytest.approx(1.0, abs=0.001)


def test_it_never_rises_above_what_runs_in_its_time() -> None:
    limit = limit_of(2, ceiling=10)
    driver = Driver(limit)
    for _ in range(100):
        driver.window(1.0, 100)
    assert exact(limit) == 10.0


def test_it_starts_from_what_the_device_runs_in_its_time_by_the_profile() -> None:
    quick = ConcurrencyLimit(full_rows=16, row_s=0.001)
    assert (quick.rows, quick.ceiling) == (round(MAX_QUEUE_S / 0.001),) * 2
    slow = ConcurrencyLimit(full_rows=16, row_s=9.0)
    assert (slow.rows, slow.ceiling) == (16 * STOCK_BATCHES,) * 2
    unknown = ConcurrencyLimit(full_rows=1, row_s=0.0)
    assert (unknown.rows, unknown.ceiling) == (STOCK_BATCHES,) * 2


def test_runs_that_took_no_time_at_all_by_the_clock_do_no_harm() -> None:
    limit = limit_of(100)
    Driver(limit).window(0.0, 100)
    assert exact(limit) == 102.0


@given(
    st.integers(1, 4096),
    st.just(0.0) | st.floats(1e-12, 1),
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10_000), st.floats(0, 2)), max_size=200),
)
def test_whatever_is_measured_the_limit_is_a_number_between_one_and_its_ceiling(
    full_rows: int, row_s: float, runs: list[tuple[float, int, float]]
) -> None:
    limit = ConcurrencyLimit(full_rows=full_rows, row_s=row_s)
    now_s = 0.0
    for slowdown, rows, passed_s in runs:
        now_s += passed_s
        limit.ran(slowdown, rows, now_s)
        assert 1 <= limit.rows <= limit.ceiling
