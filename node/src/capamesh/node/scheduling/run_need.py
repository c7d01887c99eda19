"""Estimates what a run of a model takes of its device's memory and time, by the size of its inputs. Pure; others measure.

A run's memory grows with its rows, and where inputs have other open dimensions with the elements of a row too: in
proportion to them or, for attention over a text, to their square. Both are fitted to what was measured at two sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from capamesh.protocol.tensors import Tensor

STEEPER: Final = 1.3
"""A row so many times as long must take that much more for each of its elements before a square is seen in it (guess:
less is the rounding of memory pools)."""
MARGIN: Final = 1.5
"""A run is taken to need so many times what was measured (measured: magika takes 3.0 MB a row in a run of 16 rows, and
5.9 in one of 512 that follows smaller ones, whose pieces its pool of memory cannot use any more)."""
UNMEASURED_TIMES: Final = 4.0
"""The need of a run of a model that could not be measured, in sizes of its inputs (guess: a copy of the inputs, the outputs,
and as much again between them)."""


@dataclass(frozen=True, slots=True)
class RunSample:
    """One run as it was measured."""

    rows: int
    elements: int
    """The elements of the inputs of one row."""
    grown_bytes: int
    """The bytes by which the memory in use grew, from what the loaded model holds at rest."""
    seconds: float


@dataclass(frozen=True, slots=True)
class RunNeed:
    """Memory and time of a run of one model on one device."""

    elements: int
    """The elements of the inputs of one row, as it was measured; at least 1."""
    linear_bytes: float
    """The bytes for each element."""
    square_bytes: float = 0.0
    """The bytes for each element of a row times the elements of that row."""
    element_s: float = 0.0
    """Seconds for each element that a row has beyond `elements`."""

    def bytes_of(self, rows: int, elements: int) -> int:
        """Return the memory that a run of so many rows takes, each of so many elements, in bytes."""
        each = elements * (self.linear_bytes + self.square_bytes * elements)
        return math.ceil(MARGIN * rows * each)

    def more_s(self, rows: int, elements: int) -> float:
        """Return the seconds that a run takes beyond one of as many rows of the measured length."""
        return max(0, elements - self.elements) * self.element_s * rows

    @property
    def row_bytes(self) -> int:
        """The memory that one row of the measured length takes, in bytes."""
        return self.bytes_of(1, self.elements)


def fitted(usual: RunSample, longer: RunSample | None, *, least_row_bytes: int) -> RunNeed:
    """Return the need that explains the samples: `usual` of the length that was timed, `longer` of longer rows.

    `least_row_bytes` is what a row's inputs and outputs have themselves: a small run fits into memory that is there
    already, and seems to take none.
    """
    elements = max(1, usual.elements)
    each = max(usual.grown_bytes / usual.rows, least_row_bytes) / elements
    if longer is None or longer.elements <= elements:
        return RunNeed(elements, each)
    more = longer.elements - elements
    row_s = longer.seconds / longer.rows - usual.seconds / usual.rows
    element_s = max(0.0, row_s / more)
    longer_each = longer.grown_bytes / longer.rows / longer.elements
    if longer_each <= STEEPER * each:
        return RunNeed(elements, max(each, longer_each), 0.0, element_s)
    square = (longer_each - each) / more
    return RunNeed(elements, max(0.0, each - square * elements), square, element_s)


def elements_of(tensors: Iterable[Tensor]) -> int:
    """Return how many elements tensors have together; a text is one, whatever its length."""
    return sum(math.prod(tensor.shape) for tensor in tensors)
