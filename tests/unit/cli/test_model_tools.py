"""`capamesh model`: what is said of a measurement."""

from __future__ import annotations

import pytest

from capamesh.cli.model_tools import cut_short
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile


def profile(*seconds: float) -> ServiceProfile:
    """Of 1, 2, 4 and so on rows."""
    return ServiceProfile(tuple(ProfilePoint(2**n, s) for n, s in enumerate(seconds)))


@pytest.mark.parametrize(
    ("measured", "max_rows", "limit"),
    [
        (profile(1.0, 1.1, 1.2), 4, "--max-rows 4 ended it at 4 rows, "),
        (profile(1.0, 1.1, 1.2), 1024, "--seconds 10 ended it at 4 rows, "),
    ],
)
def test_best_batch_that_a_limit_set_is_said_to_be_one(
    measured: ServiceProfile, max_rows: int, limit: str
) -> None:
    assert cut_short(measured, max_rows, 10.0) == (
        f"{limit}before more rows brought no more throughput: the best may be larger"
    )


@pytest.mark.parametrize(
    "measured",
    [
        profile(1.0, 2.0, 4.0, 8.0),  # three doublings gained nothing
        profile(1.0, 1.1, 3.0),  # the largest was not the best
    ],
)
@pytest.mark.parametrize("max_rows", [4, 8, 1024])
def test_best_batch_that_was_found_is_not(measured: ServiceProfile, max_rows: int) -> None:
    assert cut_short(measured, max_rows, 10.0) == ""
