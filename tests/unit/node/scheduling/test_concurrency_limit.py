from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.scheduling.concurrency_limit import (
    MAX_QUEUE_S,
    MOST_SPEED,
    STOCK_BATCHES,
    ConcurrencyLimit,
)


def test_limit_starts_from_what_the_device_runs_in_its_time_by_the_profile() -> None:
    assert ConcurrencyLimit(full_rows=16, row_s=0.001).rows == round(MAX_QUEUE_S / 0.001)
    assert ConcurrencyLimit(full_rows=16, row_s=9.0).rows == 16 * STOCK_BATCHES
    assert ConcurrencyLimit(full_rows=1, row_s=0.0).rows == STOCK_BATCHES


def test_slow_models_stock_of_batches_is_as_much_work_on_a_slower_device() -> None:
    limit = ConcurrencyLimit(full_rows=1, row_s=4.0)
    assert limit.rows == 8
    for at in range(20):
        limit.ran(2.0, 8.0, 8.0 * at)
    assert limit.rows == 4
    for at in range(40):
        limit.ran(0.5, 2.0, 200 + 2.0 * at)
    assert limit.rows == 8


def test_model_without_a_profile_goes_by_what_its_runs_take() -> None:
    limit = ConcurrencyLimit(full_rows=2, row_s=0.0)
    assert limit.rows == 16
    limit.learnt(0.01)
    assert limit.rows == 200
    limit.learnt(0.1)
    assert limit.rows == 20


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
