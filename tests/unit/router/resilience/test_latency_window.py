from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.resilience.latency_window import LatencyWindow


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
    quiet = LatencyWindow()
    quiet.add(0.01, 1000.0)
    assert quiet.quantile(0.5, 0.0) == pytest.approx(0.01, rel=0.05)
    assert quiet.quantile(0.5, 61.0) == 0.0
