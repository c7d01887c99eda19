"""The numbers of rows and the names that they have by them, without an object a row. Pure.

Rows that stand one behind the other in an input are a `range`, which is cut and joined at no cost; others are a list. Both give
whole numbers of Python's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import override


class NumberNames(Sequence[str]):
    """The names of rows that have none but their numbers. A name is made when it is asked for."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        """The numbers, in the order of the rows."""

    @override
    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> NumberNames: ...
    @override
    def __getitem__(self, at: int | slice) -> str | NumberNames:
        if isinstance(at, slice):
            return NumberNames(self.numbers[at])
        return str(self.numbers[at])


def joined_numbers(parts: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return numbers one part after the other: as a range where each part begins where the one before it ends."""
    if all(isinstance(part, range) and part.step == 1 for part in parts):
        ranges = [part for part in cast("Sequence[range]", parts) if part]
        if all(before.stop == after.start for before, after in pairwise(ranges)):
            return range(ranges[0].start, ranges[-1].stop) if ranges else range(0)
    return list(chain.from_iterable(parts))


def joined_names(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return names one part after the other; none is made that is a number's."""
    if all(isinstance(part, NumberNames) for part in parts):
        return NumberNames(
            joined_numbers([part.numbers for part in cast("Sequence[NumberNames]", parts)])
        )
    return list(chain.from_iterable(parts))


def number_array(numbers: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return numbers as an array of shape [rows] and dtype int64."""
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop, numbers.step, dtype=np.int64)
    return np.asarray(numbers, np.int64)


def count_of(parts: Sequence[Sequence[int]]) -> int:
    """Return how many numbers there are in all parts, each counted once."""
    if all(isinstance(part, range) and part.step == 1 for part in parts):
        count, end = 0, 0
        for part in sorted(cast("Sequence[range]", parts), key=lambda each: each.start):
            count += max(0, part.stop - max(part.start, end))
            end = max(end, part.stop)
        return count
    return len(set(chain.from_iterable(parts)))


def text_array(numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return numbers from 0 on, of shape [rows], as their texts in decimal digits, of shape [rows] and dtype `U`."""
    most = int(numbers.max(initial=0))
    digits = len(str(most))
    codes = np.zeros((len(numbers), digits), np.uint32)
    lengths = np.searchsorted(10 ** np.arange(1, digits, dtype=np.int64), numbers, "right") + 1
    for length in range(1, digits + 1):
        rows = np.flatnonzero(lengths == length)
        left = numbers[rows]
        for at in range(length - 1, -1, -1):
            left, digit = np.divmod(left, 10)
            codes[rows, at] = digit + ord("0")
    return codes.view(f"U{digits}").reshape(len(numbers))
