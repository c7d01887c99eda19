"""The parts of a rate that processes give out by themselves."""

from __future__ import annotations

import pytest

from capamesh.router.access.rate_parts import next_part


@pytest.mark.parametrize(
    ("part", "used_per_s", "others", "is_in_debt", "following"),
    [
        (12.0, 0.0, 0, False, 12.0),
        (3.0, 99.0, 0, True, 12.0),  # nobody else is there
        (12.0, 30.0, 2, False, 4.0),  # an equal part at least
        (12.0, 6.0, 2, False, 6.0),  # what they leave
        (4.0, 4.0, 1, False, 6.0),  # half of the way, where one other moves too
        (4.0, 2.0, 3, False, 5.5),
        (4.0, 2.0, 3, True, 4.0),
        (4.0, -8.0, 3, False, 6.0),  # no more than there is
    ],
)
def test_next_part(
    part: float, used_per_s: float, others: int, is_in_debt: bool, following: float
) -> None:
    assert next_part(part, 12.0, used_per_s, others, is_in_debt) == following
