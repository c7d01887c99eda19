from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.hedging import Hedging
from capamesh.router.resilience.latency_window import LatencyWindow
from capamesh.router.resilience.retry_budget import BudgetTerms, RetryBudget


def withdrawn(budget: RetryBudget, now_s: float) -> int:
    return sum(budget.try_withdraw(now_s) for _ in range(1000))


def answered(budget: RetryBudget, sent_s: float) -> None:
    """Count one as the picker does that has its answer."""
    budget.quiet += sent_s > budget.asked_s


@pytest.mark.parametrize(("requests", "retries"), [(19, 3), (20, 50)])
def test_twenty_requests_in_a_row_without_a_retry_make_the_reserve_whole(
    requests: int, retries: int
) -> None:
    budget = RetryBudget()
    withdrawn(budget, 0.0)
    for n in range(requests):  # one each five minutes: it does not leak
        budget.deposit(300.0 * n)
        answered(budget, 300.0 * n + 1.0)
    assert withdrawn(budget, 1e6) == retries


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
        (0.1, 3, 0.0),
        (0.1, 30, 0.0),
        (5, 3, 120.0),
        (5, 150, 0.0),
        (5, 150, 120.0),
        (250, 250, 0.0),
        (250, 250, 120.0),
        (250, 1000, 120.0),
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
