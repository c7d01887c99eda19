"""The wait for a link: when it is over, and what is told of it."""

from __future__ import annotations

import pytest

from capamesh.protocol.errors import CapameshError, ModelUnavailable, NoEndpoint
from capamesh.router.requests.patience import MOST_WAIT_S, Patience


@pytest.mark.parametrize(
    ("deadline_s", "back_s", "until_s"),
    [
        (200.0, 0.0, 103.0),
        (200.0, 102.9, 103.0),
        (200.0, 110.0, 110.0),
        (200.0, 999.0, 100.0 + MOST_WAIT_S),
        (105.0, 999.0, 105.0),
        (101.0, 999.0, 101.0),
        (101.0, 0.0, 101.0),
    ],
)
def test_wait_ends_when_a_link_should_be_back_but_never_after_the_deadline(
    deadline_s: float, back_s: float, until_s: float
) -> None:
    assert Patience(100.0, 3.0, deadline_s).until_s(back_s) == until_s


@pytest.mark.parametrize(("deadline_s", "most_s"), [(200.0, 100.0 + MOST_WAIT_S), (110.0, 110.0)])
def test_wait_is_over_in_the_end_whatever_is_to_be_back(deadline_s: float, most_s: float) -> None:
    assert Patience(100.0, 3.0, deadline_s).most_s == most_s


@pytest.mark.parametrize(
    ("error", "retry_after_s"),
    [(NoEndpoint("no link", 2.0), 2.0), (ModelUnavailable("no link", 2.0), 0.0)],
    ids=lambda it: getattr(it, "code", ""),
)
def test_error_of_a_wait_in_vain_says_how_long_it_was_and_keeps_the_hint_of_who_is_not_reached(
    error: CapameshError, retry_after_s: float
) -> None:
    told = Patience(100.0, 3.0, 200.0).gave_up(error, 102.25)
    assert told.message == "no link (waited 2.2 s for a link)"
    assert told.retry_after_s == retry_after_s
