"""The store's operations on the plan of a job: who reads the input, and the shards that come of it. IO: the turn's connection.

A plan is made by one router under a lease of the whole job, with the rules of a shard's lease; what a router wrote that lost
it is thrown away by the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Double, Integer, Text, bindparam, delete, func, insert, or_, select, update

from capamesh.router.jobs.states import JobState, ShardState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import get, has_ended_readers, move, note
from capamesh.router.jobs.store.lease_operations import FAR_S
from capamesh.router.jobs.store.tables import IS_PLANNING, JOBS, SHARDS
from capamesh.router.jobs.values import LEASE_S, Job, JobId, RowRange, short

MAX_SHARDS: Final = 100_000
"""The most shards of a job: some 30 MB of the store."""
MAX_PLANS: Final = 3
"""A job whose plan was begun so often and never ended has failed: its input may end who reads it (guess)."""
REST_S: Final = 20.0
"""Seconds for which a plan whose input cannot be read now is left alone: less than `FAR_S`."""

_JOB: Final = bindparam("the_job", type_=Text)
_TOKEN: Final = bindparam("the_token", type_=Integer)
_NOW: Final = bindparam("the_now_s", type_=Double)
_UNTIL: Final = bindparam("the_until_s", type_=Double)
_FREE: Final = (
    select(JOBS.c.id)
    .where(IS_PLANNING, or_(JOBS.c.until_s <= _NOW, JOBS.c.until_s > _NOW + FAR_S))
    .order_by(JOBS.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .cte("free")
)
_TAKE: Final = (
    update(JOBS)
    .where(JOBS.c.id.in_(select(_FREE.c.id)))
    .values(token=JOBS.c.token + 1, owner=bindparam("the_owner", type_=Text), until_s=_UNTIL)
    .returning(JOBS.c.id, JOBS.c.token)
)
_CLEAR: Final = delete(SHARDS).where(SHARDS.c.job == _JOB)
_CLEAR_FROM: Final = _CLEAR.where(SHARDS.c.seq >= bindparam("the_seq", type_=Integer))
_RENEW: Final = (
    update(JOBS)
    .where(JOBS.c.id == _JOB, JOBS.c.token == _TOKEN, IS_PLANNING)
    .values(until_s=_UNTIL)
    .returning(JOBS.c.id)
)
_REST: Final = (
    update(JOBS)
    .where(JOBS.c.id == _JOB, JOBS.c.token == _TOKEN, IS_PLANNING)
    .values(
        # the token counts the plans that were begun: this one is not to count
        token=JOBS.c.token - 1,
        owner="",
        until_s=_UNTIL,
        reason=bindparam("the_reason", type_=Text),
    )
)
_INSERT: Final = insert(SHARDS)
_COUNT: Final = select(func.count(), func.coalesce(func.sum(SHARDS.c.rows), 0)).where(
    SHARDS.c.job == _JOB
)
_PLANNED: Final = (
    update(JOBS)
    .where(JOBS.c.id == _JOB)
    .values(
        rows=bindparam("the_rows"),
        shards=bindparam("the_shards", type_=Integer),
        fingerprint=bindparam("the_fingerprint", type_=Text),
        owner="",
    )
)


def claim_plan(turn: Turn, owner: str) -> tuple[Job, int] | None:
    """Lease the oldest job that has no plan to a router and return it and its token; None: there is none."""
    while True:
        asked = {
            "the_owner": owner,
            "the_now_s": turn.now_s,
            "the_until_s": turn.now_s + LEASE_S,
        }
        row = turn.connection.execute(_TAKE, asked).first()
        if row is None:
            return None
        job_id = JobId(row.id)
        turn.connection.execute(_CLEAR, {"the_job": job_id})
        if row.token <= MAX_PLANS:
            return get(turn, job_id), row.token
        words = f"the plan was begun {MAX_PLANS} times and never ended: the input may be more than a router can read"
        move(turn, job_id, JobState.FAILED, words)


def renew_plan(turn: Turn, job_id: JobId, token: int) -> bool:
    """Make the lease hold `LEASE_S` from now; False: it is lost, or the job has ended."""
    asked = {"the_job": job_id, "the_token": token, "the_until_s": turn.now_s + LEASE_S}
    return turn.connection.execute(_RENEW, asked).first() is not None


def add_shards(
    turn: Turn, job_id: JobId, token: int, from_seq: int, ranges: Sequence[RowRange]
) -> bool:
    """Add shards to a plan, numbered from `from_seq`, and renew its lease; False: it is lost, or the job has ended.

    Those that were added from there on before are thrown away: who asks again, for the answer was lost, adds them once.
    """
    if not renew_plan(turn, job_id, token):
        return False
    turn.connection.execute(_CLEAR_FROM, {"the_job": job_id, "the_seq": from_seq})
    turn.connection.execute(
        _INSERT, [_values(job_id, from_seq + at, each) for at, each in enumerate(ranges)]
    )
    return True


def finish_plan(turn: Turn, job_id: JobId, token: int, fingerprint: str) -> Job | None:
    """Let a job run whose shards are all added, and return it; None: the lease is lost, or the job has ended."""
    if not renew_plan(turn, job_id, token):
        return None
    shards, rows = turn.connection.execute(_COUNT, {"the_job": job_id}).one()
    planned = {"the_rows": int(rows), "the_shards": shards, "the_fingerprint": fingerprint}
    turn.connection.execute(_PLANNED, {"the_job": job_id, **planned})
    note(turn, job_id, "planned", f"{rows} rows in {shards} shard{'' if shards == 1 else 's'}")
    return move(turn, job_id, JobState.RUNNING)


def rest_plan(turn: Turn, job_id: JobId, token: int, reason: str) -> bool:
    """Give a plan back whose input cannot be read now, so that it is begun anew in a while; False: the lease is lost, or the job has ended.

    That it was begun does not count. Its reason becomes the job's.
    """
    if not renew_plan(turn, job_id, token):
        return False
    words = short(reason)
    if get(turn, job_id).reason != words:
        note(turn, job_id, "waiting", words)
    asked = {"the_job": job_id, "the_token": token, "the_until_s": turn.now_s + REST_S}
    turn.connection.execute(_REST, {**asked, "the_reason": words})
    return True


def lose_plan(turn: Turn, job_id: JobId, token: int, reason: str) -> Job | None:
    """Give a plan back that ended who read the input, to be begun anew; return the job if it has failed of that.

    None: it is begun anew, or the lease is lost, or the job has ended.
    """
    if not renew_plan(turn, job_id, token):
        return None
    if has_ended_readers(turn, job_id, "plan", reason):
        return move(turn, job_id, JobState.FAILED, reason)
    turn.connection.execute(_RENEW, {"the_job": job_id, "the_token": token, "the_until_s": 0.0})
    return None


def fail_plan(turn: Turn, job_id: JobId, token: int, reason: str) -> Job | None:
    """End a job whose input cannot be planned, and return it; None: the lease is lost, or the job has ended."""
    if not renew_plan(turn, job_id, token):
        return None
    return move(turn, job_id, JobState.FAILED, reason)


def _values(job_id: JobId, seq: int, rows: RowRange) -> dict[str, Any]:
    return {
        "job": job_id,
        "seq": seq,
        "first_row": rows.first_row,
        "rows": rows.rows,
        "group": rows.group,
        "offset": rows.offset,
        "size_bytes": rows.size_bytes,
        "digest": rows.digest,
        "state": ShardState.OPEN.value,
        "token": 0,
        "owner": "",
        "first_token": 0,
        "leased_s": 0.0,
        "until_s": 0.0,
        "second_owner": "",
        "second_token": 0,
        "second_until_s": 0.0,
        "failures": 0,
        "done_rows": 0,
        "bad_rows": 0,
    }
