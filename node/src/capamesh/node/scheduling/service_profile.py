"""The times that a model takes for numbers of rows, and what follows from them. Pure; whoever measures has the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.tensors import MAX_DIM

_GAIN: Final = 0.02
"""A smaller rise of rows per second is no reason to go on searching (guess: above the scatter of a median on a
machine that does other work)."""
_NEAR_BEST: Final = 0.01
"""Fewer rows are taken where they come so close to the most rows per second: their requests wait less (guess:
what a measurement can tell apart)."""
_ABOUT_BEST: Final = 0.04
"""The part by which a run of more rows may be worse than the best of runs beside one another, and is still taken (guess: what
the few runs of a first load cannot tell apart on a machine that does other work). Each run costs its handing over, which a
measurement does not see: under load ResNet-18, on a thread of each of two cores, does 0.94 of what ONNX Runtime does alone in
runs of one row, 0.99 in runs of two and 1.04 in runs of four or eight (measured: `benchmarks/batcher.py`)."""
_FLAT_DOUBLINGS: Final = 3
"""Doublings without a gain that end the search (guess: one may fall on a bad size of a kernel's tiles)."""


class ProfilePoint(NamedTuple):
    """One measurement."""

    rows: int
    seconds: float
    """The time of one run: the median of several."""


@dataclass(frozen=True, slots=True)
class ServiceProfile:
    """The measured times of one model on one device: at least one point, rows ascending, seconds above 0."""

    points: tuple[ProfilePoint, ...]

    def __post_init__(self) -> None:
        if problem := _problem(self.points):
            raise ValueError(problem)

    @override
    def __reduce__(self) -> tuple[type[ServiceProfile], tuple[tuple[ProfilePoint, ...]]]:
        """Return how pickle makes it anew: a compiled class would set the attributes of a frozen one, for a simulation's processes."""
        return ServiceProfile, (self.points,)

    @property
    def best_rows(self) -> int:
        """The fewest rows whose rows per second are within 1 % of the most that was measured."""
        enough = max(map(rate, self.points)) * (1 - _NEAR_BEST)
        return next(point.rows for point in self.points if rate(point) >= enough)

    @property
    def widest_rows(self) -> int:
        """The most rows whose rows per second are within 4 % of the most that was measured."""
        enough = max(map(rate, self.points)) * (1 - _ABOUT_BEST)
        return max(point.rows for point in self.points if rate(point) >= enough)

    @property
    def row_s(self) -> float:
        """Seconds for each row of a batch of `best_rows`."""
        best = self.best_rows
        return self.seconds_at(best) / best

    @property
    def best_point(self) -> ProfilePoint:
        """Return the point of `best_rows`."""
        best = self.best_rows
        return next(point for point in self.points if point.rows == best)

    def with_point(self, point: ProfilePoint) -> ServiceProfile:
        """Return it with `point` in place of what was measured of as many rows."""
        return ServiceProfile(
            tuple(point if each.rows == point.rows else each for each in self.points)
        )

    def seconds_at(self, rows: int) -> float:
        """Return how long `rows` rows take.

        Linear between the points; beyond the last as steep as before it, or in proportion to the rows
        where there is one point only; never less than the first point.
        """
        first, last = self.points[0], self.points[-1]
        if rows <= first.rows:
            return first.seconds
        for left, right in pairwise(self.points):
            if rows == right.rows:
                return right.seconds
            if rows < right.rows:
                return left.seconds + _slope(left, right) * (rows - left.rows)
        before = self.points[-2] if len(self.points) > 1 else ProfilePoint(0, 0.0)
        # A larger batch that was quicker is scatter: more rows never take less.
        return last.seconds + max(0.0, _slope(before, last)) * (rows - last.rows)

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values: `{"points": [{"rows": 1, "seconds": 0.002}]}`."""
        return {"points": [point._asdict() for point in self.points]}


def next_rows(
    points: tuple[ProfilePoint, ...], *, max_rows: int, left_s: float = math.inf
) -> int | None:
    """Return how many rows to measure after `points`, or None when the profile is complete.

    1, 2, 4, 8 and so on, `max_rows` last. Complete: three doublings have raised rows per second by less than
    2 %, `max_rows` was measured, or a run of the next size, taken to last in proportion to its rows, is
    longer than the `left_s` seconds that are left. The first point is measured in any case.
    """
    if not points:
        return 1
    last = points[-1]
    if last.rows >= max_rows:
        return None
    earlier, latest = points[:-_FLAT_DOUBLINGS], points[-_FLAT_DOUBLINGS:]
    if earlier and max(map(rate, latest)) < max(map(rate, earlier)) * (1 + _GAIN):
        return None
    rows = min(2 * last.rows, max_rows)
    return rows if last.seconds * rows / last.rows <= left_s else None


def rate(point: ProfilePoint) -> float:
    """Return rows a second."""
    return point.rows / point.seconds


def _slope(left: ProfilePoint, right: ProfilePoint) -> float:
    return (right.seconds - left.seconds) / (right.rows - left.rows)


def _problem(points: tuple[ProfilePoint, ...]) -> str | None:
    """Return why `points` are no profile, None if they are one."""
    if not points:
        return "a profile has at least one point, got none"
    for point in points:
        if not (1 <= point.rows <= MAX_DIM and 0 < point.seconds < math.inf):
            return f"a point has 1 to {MAX_DIM} rows and takes a finite time above 0, got {point}"
    for left, right in pairwise(points):
        if right.rows <= left.rows:
            return f"the rows of a profile ascend, got {right.rows} after {left.rows}"
    return None
