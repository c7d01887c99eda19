"""Rows that stand one behind the other have numbers and names without an object a row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from capamesh.router.jobs.inputs.row_numbers import (
    NumberNames,
    count_of,
    joined_names,
)


def test_names_are_joined_and_given_ones_are_kept() -> None:
    parts = [NumberNames(range(2)), NumberNames(range(2, 4))]
    assert isinstance(joined_names(parts), NumberNames)
    assert list(joined_names(parts)) == ["0", "1", "2", "3"]
    assert joined_names([["a"], NumberNames([5])]) == ["a", "5"]


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
