"""When a job ends."""

from __future__ import annotations

import math

import pytest

from capamesh.router.jobs.running.estimate import MOST_SAMPLES, WINDOW_S, Estimate, promised_s


@pytest.mark.parametrize(
    ("rows", "ahead", "rate", "seconds"),
    [(1000, 0, 10.0, 100.0), (1000, 500, 10.0, 150.0), (0, 0, 0.0, 0.0), (1, 0, 0.0, math.inf)],
)
def test_promise_is_the_work_before_it_and_its_own(
    rows: int, ahead: int, rate: float, seconds: float
) -> None:
    assert promised_s(rows, ahead, rate) == seconds


def test_estimate_says_nothing_before_there_is_something_to_go_by() -> None:
    estimate = Estimate()
    assert estimate.left_s(100) is None
    assert estimate.left_s(0) == 0.0
    estimate.observe(0, 0.0)
    estimate.observe(50, 9.9)
    assert estimate.left_s(100) is None
    estimate.observe(50, 10.0)
    assert estimate.left_s(100) == 20.0


def test_estimate_says_nothing_when_nothing_moves() -> None:
    estimate = Estimate()
    for at in range(0, 1000, 10):
        estimate.observe(min(at, 100), float(at))
    assert estimate.left_s(5) is None


def test_no_more_samples_are_kept_however_often_it_is_told() -> None:
    estimate = Estimate()
    for at in range(20_000):
        estimate.observe(at, at / 50)
    assert len(estimate._samples) <= MOST_SAMPLES
    assert estimate.rows_per_s() == pytest.approx(50.0)
    assert estimate._samples[-1][0] - estimate._samples[0][0] <= WINDOW_S


def test_count_that_went_back_is_passed_by() -> None:
    estimate = Estimate()
    estimate.observe(100, 0.0)
    estimate.observe(90, 5.0)
    estimate.observe(200, 10.0)
    assert estimate.rows_per_s() == 10.0
