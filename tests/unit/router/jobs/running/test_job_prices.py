"""What a job's rows cost is the price of each node that ran some, by their rows."""

from __future__ import annotations

import pytest

from capamesh.router.jobs.running.job_prices import JobPrices
from capamesh.router.jobs.values import JobId

ONE, TWO = JobId("one"), JobId("two")


def test_price_is_averaged_over_rows() -> None:
    prices = JobPrices()
    prices.add(ONE, 30, 1.0)
    prices.add(ONE, 10, 5.0)
    prices.add(TWO, 1, 0.0)
    assert prices.per_million(ONE) == pytest.approx(2.0)
    assert prices.per_million(TWO) == 0.0
    assert prices.per_million(JobId("three")) is None


def test_price_of_a_job_that_has_ended_is_forgotten() -> None:
    prices = JobPrices()
    prices.add(ONE, 30, 1.0)
    prices.add(TWO, 30, 1.0)
    prices.keep({TWO})
    assert (prices.per_million(ONE), prices.per_million(TWO)) == (None, 1.0)
