from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.latency_window import LatencyWindow


def test_empty_one_knows_nothing() -> None:
    window = LatencyWindow()
    assert window.quantile(0.5, 0.0) == 0.0
    assert window.count == 0


def test_quantiles_of_one_to_a_hundred_milliseconds() -> None:
    window = LatencyWindow()
    for ms in range(1, 101):
        window.add(ms / 1e3, 0.0)
    for q, truth in ((0.0, 0.001), (0.5, 0.050), (0.95, 0.095), (0.99, 0.099), (1.0, 0.1)):
        assert window.quantile(q, 0.1) == pytest.approx(truth, rel=0.05)


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
    window = LatencyWindow()
    for sample in samples:
        window.add(sample, 1.0)
    truth = float(np.quantile(np.clip(samples, 1e-5, 3600), q, method="inverted_cdf"))
    assert window.quantile(q, 2.0) == pytest.approx(truth, rel=0.05)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(-100.0, 100.0),
            st.floats(0.0, 1.0),
        ),
        max_size=50,
    )
)
def test_quantile_is_a_plausible_time_whatever_is_added(
    steps: list[tuple[float, float, float]],
) -> None:
    window, now_s = LatencyWindow(), 0.0
    for seconds, passed_s, q in steps:
        now_s += passed_s
        window.add(seconds, now_s)
        assert 1e-5 <= window.quantile(q, now_s) <= 3600 * 1.05
        assert window.quantile(0.5, now_s) <= window.quantile(0.99, now_s)


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


def test_window_remembers_longer_with_little_traffic() -> None:
    window = LatencyWindow()
    for second in range(25):
        window.add(0.1, second)
    assert window.count == 25
    assert window.quantile(0.5, 25.0) == pytest.approx(0.1, rel=0.05)


def test_samples_of_long_ago_are_forgotten() -> None:
    window = LatencyWindow()
    for _ in range(500):
        window.add(0.1, 0.0)
    assert window.quantile(0.5, 59.0) == pytest.approx(0.1, rel=0.05)
    assert window.quantile(0.5, 90.0) == 0.0
    window.add(0.1, 90.0)
    assert window.quantile(0.5, 151.0) == 0.0
    assert window.count == 0


def test_read_is_fresh_after_50_ms_or_when_samples_have_doubled() -> None:
    window = LatencyWindow()
    for _ in range(30):
        window.add(0.01, 0.0)
    assert window.quantile(0.9, 0.0) == pytest.approx(0.01, rel=0.05)
    for _ in range(30):
        window.add(1.0, 0.0)
    assert window.quantile(0.9, 0.0) == pytest.approx(0.01, rel=0.05)
    assert window.quantile(0.9, 0.051) == pytest.approx(1.0, rel=0.05)
    for _ in range(61):
        window.add(100.0, 0.06)
    assert window.quantile(0.9, 0.06) == pytest.approx(100.0, rel=0.05)


def test_clock_that_is_set_back_wedges_nothing() -> None:
    window = LatencyWindow()
    for n in range(500):
        window.add(0.01, 1000.0 + n / 100)
    for n in range(1001):
        window.add(1.0, n / 100)
    assert window.quantile(0.01, 10.1) == pytest.approx(1.0, rel=0.05)
    quiet = LatencyWindow()
    quiet.add(0.01, 1000.0)
    assert quiet.quantile(0.5, 0.0) == pytest.approx(0.01, rel=0.05)
    assert quiet.quantile(0.5, 61.0) == 0.0
