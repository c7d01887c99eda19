"""The wait for a link: when it is over, and what is told of it."""

from __future__ import annotations

import pytest

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
