"""Tells how many rows the next shard of a job is to have, by what its shards of late took at this router. Pure.

A plan is cut before anybody knows what a row costs, so it is cut small, and a lease takes several shards of it as one. What a router
has not committed when it dies is run again: that is to be a small part of a short job, and some seconds of a long one.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES

if TYPE_CHECKING:
    from capamesh.router.jobs.values import Job, JobId

LEAST_S: Final = 0.25
"""The fewest seconds between two commits of a job at one router: a part and a commit take some milliseconds (guess)."""
MOST_S: Final = 5.0
"""The most: a third of a lease (guess)."""
PARTS: Final = 100
"""Between these, the parts of a job: a router that dies has one or two that are not committed."""
MEMORY_S: Final = 5.0
"""The time constant over which the rate is averaged (guess: some shards)."""


class ShardSizes:
    """The sizes of the shards that one router leases. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._taken: dict[JobId, tuple[float, float, float]] = {}
        """The rows of each job's shards and the seconds that they took, both averaged, and the time of the last end."""

    def ended(self, job: JobId, rows: int, began_s: float, now_s: float) -> None:
        """Take in that a shard was committed that was at work from `began_s` on, beside others."""
        before_rows, before_s, last_s = self._taken.get(job, (0.0, 0.0, -math.inf))
        took_s = now_s - max(began_s, last_s)
        kept = math.exp(-took_s / MEMORY_S)
        self._taken[job] = before_rows * kept + rows, before_s * kept + took_s, now_s

    def rows(self, job: Job, least: int, out_row_bytes: int) -> int:
        """Return the rows of the next shard, of which `least` keep nodes busy; no more than that while nobody knows what rows take."""
        rows, took_s, _ = self._taken.get(job.id, (0.0, 0.0, 0.0))
        wanted = float(least)
        if took_s:
            rate = rows / took_s
            wanted = max(least, min(max(job.rows / PARTS, LEAST_S * rate), MOST_S * rate))
        if out_row_bytes:
            wanted = min(wanted, MAX_SHARD_BYTES / out_row_bytes)
        return int(wanted)

    def keep(self, jobs: Container[JobId]) -> None:
        """Forget all jobs but these."""
        self._taken = {job: taken for job, taken in self._taken.items() if job in jobs}
