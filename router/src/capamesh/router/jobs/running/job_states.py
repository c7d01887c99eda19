"""The jobs that have not ended, as this router knows them, and the models that they run. IO: the store.

The store is looked at twice a second, for other routers and people change it. A job whose model nobody hosts is said to be blocked, and
goes on by itself once somebody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.errors import JobConflict, JobNotFound
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.states import JobState

if TYPE_CHECKING:
    from capamesh.router.jobs.running.nodes import Nodes
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, JobId, Pinned

ABSENT_S: Final = 10.0
"""Seconds for which nobody hosts a model before its jobs are said to be blocked: a node restarts in less (guess)."""
MANY: Final = 64
"""The number of new jobs from which on all are read at once."""


class JobStates:
    """The jobs that have not ended."""

    def __init__(
        self, store: JobStore, nodes: Nodes, owner: str, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._owner = owner
        self._clock = clock
        self.jobs: dict[JobId, Job] = {}
        """The jobs, by id."""
        self.works: dict[tuple[str, Pinned], ModelWork] = {}
        """The models that they run and somebody hosts, or has hosted, by name and pin."""
        self._absent_s: dict[tuple[str, Pinned], float] = {}
        """The times since which nobody hosts a model."""
        self._most: dict[JobId, int] = {}
        """The calls that a job may have in flight here, of those that say how many."""
        self.must_look = asyncio.Event()
        """The event that the store may have changed."""

    def work_of(self, job: Job) -> ModelWork | None:
        """Return the model that a job runs; None: nobody hosts it."""
        return self.works.get((job.spec.model, job.pinned))

    def is_running(self, job: JobId) -> bool:
        """Return whether a job runs, as of the last look."""
        found = self.jobs.get(job)
        return found is not None and found.state is JobState.RUNNING

    async def look(self) -> set[JobId]:
        """Take over the states of all jobs, and return those that a person has let go on."""
        # together, they are one transaction
        _, found = await asyncio.gather(self._store.expire(), self._store.states())
        states = dict(found)
        resumed = await self._take(states)
        for job_id in self.jobs.keys() - states.keys():
            del self.jobs[job_id]
        await self._share()
        await self._look_at_models()
        return resumed

    async def _take(self, states: dict[JobId, JobState]) -> set[JobId]:
        resumed: set[JobId] = set()
        unknown: list[JobId] = []
        for job_id, state in states.items():
            known = self.jobs.get(job_id)
            if known is None or (known.state is JobState.PLANNING and state is not known.state):
                unknown.append(job_id)  # what the plan has found belongs to the job
            elif known.state is not state:
                self.jobs[job_id] = replace(known, state=state)
                if known.state is JobState.PAUSED:
                    resumed.add(job_id)
        if len(unknown) >= MANY:
            for job in await self._store.under_way():
                self.jobs[job.id] = job
            return resumed
        for job_id in unknown:
            with suppress(JobNotFound):  # it was forgotten meanwhile
                self.jobs[job_id] = await self._store.get(job_id, None)
        return resumed

    async def _share(self) -> None:
        """Divide the calls that a job may have in flight among the routers that work on it now."""
        most: dict[JobId, int] = {}
        for job in self.jobs.values():
            if job.spec.concurrency and job.state is JobState.RUNNING:
                holders = await self._store.holders(job.id)
                most[job.id] = share_of(job.spec.concurrency, self._owner, holders)
        self._most = most

    async def _look_at_models(self) -> None:
        """Bring jobs into the state that who hosts their models makes true."""
        now_s = self._clock()
        wanted: dict[tuple[str, Pinned], list[Job]] = {}
        for job in self.jobs.values():
            wanted.setdefault((job.spec.model, job.pinned), []).append(job)
        for key in self.works.keys() - wanted.keys():
            if not self.works[key].lane.in_flight:
                del self.works[key]
        for key in self._absent_s.keys() - wanted.keys():
            del self._absent_s[key]
        for key, jobs in wanted.items():
            model, pinned = key
            if self._nodes.hosting(pinned, model) is not None:
                self._absent_s.pop(key, None)
                if key not in self.works:
                    work = ModelWork(pinned, model, self._nodes, self._most_of, self._clock)
                    self.works[key] = work
                    work.look()
                for job in jobs:
                    if job.state is JobState.BLOCKED:
                        await self.move(job.id, JobState.RUNNING)
            elif now_s - self._absent_s.setdefault(key, now_s) >= ABSENT_S:
                await self._block(jobs, self._nodes.absence(pinned, model))

    def _most_of(self, job: JobId) -> int | None:
        return self._most.get(job)

    async def _block(self, jobs: list[Job], reason: str) -> None:
        for job in jobs:
            # another router may reach who hosts the model
            if job.state is JobState.RUNNING and not (
                await self._store.holders(job.id) - {self._owner}
            ):
                await self.move(job.id, JobState.BLOCKED, reason)

    async def move(self, job: JobId, to: JobState, reason: str = "") -> None:
        """Bring a job into a state, if it is not too late for that."""
        with suppress(JobConflict, JobNotFound):
            moved = await self._store.move(job, to, reason)
            if job in self.jobs:
                self.jobs[job] = moved
        self.must_look.set()


def share_of(most: int, owner: str, holders: Set[str]) -> int:
    """Return the calls that a router may have in flight of `most`, which all `holders` and it divide among them."""
    names = sorted({*holders, owner})
    return most // len(names) + (names.index(owner) < most % len(names))
