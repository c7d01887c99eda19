"""The pace of the jobs that this router knows, and what it promises of new ones. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.running.estimate import Estimate, promised_s
from capamesh.router.jobs.standing import Progress
from capamesh.router.jobs.values import JobId

if TYPE_CHECKING:
    from capamesh.router.jobs.values import Counts, Job

REMEMBERED_S: Final = 600.0
"""Seconds for which the rate of jobs is taken to be what a model's jobs get (guess)."""

LOOK_S: Final = 2.0
"""Seconds between two looks at how far a job is."""
LOOK_PART: Final = 0.05
"""The same as a part of the time since the first one, where that is less (guess: an estimate is as exact)."""
DRY: Final = JobId("job-dry")
"""Stands for the job of a dry run."""
TOGETHER_S: Final = 30.0
"""Rates that were measured within so many seconds are of jobs that ran side by side (guess: some looks at each)."""


@dataclass(slots=True)
class _Known:
    """The counts of one job as they were last read."""

    done_rows: int = 0
    estimate: Estimate = field(default_factory=Estimate)
    first_s: float = 0.0
    """The time of the first look."""
    last_s: float = 0.0


class ProgressOfJobs:
    """The progress of the jobs under way. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._known: dict[JobId, _Known] = {}
        self._measured: dict[str, dict[JobId, tuple[float, float]]] = {}
        """The rows a second of the jobs of each model, and when that was."""

    def is_due(self, job: JobId, now_s: float) -> bool:
        """Return whether it is time to look how far a job is: soon for one that has just begun."""
        known = self._known.get(job)
        if known is None:
            return True
        rest_s = min(LOOK_S, (now_s - known.first_s) * LOOK_PART)
        return now_s - known.last_s >= rest_s

    def take(self, job: Job, counts: Counts, now_s: float) -> None:
        """Take in how far a job is."""
        known = self._known.setdefault(job.id, _Known(first_s=now_s))
        known.last_s = now_s
        known.done_rows = counts.rows + counts.bad_rows
        known.estimate.observe(known.done_rows, now_s)
        rate = known.estimate.rows_per_s()
        if (
            rate and not job.spec.concurrency
        ):  # one that may not have more says nothing of what there is
            others = self._measured.get(job.spec.model, {})
            # the rates of jobs that have ended are no part of what runs now
            side = {each: told for each, told in others.items() if each in self._known}
            self._measured[job.spec.model] = {**side, job.id: (rate, now_s)}

    def measured(self, model: str, rows_per_s: float, now_s: float) -> None:
        """Take in the rate of rows of a model of which no job runs."""
        self._measured[model] = {DRY: (rows_per_s, now_s)}

    def keep(self, jobs: Container[JobId]) -> None:
        """Forget all jobs but these."""
        for job in [job for job in self._known if job not in jobs]:
            del self._known[job]
        self._measured = {model: jobs for model, jobs in self._measured.items() if jobs}

    def left_rows(self, job: Job) -> int:
        """Return the rows of a job that are to be run still, as far as is known."""
        known = self._known.get(job.id)
        return max(0, job.rows - (0 if known is None else known.done_rows))

    def of(self, job: Job, nodes: int) -> Progress | None:
        """Return the pace of a job that so many nodes work on; None: nothing is known of it."""
        known = self._known.get(job.id)
        if known is None:
            return None
        rate = known.estimate.rows_per_s()
        left_s = known.estimate.left_s(job.rows - known.done_rows)
        return Progress(rate, left_s, nodes)

    def promise(
        self,
        model: str,
        rows: int,
        others: Iterable[Job],
        advertised_per_s: float | None,
        now_s: float,
    ) -> float | None:
        """Return the seconds that a job of so many rows takes beside others of its model; None: nobody can tell.

        `advertised_per_s` is what nodes say that they run, which counts where no job has shown it of late. Jobs take turns, so
        that each of the others gets as many rows meanwhile as this one, unless it has fewer.
        """
        rate = self._measured_per_s(model, now_s) or advertised_per_s
        if rate is None:
            return None
        ahead = sum(min(rows, self.left_rows(job)) for job in others)
        return promised_s(rows, ahead, rate)

    def _measured_per_s(self, model: str, now_s: float) -> float:
        """Return what all jobs of a model together got at the last time that any ran; 0: that was too long ago."""
        measured = self._measured.get(model, {})
        for job in [job for job, (_, at_s) in measured.items() if at_s < now_s - REMEMBERED_S]:
            del measured[job]
        newest_s = max((at_s for _, at_s in measured.values()), default=0.0)
        return sum(rate for rate, at_s in measured.values() if at_s > newest_s - TOGETHER_S)
