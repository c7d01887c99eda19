"""The store's operations by which a router follows the states of all jobs: what changed, and all of them in turn. IO: the turn's connection.

Each change of a state leaves an event, so the events of late name the jobs that changed, however many others there are. All the others
are read a page at a time as well: a change that came to light late, or that the clock hid, is found within one such round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Double, Integer, Text, bindparam, select, tuple_

from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import COLUMNS, job_of
from capamesh.router.jobs.store.tables import EVENTS, IS_UNDER_WAY, JOBS
from capamesh.router.jobs.values import Job, JobId

OVERLAP_S: Final = 2.0
"""Seconds of the time before the last look that are looked at again: a change is told with the time at which its transaction began, and
seen when that has ended (guess: nearly all take milliseconds)."""
FIRST: Final = ("", "")
"""The place before all jobs."""

_CHANGED: Final = select(JOBS.c.id, JOBS.c.state).where(
    JOBS.c.id.in_(
        select(EVENTS.c.job).where(EVENTS.c.at_s >= bindparam("the_since_s", type_=Double))
    )
)
_PAGE: Final = (
    select(JOBS.c.tenant, JOBS.c.id, JOBS.c.state)
    .where(
        IS_UNDER_WAY,
        tuple_(JOBS.c.tenant, JOBS.c.id)
        > tuple_(bindparam("the_tenant", type_=Text), bindparam("the_last", type_=Text)),
    )
    .order_by(JOBS.c.tenant, JOBS.c.id)
    .limit(bindparam("the_count", type_=Integer))
)
_SOME: Final = select(*COLUMNS).where(
    JOBS.c.id.in_(bindparam("the_jobs", type_=Text, expanding=True))
)


@dataclass(frozen=True, slots=True)
class StatesSeen:
    """The states of jobs at one look."""

    now_s: float
    """The store's time, from which the next look goes on."""
    changed: list[tuple[JobId, JobState]]
    """The jobs whose state may have changed since the last look; some of them have ended."""
    page: list[tuple[JobId, JobState]]
    """A page of all jobs that have not ended."""
    last: tuple[str, str]
    """The place of the last of the page, from which the next goes on."""


def look_at_states(turn: Turn, since_s: float, last: tuple[str, str], count: int) -> StatesSeen:
    """Return the jobs whose state changed since a time of the store, and at most `count` of those under way after the place `last`."""
    since_s = min(since_s, turn.now_s) - OVERLAP_S  # the clock may have been set back
    run = turn.connection.execute
    changed = [
        (JobId(row.id), JobState(row.state)) for row in run(_CHANGED, {"the_since_s": since_s})
    ]
    asked = {"the_tenant": last[0], "the_last": last[1], "the_count": count}
    rows: Sequence[Any] = run(_PAGE, asked).all() if count else ()
    page = [(JobId(row.id), JobState(row.state)) for row in rows]
    return StatesSeen(turn.now_s, changed, page, (rows[-1].tenant, rows[-1].id) if rows else last)


def some(turn: Turn, job_ids: Sequence[JobId]) -> list[Job]:
    """Return those of some jobs that there are, in no order."""
    return [job_of(row) for row in turn.connection.execute(_SOME, {"the_jobs": list(job_ids)})]
