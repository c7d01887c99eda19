"""The store's operations for those who look at jobs: one job with what has happened to it, and all by state. IO: the turn's connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Text, bindparam, func, select

from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import MAX_PAGE, counts, events, get
from capamesh.router.jobs.store.price_operations import prices_of
from capamesh.router.jobs.store.tables import JOBS
from capamesh.router.jobs.values import Counts, Job, JobId, JobLook, Price

_LAST_EVENT: Final = select(JOBS.c.events).where(JOBS.c.id == bindparam("the_job", type_=Text))
_STATES: Final = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)


def look(turn: Turn, job_id: JobId, tenant: str | None, after: int) -> JobLook:
    """Return a job, its counts and price, and its events after one, by its number; raises `JobNotFound`."""
    job = get(turn, job_id, tenant)
    last = turn.connection.execute(_LAST_EVENT, {"the_job": job_id}).scalar_one()
    found = events(turn, job_id, after, MAX_PAGE)
    (price,) = prices_of(turn, (job_id,))
    return JobLook(job, job.counts or counts(turn, job_id), price, last, found)


def sums_of(turn: Turn, jobs: Sequence[Job]) -> list[tuple[Counts, Price]]:
    """Return how far jobs are, and what they have cost, each in its place."""
    prices = prices_of(turn, [job.id for job in jobs])
    return [
        (job.counts or counts(turn, job.id), price) for job, price in zip(jobs, prices, strict=True)
    ]


def count_states(turn: Turn) -> dict[JobState, int]:
    """Return how many jobs are in each state that some are in."""
    return {JobState(state): count for state, count in turn.connection.execute(_STATES)}
