"""The store's operations for those who look at jobs: one job with what has happened to it, and all by state. IO: the turn's connection."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Text, bindparam, func, select

from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import MAX_PAGE, counts, events, get
from capamesh.router.jobs.store.tables import JOBS
from capamesh.router.jobs.values import JobId, JobLook

_LAST_EVENT: Final = select(JOBS.c.events).where(JOBS.c.id == bindparam("the_job", type_=Text))
_STATES: Final = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)


def look(turn: Turn, job_id: JobId, tenant: str | None, after: int) -> JobLook:
    """Return a job, its counts, and its events after one, by its number; raises `JobNotFound`."""
    job = get(turn, job_id, tenant)
    last = turn.connection.execute(_LAST_EVENT, {"the_job": job_id}).scalar_one()
    found = events(turn, job_id, after, MAX_PAGE)
    return JobLook(job, job.counts or counts(turn, job_id), last, found)


def count_states(turn: Turn) -> dict[JobState, int]:
    """Return how many jobs are in each state that some are in."""
    return {JobState(state): count for state, count in turn.connection.execute(_STATES)}
