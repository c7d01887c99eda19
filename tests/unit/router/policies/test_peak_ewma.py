from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import Draws, fleet, picks, replica

from capamesh.router.fleet.latency_ewma import (
    DEFAULT_RTT_S,
    cost_s,
    load_s,
    observe,
    penalise,
)
from capamesh.router.policies.peak_ewma import PeakEwma

E = 1 / math.e


def test_first_latency_is_the_average_and_a_higher_one_replaces_it_at_once() -> None:
    one = replica()
    observe(one, 0.1, 100.0)
    assert cost_s(one, 100.0) == 0.1
    observe(one, 1.0, 100.001)
    assert cost_s(one, 100.001) == 1.0


def test_lower_latency_draws_it_down_by_the_time_that_has_passed() -> None:
    one = replica()
    observe(one, 1.0, 0.0)
    observe(one, 0.1, 10.0)  # one time constant: w = 1/e
    assert one.peak_cost_s == pytest.approx(0.1 * (1 - E) + 1.0 * E)
    assert one.peak_cost_s == pytest.approx(0.4310914971)
    observe(one, 0.1, 10.0)  # no time: no weight
    assert one.peak_cost_s == pytest.approx(0.4310914971)


def test_average_fades_while_nothing_is_seen_and_reading_changes_nothing() -> None:
    one = replica()
    observe(one, 0.5, 0.0)
    assert cost_s(one, 10.0) == pytest.approx(0.5 * E)
    assert cost_s(one, 20.0) == pytest.approx(0.5 * E * E)
    assert cost_s(one, 10.0) == pytest.approx(0.5 * E)
    assert (one.peak_cost_s, one.peak_seen_s) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("asked_s", "counted_s"), [(0.001, 5.0), (5.0, 5.0), (20.0, 20.0), (1e9, 300.0)]
)
def test_failure_counts_as_five_seconds_at_least_and_five_minutes_at_most(
    asked_s: float, counted_s: float
) -> None:
    one = replica()
    observe(one, 0.002, 0.0)
    penalise(one, asked_s, 1.0)
    assert cost_s(one, 1.0) == counted_s


def test_load_is_the_average_for_each_request_in_flight_and_the_new_one() -> None:
    one = replica(rif=3)
    observe(one, 0.25, 0.0)
    assert load_s(one, 0.0) == 1.0
    assert load_s(one, 10.0) == pytest.approx(E)


def test_replica_that_was_never_measured_is_tried_once_and_counts_as_a_second_meanwhile() -> None:
    one = replica()
    assert cost_s(one, 50.0) == DEFAULT_RTT_S == 1.0
    assert load_s(one, 50.0) == 0.0
    one.rif = 2
    assert load_s(one, 50.0) == 3.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(-1, 50), st.booleans()), min_size=1),
    st.floats(0, 100),
)
def test_average_stays_between_nothing_and_the_highest_seen_though_the_clock_be_set_back(
    seen: list[tuple[float, float, bool]], later_s: float
) -> None:
    one = replica()
    now_s = 1000.0
    highest_s = 0.0
    for latency_s, step_s, is_failure in seen:
        now_s += step_s
        (penalise if is_failure else observe)(one, latency_s, now_s)
        highest_s = max(highest_s, latency_s, 5.0 if is_failure else 0.0)
        assert 0 <= cost_s(one, now_s) <= highest_s * (1 + 1e-12)
        assert cost_s(one, now_s - later_s) <= highest_s * (1 + 1e-12)
    assert cost_s(one, now_s + later_s) <= cost_s(one, now_s)


def test_less_latency_for_its_requests_wins_of_the_two_drawn() -> None:
    replicas = fleet([2, 9])
    observe(replicas[0], 0.04, 0.0)
    observe(replicas[1], 0.01, 0.0)
    for draws in ((0.0, 0.0), (0.9, 0.0)):
        assert picks(PeakEwma(Draws(*draws)), replicas, 1) == "1"  # 0.10 s against 0.12 s
    observe(replicas[1], 0.02, 0.0)
    for draws in ((0.0, 0.0), (0.9, 0.0)):
        assert picks(PeakEwma(Draws(*draws)), replicas, 1) == "0"  # 0.12 s against 0.20 s


def test_newcomer_gets_one_request_and_no_other_until_it_has_answered() -> None:
    replicas = fleet("abc")
    for known in replicas[:2]:
        observe(known, 0.01, 0.0)
    policy = PeakEwma(random.Random(1))
    assert "c" in picks(policy, replicas, 10)
    replicas[2].rif = 1
    assert "c" not in picks(policy, replicas, 50)
    replicas[2].rif = 0
    observe(replicas[2], 0.01, 0.0)
    assert set(picks(policy, replicas, 50)) == {"a", "b", "c"}


def test_replica_that_fails_fast_is_left_alone_for_a_while() -> None:
    replicas = fleet("abc")
    for one in replicas:
        observe(one, 0.01, 0.0)
    penalise(replicas[0], 0.001, 0.0)
    policy = PeakEwma(random.Random(1))
    assert picks(policy, replicas, 30, now_s=0.0).count("a") == 0
    for one in replicas[1:]:
        observe(one, 0.01, 80.0)
    assert picks(policy, replicas, 30, now_s=80.0).count("a") > 0
