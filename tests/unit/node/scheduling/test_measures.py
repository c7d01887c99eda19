"""The small measures of an engine: run times, latencies, counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.contract.buckets import Buckets
from capamesh.node.scheduling.latency import LatencyByLoad
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.scheduling.service_time import FIRST_GUESS_S, ServiceTime
from capamesh.node.scheduling.stats import Meter

PROFILE = ServiceProfile((ProfilePoint(1, 0.010), ProfilePoint(8, 0.024)))


def test_first_run_without_a_profile_is_the_measure_and_no_slowdown() -> None:
    time = ServiceTime(None)
    assert (time.run_s, time.predicted_s(4)) == (0.0, FIRST_GUESS_S)
    assert time.ran(4, 0.040) == 1.0
    assert time.run_s == 0.040
    assert time.predicted_s(4) == pytest.approx(0.040)
    assert time.predicted_s(8) == pytest.approx(0.080)
    time.ran(4, 0.080)
    assert time.predicted_s(4) == pytest.approx(0.044)


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


def test_bound_belongs_to_the_bucket_below_it_and_the_last_bucket_has_no_bound() -> None:
    histogram = Buckets((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 5):
        histogram.add(value)
    assert histogram.snapshot() == {"bounds": [1, 2, 4], "counts": [2, 2, 1, 1], "sum": 13.5}


def test_meter_counts_answers_by_code_drops_by_reason_and_runs_by_size() -> None:
    meter = Meter()
    assert meter.snapshot()["requests"] == {"ok": 0}
    for code in ("ok", "ok", "overloaded"):
        meter.answered(code)
    meter.drop("expired")
    meter.ran(3, 0.004)
    snapshot = meter.snapshot()
    assert snapshot["requests"] == {"ok": 2, "overloaded": 1}
    assert snapshot["dropped"] == {"expired": 1}
    assert (snapshot["rows"], snapshot["batches"]) == (3, 1)
    assert meter.batch_rows.counts[2] == 1  # up to 4
    assert meter.run_s.counts[5] == 1  # up to 5 ms


def test_run_that_was_stopped_for_long_counts_for_ten_of_what_was_predicted() -> None:
    time = ServiceTime(ServiceProfile((ProfilePoint(1, 0.002),)))
    assert time.ran(1, 16.0) == pytest.approx(10.0)
    assert time.predicted_s(1) == pytest.approx(0.0038)
    assert time.run_s == pytest.approx(0.0038)


def test_first_run_of_a_model_that_was_never_measured_counts_as_it_is() -> None:
    time = ServiceTime(None)
    time.ran(1, 60.0)
    assert time.predicted_s(1) == pytest.approx(60.0)
    time.ran(1, 6000.0)
    assert time.predicted_s(1) == pytest.approx(60 + 0.1 * (600 - 60))


def test_latency_counts_for_at_most_ten_of_those_before() -> None:
    latency = LatencyByLoad()
    latency.answered(1, 0.002)
    latency.answered(1, 16.0)
    assert latency.estimate_s(1) == pytest.approx(0.0038)
