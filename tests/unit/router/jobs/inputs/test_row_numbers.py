"""Rows that stand one behind the other have numbers and names without an object a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from capamesh.router.jobs.inputs.row_numbers import (
    NumberNames,
    count_of,
    joined_names,
    joined_numbers,
    number_array,
    text_array,
)


def test_names_are_the_numbers_as_texts() -> None:
    names = NumberNames(range(7, 12))
    assert list(names) == ["7", "8", "9", "10", "11"]
    assert names[-1] == "11"
    assert list(names[1:3]) == ["8", "9"]
    assert isinstance(names[1:3], NumberNames)


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([range(3), range(3, 5)], range(5)),
        ([range(3), range(3, 3), range(3, 5)], range(5)),
        ([range(3), range(4, 5)], [0, 1, 2, 4]),
        ([range(3, 5), range(3)], [3, 4, 0, 1, 2]),
        ([range(2), [2, 3]], [0, 1, 2, 3]),
        ([], range(0)),
    ],
)
def test_numbers_are_joined_to_a_range_where_they_are_one(
    parts: list[Sequence[int]], joined: Sequence[int]
) -> None:
    assert joined_numbers(parts) == joined
    assert number_array(joined_numbers(parts)).tolist() == list(joined)


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


def test_texts_of_numbers_are_those_of_python() -> None:
    numbers = [0, 1, 9, 10, 99, 100, 101, 12345, 999999, 10**6, 7, 2**53, 10**18]
    assert text_array(np.array(numbers, np.int64)).tolist() == [str(number) for number in numbers]
    assert text_array(np.array([], np.int64)).tolist() == []
