from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.hedging import Hedging
from capamesh.router.resilience.latency_window import LatencyWindow


def window_of(*latencies_s: float) -> LatencyWindow:
    window = LatencyWindow()
    for latency_s in latencies_s:
        window.add(latency_s, 0.0)
    return window


TYPICAL = [0.1] * 50 + [0.2] * 46 + [0.4] * 4
"""Half take 100 ms, 96 % at most 200 ms, the rest 400 ms."""


def test_twenty_requests_pay_for_one_hedge() -> None:
    hedging = Hedging(LatencyWindow())
    granted = []
    for n in range(1, 101):
        hedging.sent(0.0)
        if hedging.try_hedge(0.0):
            granted.append(n)
    assert granted == [20, 40, 60, 80, 100]


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


def test_hedges_do_not_feed_themselves_when_all_become_slow() -> None:
    window = window_of(*[0.01] * 200)
    hedging, hedges = Hedging(window), 0
    for n in range(2000):  # every request takes ten times as long as the percentile knows
        now_s = n / 1000
        hedging.sent(now_s)
        delay_s = hedging.delay_s(now_s)
        assert delay_s is not None
        latency_s = 0.1 * 1.001**n
        if latency_s > delay_s:
            hedges += hedging.try_hedge(now_s)
        window.add(latency_s, now_s)
    assert 20 <= hedges <= 100


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
    hedging = Hedging(window_of(*TYPICAL))
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
    hedging = Hedging(window_of(*latencies_s))
    limit_s = hedging.first_byte_limit_s(0.0, expected_s, remaining_s)
    assert limit_s >= max(0.05, min(2 * expected_s, 30.0, 1.5 * expected_s or 30.0))
    assert limit_s <= max(30.0, 150.1 * 1.05)
