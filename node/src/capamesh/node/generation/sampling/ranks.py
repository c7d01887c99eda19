"""Finds the largest scores of a row without sorting it. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_GROUP: Final = 64
"""The number of scores of which the largest is taken first (measured: 16 to 128 differ little)."""


def kth_largest(row: npt.NDArray[np.float32], k: int) -> float:
    """Return the k-th largest of `row`, which has the shape [vocabulary] and at least `k` scores.

    Of groups' largest scores the k-th bounds the wanted one from below, so that few of the row are left to choose from.
    """
    size = row.shape[0]
    groups = size // _GROUP
    if 2 * k <= groups:
        largest = row[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        bound = np.partition(largest, groups - k)[groups - k]
        row = row[row >= bound]
        size = row.shape[0]
    return float(np.partition(row, size - k)[size - k])


def largest_places(row: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the places of the `k` largest of `row`, which has the shape [vocabulary]; the largest first, of equal ones the first."""
    floor = kth_largest(row, k)
    above = np.flatnonzero(row > floor)
    above = above[np.argsort(-row[above], kind="stable")]
    equal = np.flatnonzero(row == floor)[: k - above.shape[0]]
    return np.concatenate((above, equal))
