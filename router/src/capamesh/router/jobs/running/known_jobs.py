"""The jobs that have not ended, as one router knows them, found by their id, their model and their state. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.jobs.states import JobState
    from capamesh.router.jobs.values import Job, JobId, Pinned

    ModelKey = tuple[str, Pinned]


class KnownJobs:
    """The known jobs: what is asked many times a second costs as much as it finds, however many others there are."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._sorted: dict[ModelKey, dict[JobState, dict[JobId, Job]]] = {}

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job: JobId) -> Job | None:
        """Return a job by its id; None: it is not known, or has ended."""
        return self._jobs.get(job)

    def ids(self) -> set[JobId]:
        """Return the ids of all."""
        return set(self._jobs)

    def put(self, job: Job) -> None:
        """Know a job as it is now."""
        self.forget(job.id)
        self._jobs[job.id] = job
        of_model = self._sorted.setdefault((job.spec.model, job.pinned), {})
        of_model.setdefault(job.state, {})[job.id] = job

    def forget(self, job: JobId) -> None:
        """Know a job no more; nothing happens if it is not known."""
        known = self._jobs.pop(job, None)
        if known is None:
            return
        key = known.spec.model, known.pinned
        of_model = self._sorted[key]
        del of_model[known.state][job]
        if not of_model[known.state]:
            del of_model[known.state]
            if not of_model:
                del self._sorted[key]

    def models(self) -> list[ModelKey]:
        """Return the models that jobs run, by name and pin."""
        return list(self._sorted)

    def of(self, key: ModelKey, state: JobState) -> Collection[Job]:
        """Return the jobs of a model that are in a state; they must not change while they are gone through."""
        return self._sorted.get(key, {}).get(state, {}).values()

    def in_state(self, state: JobState) -> Iterator[Job]:
        """Yield the jobs in a state; they must not change meanwhile."""
        for of_model in self._sorted.values():
            yield from of_model.get(state, {}).values()
