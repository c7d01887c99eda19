from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import Draws, fleet, picks, replica

from capamesh.router.fleet.latency_ewma import (
    DEFAULT_RTT_S,
    PENALTY_S,
    cost_s,
    load_s,
    observe,
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


def test_failure_counts_until_the_next_answer_and_is_no_latency() -> None:
    one = replica()
    observe(one, 0.002, 0.0)
    one.failed_s = 1.0
    assert cost_s(one, 1.0) == cost_s(one, 60.0) == PENALTY_S == 5.0
    one.proved_s = 61.0
    observe(one, 0.002, 61.0)
    assert cost_s(one, 61.0) == pytest.approx(0.002)


def test_answer_of_a_request_that_was_sent_before_a_failure_counts_as_the_failure_alone() -> None:
    one = replica()
    observe(one, 0.002, 0.0)
    one.failed_s = 1.0  # it stood still, and was found silent
    for _ in range(2):
        one.proved_s = 0.5
        observe(one, 8.0, 8.5)
        assert cost_s(one, 8.5) == PENALTY_S
    one.proved_s = 8.597
    observe(one, 0.003, 8.6)
    assert cost_s(one, 8.6) == 0.003


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
        if is_failure:
            one.failed_s = now_s
            highest_s = max(highest_s, PENALTY_S)
        else:
            one.proved_s = now_s
            observe(one, latency_s, now_s)
            highest_s = max(highest_s, latency_s)
        if one.peak_seen_s == -math.inf:
            highest_s = max(highest_s, DEFAULT_RTT_S)
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


def test_replica_that_fails_fast_is_tried_by_one_request_a_second_until_it_answers() -> None:
    replicas = fleet("abc")
    failing = replicas[0]
    for one in replicas:
        observe(one, 0.01, 0.0)
    policy = PeakEwma(random.Random(1))
    failing.failed_s = 0.0
    for now_s in (0.0, 0.9):
        assert "a" not in picks(policy, replicas, 50, now_s=now_s)
    assert "a" in picks(policy, replicas, 10, now_s=1.0)
    failing.rif = 1
    assert "a" not in picks(policy, replicas, 50, now_s=1.0)
    failing.rif, failing.failed_s = 0, 1.1
    assert "a" not in picks(policy, replicas, 50, now_s=2.0)
    failing.proved_s = 2.2
    for one in replicas:
        observe(one, 0.01, 2.2)
    assert picks(policy, replicas, 60, now_s=2.2).count("a") > 10
