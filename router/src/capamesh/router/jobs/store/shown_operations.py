"""The store's operations for those who look at jobs: one job with what has happened to it, and all by state. IO: the turn's connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Text, bindparam, func, select

from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import MAX_PAGE, SUMS, counts, events, get
from capamesh.router.jobs.store.tables import JOBS, SHARDS
from capamesh.router.jobs.values import Counts, JobId, JobLook

_LAST_EVENT: Final = select(JOBS.c.events).where(JOBS.c.id == bindparam("the_job", type_=Text))
_COUNTS_OF: Final = (
    select(SHARDS.c.job, *SUMS)
    .where(SHARDS.c.job.in_(bindparam("the_jobs", type_=Text, expanding=True)))
    .group_by(SHARDS.c.job)
)
_STATES: Final = select(JOBS.c.state, func.count()).group_by(JOBS.c.state)


def look(turn: Turn, job_id: JobId, tenant: str | None, after: int) -> JobLook:
    """Return a job, its counts, and its events after one, by its number; raises `JobNotFound`."""
    job = get(turn, job_id, tenant)
    last = turn.connection.execute(_LAST_EVENT, {"the_job": job_id}).scalar_one()
    found = events(turn, job_id, after, MAX_PAGE)
    return JobLook(job, job.counts or counts(turn, job_id), last, found)


def counts_of(turn: Turn, job_ids: Sequence[JobId]) -> list[Counts]:
    """Return how far jobs are, each in its place."""
    found = dict.fromkeys(job_ids, Counts())
    asked = {"the_jobs": list(found), "the_now_s": turn.now_s}
    for job_id, *sums in turn.connection.execute(_COUNTS_OF, asked):
        found[JobId(job_id)] = Counts(*(int(each) for each in sums))
    return [found[job_id] for job_id in job_ids]


def count_states(turn: Turn) -> dict[JobState, int]:
    """Return how many jobs are in each state that some are in."""
    return {JobState(state): count for state, count in turn.connection.execute(_STATES)}
