"""Times runs at more and more rows. The clock is passed in; whoever calls gives the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile, next_rows
from capamesh.protocol.errors import ClientError, PeerError

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel
    from capamesh.node.tools.optimise.trial import TrialInputs
    from capamesh.protocol.tensors import Tensor

MIN_RUNS: Final = 3
"""The fewest runs of each size, after one that is not counted: with fewer one outlier moves the median."""
MAX_RUNS: Final = 200
"""The most runs of each size (guess: the median of a quick model's runs stands still long before)."""
_SHARE: Final = 0.1
"""The share of the time that one size may take (guess: doubling from 1 to 1,024 rows is eleven sizes)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The measured times, and why the timing ended early, if it did."""

    profile: ServiceProfile
    stopped: str = ""
    """The reason for which it ended early; empty if throughput was flat, or the rows or the time were used up."""


def time_rows(
    run: Callable[[int], object],
    *,
    max_rows: int,
    budget_s: float,
    clock_s: Callable[[], float],
    on_size: Callable[[int], None] = lambda _: None,
) -> Timing:
    """Call `run(rows)` at 1, 2, 4 and so on rows, several times each, until `next_rows` has enough.

    `budget_s` seconds in all are a wish: a size that is begun is measured `MIN_RUNS` times. A run that fails at
    more than 1 row ends it; at 1 row its error is raised. `on_size` is told of each size before it.
    """
    began_s = clock_s()
    points: list[ProfilePoint] = []
    while True:
        left_s = (budget_s - (clock_s() - began_s)) / (MIN_RUNS + 1)
        rows = next_rows(tuple(points), max_rows=max_rows, left_s=left_s)
        if rows is None:
            return Timing(ServiceProfile(tuple(points)))
        on_size(rows)
        try:
            seconds = _median_s(run, rows, budget_s * _SHARE, clock_s)
        except (ClientError, PeerError) as exc:
            if not points:
                raise
            return Timing(ServiceProfile(tuple(points)), f"{rows} rows: {exc.message}")
        points.append(ProfilePoint(rows, seconds))


def _median_s(
    run: Callable[[int], object], rows: int, wanted_s: float, clock_s: Callable[[], float]
) -> float:
    first_s = _once_s(run, rows, clock_s)
    runs = math.floor(wanted_s / first_s) if first_s > 0 else MAX_RUNS
    count = max(MIN_RUNS, min(runs, MAX_RUNS))
    # A clock that did not move would make a rate of infinity.
    return max(median(_once_s(run, rows, clock_s) for _ in range(count)), 1e-9)


def _once_s(run: Callable[[int], object], rows: int, clock_s: Callable[[], float]) -> float:
    began_s = clock_s()
    run(rows)
    return clock_s() - began_s


def time_model(
    model: LoadedModel,
    trial: TrialInputs,
    *,
    max_rows: int,
    budget_s: float,
    clock_s: Callable[[], float],
    on_size: Callable[[int], None] = lambda _: None,
) -> Timing:
    """Time `model` on the rows of `trial`; one without an open first dimension with whole runs, as 1 row."""
    batches: dict[int, tuple[Tensor, ...]] = {}

    def run(rows: int) -> object:
        if (
            rows not in batches
        ):  # made once: only the run is to be timed, after the first that does not count
            batches.clear()
            batches[rows] = trial.take(0, rows)
            model.validate(batches[rows])
        return model.run(batches[rows])

    return time_rows(
        run,
        max_rows=max_rows if trial.is_batched else 1,
        budget_s=budget_s,
        clock_s=clock_s,
        on_size=on_size,
    )
