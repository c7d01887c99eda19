from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.hedging import Hedging
from capamesh.router.resilience.latency_window import LatencyWindow
from capamesh.router.resilience.retry_budget import BudgetTerms, RetryBudget


def answered(budget: RetryBudget, sent_s: float) -> None:
    """Count one as the picker does that has its answer."""
    budget.quiet += sent_s > budget.asked_s


@pytest.mark.parametrize("rate_per_s", [0.1, 1, 5, 50, 500])
def test_fault_of_all_nodes_adds_a_quarter_at_most_and_the_reserve_at_any_rate(
    rate_per_s: float,
) -> None:
    budget, hedging = RetryBudget(), Hedging(LatencyWindow())
    requests, extra = 10_000, 0
    for n in range(requests):
        now_s = n / rate_per_s
        budget.deposit(now_s)
        hedging.sent(now_s)
        extra += hedging.try_hedge(now_s)
        extra += budget.try_withdraw(now_s)
        extra += budget.try_withdraw(now_s)
    assert extra <= 0.25 * requests + 50


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "before_s"),
    [
        *((0.1, burst, 0.0) for burst in (3, 30)),
        *((5, *each) for each in ((3, 120.0), (150, 0.0), (150, 120.0))),
        *((250, *each) for each in ((250, 0.0), (250, 120.0), (1000, 120.0))),
    ],
)
def test_one_node_of_three_dies_with_its_part_of_a_burst_and_all_of_it_is_sent_again(
    rate_per_s: float, burst: int, before_s: float
) -> None:
    budget = RetryBudget()
    for kill in range(3):  # it comes back, and dies again
        start_s = kill * (before_s + 100.0)
        for n in range(int(rate_per_s * max(before_s, 100.0 if kill else 0.0))):
            budget.deposit(start_s + n / rate_per_s)
            answered(budget, start_s + n / rate_per_s)
        end_s = start_s + before_s
        for _ in range(burst):
            budget.deposit(end_s)
        lost = -(-burst // 3)
        assert sum(budget.try_withdraw(end_s) for _ in range(lost)) == lost


def test_clock_that_is_set_back_neither_wedges_nor_pays() -> None:
    budget = RetryBudget()
    for _ in range(500):
        budget.deposit(1000.0)
    for n in range(1000):  # readings out of order are no time that passes
        budget.balance(1000.0 - n % 2 * 0.5)
    assert budget.balance(1000.0) == pytest.approx(150.0)
    assert budget.balance(0.0) == pytest.approx(150.0)
    assert budget.balance(10.0) == pytest.approx(86.788, abs=0.001)


@settings(max_examples=70, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("ddddww"), st.floats(0.0, 2.0)), max_size=300),
    share=st.floats(0.0, 1.0),
    reserve=st.floats(0.0, 5.0),
)
def test_no_order_of_events_withdraws_more_than_the_bound(
    steps: list[tuple[str, float]], share: float, reserve: float
) -> None:
    budget = RetryBudget(BudgetTerms(share=share, ttl_s=1.0, reserve=reserve))
    now_s, deposits, withdrawals = 0.0, 0, 0
    for step, passed_s in steps:
        now_s += passed_s
        if step == "d":
            budget.deposit(now_s)
            answered(budget, now_s)
            deposits += 1
        else:
            withdrawals += budget.try_withdraw(now_s)
        assert budget.balance(now_s) >= 0.0
        assert withdrawals <= share * deposits + reserve * (1 + deposits // 20) + 1e-6


def window_of(latencies_s: list[float], now_s: float = 0.0) -> LatencyWindow:
    window = LatencyWindow()
    for latency_s in latencies_s:
        window.add(latency_s, now_s)
    return window


TYPICAL = [0.1] * 50 + [0.2] * 46 + [0.4] * 4
"""Half take 100 ms, 96 % at most 200 ms, the rest 400 ms."""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=400))
def test_no_order_of_events_hedges_more_than_five_percent(steps: list[bool]) -> None:
    hedging, requests, hedges = Hedging(LatencyWindow()), 0, 0
    for is_request in steps:
        if is_request:
            hedging.sent(0.0)
            requests += 1
        else:
            hedges += hedging.try_hedge(0.0)
        assert 20 * hedges <= requests


@pytest.mark.parametrize(
    ("expected_s", "remaining_s", "limit_s"),
    [
        (0.1, math.inf, 1.2),  # three times the 99th percentile
        (0.5, math.inf, 2.0),  # a slow device: four times what it should take
        (20.0, math.inf, 30.0),  # no longer than that
        (40.0, math.inf, 60.0),  # but for those that take longer themselves
        (0.1, 5.0, 1.2),
        (0.1, 1.1, 0.9),  # room for another attempt of 200 ms, as 95 of 100 take at most
        (0.1, 0.7, 1.2),  # no room: the deadline is too tight, which is no fault of the node
    ],
)
def test_silence_is_a_fault_after(expected_s: float, remaining_s: float, limit_s: float) -> None:
    hedging = Hedging(window_of(TYPICAL))
    assert hedging.first_byte_limit_s(0.0, expected_s, remaining_s) == pytest.approx(
        limit_s, rel=0.05
    )


@settings(max_examples=70, deadline=None)
@given(
    latencies_s=st.lists(st.floats(0.0, 100.0), max_size=60),
    expected_s=st.floats(0.0, 100.0),
    remaining_s=st.one_of(st.floats(-1.0, 1000.0), st.just(math.inf)),
)
def test_no_replica_is_blamed_before_twice_its_expected_time_whatever_the_deadline(
    latencies_s: list[float], expected_s: float, remaining_s: float
) -> None:
    hedging = Hedging(window_of(latencies_s))
    limit_s = hedging.first_byte_limit_s(0.0, expected_s, remaining_s)
    assert limit_s >= max(0.05, min(2 * expected_s, 30.0, 1.5 * expected_s or 30.0))
    assert limit_s <= max(30.0, 150.1 * 1.05)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    middle=st.floats(1e-3, 10.0),
    sigma=st.floats(0.05, 1.5),
    q=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_quantile_is_within_five_percent_of_the_true_one(
    seed: int, middle: float, sigma: float, q: float
) -> None:
    rng = random.Random(seed)
    samples = [rng.lognormvariate(math.log(middle), sigma) for _ in range(400)]
    window = window_of(samples, 1.0)
    truth = float(np.quantile(np.clip(samples, 1e-5, 3600), q, method="inverted_cdf"))
    assert window.quantile(q, 2.0) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.01, 1.0), (1.0, 0.01)])
def test_five_seconds_after_a_change_nothing_is_left_of_what_was_before(
    before_s: float, after_s: float
) -> None:
    window = LatencyWindow()
    for n in range(2000):
        window.add(before_s, n / 100)
    for n in range(2000, 2501):
        window.add(after_s, n / 100)
    for q in (0.01, 0.5, 0.99):
        assert window.quantile(q, 25.01) == pytest.approx(after_s, rel=0.05)


def test_clock_that_is_set_back_wedges_nothing() -> None:
    window = LatencyWindow()
    for n in range(500):
        window.add(0.01, 1000.0 + n / 100)
    for n in range(1001):
        window.add(1.0, n / 100)
    assert window.quantile(0.01, 10.1) == pytest.approx(1.0, rel=0.05)
    quiet = window_of([0.01], 1000.0)
    assert quiet.quantile(0.5, 0.0) == pytest.approx(0.01, rel=0.05)
    assert quiet.quantile(0.5, 61.0) == 0.0
