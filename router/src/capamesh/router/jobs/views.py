"""Jobs as they are shown: the job, how far it is, and its pace. IO: the store.

To sum over the shards of a long job takes milliseconds of the store, so the sums are kept for a second, however many ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.values import Counts, Job, JobId, Price

if TYPE_CHECKING:
    from capamesh.router.jobs.standing import Progress
    from capamesh.router.jobs.store.job_store import JobStore

FRESH_S: Final = 1.0
"""Seconds for which sums are shown again."""
MOST_KEPT: Final = 4096
"""The most jobs whose sums are kept."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it is shown."""

    job: Job
    counts: Counts
    price: Price
    progress: Progress | None
    """The pace of a job under way; None: this router knows nothing of it."""


class JobViews:
    """The views of one router's process."""

    def __init__(
        self,
        store: Callable[[], Awaitable[JobStore]],
        standing: Callable[[JobId], Progress | None],
        clock: Callable[[], float],
    ) -> None:
        """`standing` returns the pace of a job, where it is known; `clock` is one that never goes back, in seconds."""
        self._store = store
        self._standing = standing
        self._clock = clock
        self._kept: dict[JobId, tuple[float, Counts, Price]] = {}

    async def of(self, job: Job) -> JobView:
        """Return the view of a job."""
        (view,) = await self.of_each((job,))
        return view

    async def of_each(self, jobs: Sequence[Job]) -> list[JobView]:
        """Return the views of jobs, each in its place."""
        now_s = self._clock()
        found = {job.id: kept for job in jobs if (kept := self._known(job.id, now_s)) is not None}
        needed = [job for job in jobs if job.id not in found]
        if needed:
            store = await self._store()
            sums = await store.sums_of(needed)
            new = {job.id: (now_s, *each) for job, each in zip(needed, sums, strict=True)}
            if len(self._kept) + len(new) > MOST_KEPT:
                self._kept.clear()
            self._kept.update(new)
            found |= new
        return [self.view(job, job.counts or found[job.id][1], found[job.id][2]) for job in jobs]

    def view(self, job: Job, counts: Counts, price: Price) -> JobView:
        """Return the view of a job whose counts and price are known."""
        progress = None if job.counts else self._standing(job.id)
        return JobView(job, counts, price, progress)

    def forget(self, job: JobId) -> None:
        """Sum anew when the job is shown next."""
        self._kept.pop(job, None)

    def _known(self, job: JobId, now_s: float) -> tuple[float, Counts, Price] | None:
        kept = self._kept.get(job)
        return kept if kept is not None and now_s - kept[0] < FRESH_S else None
