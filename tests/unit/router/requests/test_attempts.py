"""Who is to blame, as tables: every row is one case, and every case has its row."""

from __future__ import annotations

import pytest

from capamesh.router.requests.blame import (
    is_death,
    is_run,
)
from capamesh.router.requests.patience import MOST_WAIT_S, Patience

# an error, what it is taken for of a node that had hardly time, and of one that had time enough


@pytest.mark.parametrize(
    ("is_sudden", "is_first", "is_alive", "wanted"),
    [
        (False, False, False, False),
        (False, False, True, False),
        (False, True, False, False),
        (False, True, True, False),
        (True, False, False, False),  # it may have ended with the last one
        (True, False, True, True),
        (True, True, False, True),
        (True, True, True, True),
    ],
)
def test_ends_of_links_that_count_as_deaths(
    is_sudden: bool, is_first: bool, is_alive: bool, wanted: bool
) -> None:
    assert is_death(is_sudden=is_sudden, is_first=is_first, is_alive=is_alive) is wanted


@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize(
    ("is_sudden", "is_death_", "is_before_last", "wanted"),
    [
        (True, False, False, False),
        (True, False, True, True),
        (True, True, False, True),
        (True, True, True, True),
        (False, False, False, None),  # it is a run unless it was silent
        (False, False, True, None),
    ],
)
def test_attempts_whose_links_ended_that_count_as_runs(
    is_sudden: bool, is_death_: bool, is_before_last: bool, wanted: bool | None, is_silent: bool
) -> None:
    found = is_run(
        is_sudden=is_sudden,
        is_death=is_death_,
        is_before_last=is_before_last,
        is_silent=is_silent,
    )
    assert found is (not is_silent if wanted is None else wanted)


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
