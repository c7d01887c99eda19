"""Remembers what went wrong with each job at this router, and when it is tried again. Pure.

A shard that failed is tried again at once by another router, and by this one after a rest. What a person must put right, such as a
disk that is full, pauses the job once it has failed three times in a row here, so that it goes on when that is done, instead of
using up the failures after which a job has failed for good.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capamesh.router.jobs.values import JobId

FIRST_REST_S: Final = 1.0
"""Seconds for which this router leaves a job alone after its first failure; they double with each more (guess)."""
MOST_REST_S: Final = 30.0
"""The longest rest (guess)."""
PATIENCE: Final = 3
"""The failures in a row after which a person is asked."""


class Setbacks:
    """The setbacks of a router's jobs. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._of: dict[JobId, tuple[int, float]] = {}
        """The failures in a row of each job, and until when it rests."""
        self._unwritten: dict[JobId, int] = {}
        """The bytes of results of each job's last shard that could not be written."""

    def failed(self, job: JobId, now_s: float) -> bool:
        """Take in a failure, and return whether it is one too many in a row."""
        times = self._of.get(job, (0, 0.0))[0] + 1
        rest_s = min(MOST_REST_S, FIRST_REST_S * 2.0 ** min(times - 1, 10))
        self._of[job] = times, now_s + rest_s
        return times >= PATIENCE

    def went_well(self, job: JobId) -> None:
        """Take in that a shard of a job is done, or a person says that the next one will be."""
        self._of.pop(job, None)

    def could_not_write(self, job: JobId, size_bytes: int) -> None:
        """Take in that results of so many bytes had no place: before a shard is paid again, there is to be room for as many."""
        self._unwritten[job] = size_bytes

    def wrote(self, job: JobId) -> None:
        """Take in that results were written."""
        self._unwritten.pop(job, None)

    def unwritten_bytes(self, job: JobId) -> int | None:
        """Return for how many bytes there was no room last; None: they were written."""
        return self._unwritten.get(job)

    def has_failed(self, job: JobId) -> bool:
        """Return whether the last shard of a job that ended here has failed."""
        return job in self._of

    def rests(self, job: JobId, now_s: float) -> bool:
        """Return whether a job is left alone now."""
        found = self._of.get(job)
        return found is not None and now_s < found[1]

    def keep(self, jobs: Container[JobId]) -> None:
        """Forget all jobs but these."""
        for of_jobs in (self._of, self._unwritten):
            for job in [job for job in of_jobs if job not in jobs]:
                del of_jobs[job]
