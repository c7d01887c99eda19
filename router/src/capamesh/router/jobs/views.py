"""Jobs as they are shown: the job, how far it is, and its pace. IO: the store.

To sum over the shards of a long job takes milliseconds of the store, so the sums are kept for a second, however many ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.values import Counts, Job, JobId

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
        self._kept: dict[JobId, tuple[float, Counts]] = {}

    async def of(self, job: Job) -> JobView:
        """Return the view of a job."""
        (view,) = await self.of_each((job,))
        return view

    async def of_each(self, jobs: Sequence[Job]) -> list[JobView]:
        """Return the views of jobs, each in its place."""
        now_s = self._clock()
        needed = [
            job.id for job in jobs if job.counts is None and self._known(job.id, now_s) is None
        ]
        found: dict[JobId, Counts] = {}
        if needed:
            store = await self._store()
            found = dict(zip(needed, await store.counts_of(needed), strict=True))
            if len(self._kept) + len(found) > MOST_KEPT:
                self._kept.clear()
            self._kept.update({job_id: (now_s, each) for job_id, each in found.items()})
        return [
            self.view(
                job, job.counts or found.get(job.id) or self._known(job.id, now_s) or Counts()
            )
            for job in jobs
        ]

    def view(self, job: Job, counts: Counts) -> JobView:
        """Return the view of a job whose counts are known."""
        progress = None if job.counts else self._standing(job.id)
        return JobView(job, counts, progress)

    def forget(self, job: JobId) -> None:
        """Sum anew when the job is shown next."""
        self._kept.pop(job, None)

    def _known(self, job: JobId, now_s: float) -> Counts | None:
        at_s, counts = self._kept.get(job, (now_s - FRESH_S, None))
        return counts if now_s - at_s < FRESH_S else None
