"""Rows that stand one behind the other have numbers and names without an object a row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from capamesh.router.jobs.inputs.row_numbers import (
    count_of,
)


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ([range(3), range(3, 5)], 5),
        ([range(3, 5), range(4)], 5),
        ([range(9), range(2, 4), range(8, 10)], 10),
        ([[0, 0, 1], [1, 2]], 3),
        ([range(2), [1, 5]], 3),
        ([], 0),
    ],
)
def test_each_number_is_counted_once(parts: list[Sequence[int]], count: int) -> None:
    assert count_of(parts) == count
