"""Profiles: what follows from measurements, which to make next, and how they are taken and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile, next_rows
from capamesh.node.tools.optimise.timing import MIN_RUNS, time_rows
from capamesh.protocol.errors import InvalidRequest, RunFailed

# 100, 199, 200 and 199.5 rows a second.
SLOWING = ServiceProfile(
    tuple(ProfilePoint(rows, s) for rows, s in ((1, 0.01), (2, 2 / 199), (4, 0.02), (8, 8 / 199.5)))
)


def test_best_batch_is_the_smallest_within_1_percent_of_the_most_throughput() -> None:
    assert SLOWING.best_rows == 2
    assert SLOWING.row_s == pytest.approx(1 / 199)
    barely_not = ServiceProfile((ProfilePoint(1, 1 / 98), ProfilePoint(2, 2 / 100)))
    assert barely_not.best_rows == 2


def test_seconds_are_interpolated_and_go_on_by_the_last_slope() -> None:
    profile = ServiceProfile((ProfilePoint(1, 1.0), ProfilePoint(4, 4.0), ProfilePoint(8, 6.0)))
    assert [profile.seconds_at(rows) for rows in (0, 1, 2, 4, 6, 8, 10)] == [1, 1, 2, 4, 5, 6, 7]
    assert ServiceProfile((ProfilePoint(2, 1.0),)).seconds_at(6) == 3.0
    falling = ServiceProfile((ProfilePoint(1, 2.0), ProfilePoint(2, 1.0)))
    assert falling.seconds_at(100) == 1.0


def measured(
    seconds_of: Callable[[int], float], max_rows: int, left_s: float = math.inf
) -> list[int]:
    points: tuple[ProfilePoint, ...] = ()
    while (rows := next_rows(points, max_rows=max_rows, left_s=left_s)) is not None:
        points = (*points, ProfilePoint(rows, seconds_of(rows)))
    return [point.rows for point in points]


def test_rows_are_doubled_until_three_doublings_bring_nothing_or_the_limit_is_measured() -> None:
    assert measured(lambda rows: 0.01, 6) == [1, 2, 4, 6]
    assert measured(lambda rows: 0.01, 8) == [1, 2, 4, 8]
    assert measured(lambda rows: 0.01 * rows, 1000) == [1, 2, 4, 8]
    assert measured(lambda rows: 0.01 * max(rows, 4), 1000) == [1, 2, 4, 8, 16, 32]
    assert measured(lambda rows: 0.01, 1) == [1]
    # One doubling may bring nothing: 2 rows are no better than 1, 4 are.
    assert measured(
        lambda rows: {1: 1, 2: 2, 4: 2, 8: 4, 16: 8}[min(rows, 16)] * max(1, rows // 16), 1000
    ) == [1, 2, 4, 8, 16, 32]


@dataclass
class FakeRuns:
    """A model whose runs move a clock."""

    seconds_of: Callable[[int], float]
    now_s: float = 0.0
    calls: list[int] = field(default_factory=list)

    def run(self, rows: int) -> None:
        self.calls.append(rows)
        self.now_s += self.seconds_of(rows)

    def clock_s(self) -> float:
        return self.now_s


def test_each_size_is_run_several_times_and_the_first_run_does_not_count() -> None:
    runs = FakeRuns(lambda rows: 9.0 if len(runs.calls) == 1 else float(rows))
    sizes: list[int] = []
    how = {"max_rows": 2, "budget_s": 100.0, "on_size": sizes.append}
    timing = time_rows(runs.run, clock_s=runs.clock_s, **how)
    assert timing.profile.points == (ProfilePoint(1, 1.0), ProfilePoint(2, 2.0))
    assert (timing.stopped, sizes) == ("", [1, 2])
    assert runs.calls == [1] * (1 + MIN_RUNS) + [2] * (1 + 5)  # a tenth of 100 s, 2 s each


def test_size_that_fails_ends_the_profile_with_its_reason_and_one_row_must_run() -> None:
    def run(rows: int) -> None:
        if rows > 2:
            raise RunFailed("out of memory")
        runs.run(rows)

    runs = FakeRuns(lambda rows: 1.0)
    timing = time_rows(run, max_rows=64, budget_s=1e6, clock_s=runs.clock_s)
    assert [point.rows for point in timing.profile.points] == [1, 2]
    assert timing.stopped == "4 rows: out of memory"

    def refuse(rows: int) -> None:
        raise InvalidRequest("never")

    with pytest.raises(InvalidRequest, match="never"):
        time_rows(refuse, max_rows=64, budget_s=1.0, clock_s=runs.clock_s)
