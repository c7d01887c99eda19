from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.retry_budget import BudgetTerms, RetryBudget

NO_RESERVE = BudgetTerms(reserve_per_s=0.0)


def withdrawn(budget: RetryBudget, now_s: float) -> int:
    return sum(budget.try_withdraw(now_s) for _ in range(1000))


def test_the_reserve_is_there_from_the_first_and_refills_by_time() -> None:
    budget = RetryBudget()
    assert withdrawn(budget, 0.0) == 100  # 10 a second for the 10 s of the window
    assert withdrawn(budget, 0.05) == 0
    assert withdrawn(budget, 1.01) == 10
    assert withdrawn(budget, 1000.0) == 100


def test_five_requests_pay_for_one_retry() -> None:
    budget = RetryBudget(NO_RESERVE)
    for n in range(100):
        budget.deposit(0.0)
        assert budget.try_withdraw(0.0) == (n % 5 == 4 or n == 4)


def test_deposits_are_worth_less_with_time() -> None:
    budget = RetryBudget(NO_RESERVE)
    for _ in range(500):
        budget.deposit(0.0)
    assert budget.balance(0.0) == pytest.approx(100.0)
    assert budget.balance(10.0) == pytest.approx(36.788, abs=0.001)
    assert withdrawn(budget, 60.0) == 0


def test_at_a_steady_rate_twenty_percent_may_be_retried() -> None:
    budget = RetryBudget(NO_RESERVE)
    retried = 0
    for n in range(10_000):
        budget.deposit(n / 1000)
        retried += budget.try_withdraw(n / 1000)
    assert retried == pytest.approx(2000, abs=2)


def test_a_refused_withdrawal_takes_nothing() -> None:
    budget = RetryBudget(NO_RESERVE)
    budget.deposit(0.0)
    before = budget.balance(0.0)
    assert not budget.try_withdraw(0.0)
    assert budget.balance(0.0) == before


def test_a_clock_that_is_set_back_neither_wedges_nor_pays() -> None:
    budget = RetryBudget()
    assert withdrawn(budget, 1000.0) == 100
    for n in range(1000):  # readings out of order are no time that passes
        budget.balance(1000.0 - n % 2 * 0.5)
    assert withdrawn(budget, 1000.0) == 0
    assert withdrawn(budget, 0.0) == 0
    assert withdrawn(budget, 1.01) == 10


@settings(max_examples=70, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("ddddww"), st.floats(0.0, 2.0)), max_size=300),
    share=st.floats(0.0, 1.0),
    reserve_per_s=st.floats(0.0, 5.0),
)
def test_no_order_of_events_withdraws_more_than_the_bound(
    steps: list[tuple[str, float]], share: float, reserve_per_s: float
) -> None:
    terms = BudgetTerms(share=share, ttl_s=1.0, reserve_per_s=reserve_per_s)
    budget, now_s, deposits, withdrawals = RetryBudget(terms), 0.0, 0, 0
    for step, passed_s in steps:
        now_s += passed_s
        if step == "d":
            budget.deposit(now_s)
            deposits += 1
        else:
            withdrawals += budget.try_withdraw(now_s)
        assert budget.balance(now_s) >= 0.0
        assert withdrawals <= share * deposits + reserve_per_s * (now_s + 1.0) + 1e-6
