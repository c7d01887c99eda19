"""The jobs that have not ended, as this router knows them, and the models that they run. IO: the store.

The store is looked at twice a second, for other routers and people change it: at what changed, and at all other jobs a page at a time.
A job whose model nobody hosts is said to be blocked, and goes on by itself once somebody does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.errors import JobConflict, JobNotFound
from capamesh.router.jobs.running.known_jobs import KnownJobs
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.states import ENDED, JobState
from capamesh.router.jobs.store.state_operations import FIRST

if TYPE_CHECKING:
    from capamesh.router.jobs.running.nodes import Nodes
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, JobId, Pinned

ABSENT_S: Final = 10.0
"""Seconds for which nobody hosts a model before its jobs are said to be blocked: a node restarts in less (guess)."""
PAGE: Final = 500
"""The states that are read beside those that changed (guess: a millisecond; of fewer jobs, all are)."""
PAGE_S: Final = 0.4
"""Seconds between two such pages: looks for what changed come more often, with each submission."""


class JobStates:
    """The jobs that have not ended."""

    def __init__(
        self, store: JobStore, nodes: Nodes, owner: str, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._owner = owner
        self._clock = clock
        self.jobs: Final = KnownJobs()
        """The jobs."""
        self.works: dict[tuple[str, Pinned], ModelWork] = {}
        """The models that they run and somebody hosts, or has hosted, by name and pin."""
        self._absent_s: dict[tuple[str, Pinned], float] = {}
        """The times since which nobody hosts a model."""
        self._most: dict[JobId, int] = {}
        """The calls that a job may have in flight here, of those that say how many."""
        self._seen_s = math.inf
        """The store's time of the last look; infinity: there was none."""
        self._knows_all = False
        """True once all jobs were read."""
        self._last: tuple[str, str] = FIRST
        """The place up to which all jobs were read in this round."""
        self._paged_s = -math.inf
        """The time of the last page."""
        self._unseen: set[JobId] = set()
        """The jobs that were known when the round began and were not read in it: at its end, they have ended."""
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
        """Take over what changed of all jobs, and return those that a person has let go on."""
        resumed = await self._look_at_states()
        while not self._knows_all:
            resumed |= await self._look_at_states()
        await self._share()
        await self._look_at_models()
        return resumed

    async def _look_at_states(self) -> set[JobId]:
        now_s = self._clock()
        is_paging = not self._knows_all or now_s - self._paged_s >= PAGE_S
        count = PAGE if is_paging else 0
        # together, they are one transaction
        _, seen = await asyncio.gather(
            self._store.expire(), self._store.look_at_states(self._seen_s, self._last, count)
        )
        gone = {job for job, state in seen.changed if state in ENDED}
        states = {job: state for job, state in seen.changed if job not in gone}
        states.update(seen.page)
        resumed = await self._take(states)
        self._unseen.difference_update(states)
        self._last = seen.last
        if is_paging:
            self._paged_s = now_s
        is_round_over = is_paging and len(seen.page) < PAGE
        if is_round_over:
            gone |= self._unseen
        for job in gone:
            self.jobs.forget(job)
        if is_round_over:
            self._last = FIRST
            self._unseen = self.jobs.ids()
            self._knows_all = True
        self._seen_s = seen.now_s
        return resumed

    async def _take(self, states: dict[JobId, JobState]) -> set[JobId]:
        resumed: set[JobId] = set()
        unknown: list[JobId] = []
        for job_id, state in states.items():
            known = self.jobs.get(job_id)
            if known is None or (known.state is JobState.PLANNING and state is not known.state):
                unknown.append(job_id)  # what the plan has found belongs to the job
            elif known.state is not state:
                self.jobs.put(replace(known, state=state))
                if known.state is JobState.PAUSED:
                    resumed.add(job_id)
        for at in range(0, len(unknown), PAGE):
            for job in await self._store.some(unknown[at : at + PAGE]):
                if job.state not in ENDED:
                    self.jobs.put(job)
        return resumed

    async def _share(self) -> None:
        """Divide the calls that a job may have in flight among the routers that work on it now."""
        bounded = [job for job in self.jobs.in_state(JobState.RUNNING) if job.spec.concurrency]
        holders = await self._holders(bounded)
        self._most = {
            job.id: share_of(job.spec.concurrency, self._owner, holders[job.id]) for job in bounded
        }

    async def _holders(self, jobs: Iterable[Job]) -> dict[JobId, set[str]]:
        """Return the routers that have leases of each of some jobs."""
        ids = [job.id for job in jobs]
        found: dict[JobId, set[str]] = {}
        for at in range(0, len(ids), PAGE):
            found.update(await self._store.holders(ids[at : at + PAGE]))
        return found

    async def _look_at_models(self) -> None:
        """Bring jobs into the state that who hosts their models makes true."""
        now_s = self._clock()
        wanted = self.jobs.models()
        for key in self.works.keys() - wanted:
            if not self.works[key].lane.in_flight:
                del self.works[key]
        for key in self._absent_s.keys() - wanted:
            del self._absent_s[key]
        for key in wanted:
            model, pinned = key
            if self._nodes.hosting(pinned, model) is not None:
                self._absent_s.pop(key, None)
                if key not in self.works:
                    work = ModelWork(pinned, model, self._nodes, self._most_of, self._clock)
                    self.works[key] = work
                    work.look()
                for job in list(self.jobs.of(key, JobState.BLOCKED)):
                    await self.move(job.id, JobState.RUNNING)
            elif now_s - self._absent_s.setdefault(key, now_s) >= ABSENT_S:
                running = list(self.jobs.of(key, JobState.RUNNING))
                await self._block(running, self._nodes.absence(pinned, model))

    def _most_of(self, job: JobId) -> int | None:
        return self._most.get(job)

    async def _block(self, jobs: list[Job], reason: str) -> None:
        holders = await self._holders(jobs)
        for job in jobs:
            # another router may reach who hosts the model
            if not holders[job.id] - {self._owner}:
                await self.move(job.id, JobState.BLOCKED, reason)

    async def move(self, job: JobId, to: JobState, reason: str = "") -> None:
        """Bring a job into a state, if it is not too late for that."""
        with suppress(JobConflict, JobNotFound):
            moved = await self._store.move(job, to, reason)
            if job in self.jobs:
                self.jobs.put(moved)
        self.must_look.set()


def share_of(most: int, owner: str, holders: Set[str]) -> int:
    """Return the calls that a router may have in flight of `most`, which all `holders` and it divide among them."""
    names = sorted({*holders, owner})
    return most // len(names) + (names.index(owner) < most % len(names))
