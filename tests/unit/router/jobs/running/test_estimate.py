"""When a job ends."""

from __future__ import annotations

import math

import pytest

from capamesh.router.jobs.running.estimate import Estimate, promised_s


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
