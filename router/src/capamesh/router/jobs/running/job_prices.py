"""The prices of jobs: what their rows cost at the nodes that ran them, as far as one router's process has seen. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.jobs.values import JobId


class JobPrices:
    """The prices that the jobs of one model paid, averaged over their rows."""

    def __init__(self) -> None:
        self._paid: dict[JobId, tuple[int, float]] = {}
        """The rows of each job that were run, and the sum of the prices of a million rows, one for each row."""

    def add(self, job: JobId, rows: int, price_per_million: float) -> None:
        """Take in that a node with a price has run rows of a job."""
        before, sum_before = self._paid.get(job, (0, 0.0))
        self._paid[job] = before + rows, sum_before + rows * price_per_million

    def per_million(self, job: JobId) -> float | None:
        """Return what a million rows of a job cost so far; None: no node has run any."""
        rows, prices = self._paid.get(job, (0, 0.0))
        return prices / rows if rows else None

    def keep(self, jobs: Collection[JobId]) -> None:
        """Forget all jobs but these."""
        self._paid = {job: paid for job, paid in self._paid.items() if job in jobs}
