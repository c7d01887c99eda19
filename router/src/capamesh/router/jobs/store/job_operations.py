"""The store's operations on jobs: functions of a `Turn`. IO: the turn's connection.

A job's row is locked by every change of its state, so the number of its next event is sure, and results are taken only while the
row says so: after a cancellation nothing is committed any more, and the counts that are kept with an end are final.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import (
    Integer,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from capamesh.protocol.errors import KeyUsed, TooManyRequests
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.schema import read
from capamesh.router.jobs.errors import JobConflict
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.states import COMMITTING, ENDED, JobState, before
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.tables import (
    BAD_ROWS,
    BATCHES,
    EVENTS,
    IS_DONE,
    IS_LEASED,
    IS_UNDER_WAY,
    IS_UNTIDY,
    JOBS,
    PRICES,
    SHARDS,
)
from capamesh.router.jobs.values import Counts, Event, Job, JobId, Pinned, Price, no_job, short

MAX_JOBS: Final = 50_000
"""The most jobs of a store, of all tenants (guess: what one file serves without a thought)."""
MAX_TENANT_JOBS: Final = 10_000
"""The most jobs that are kept of a tenant: the oldest that has ended is forgotten for a new one."""
MAX_UNDER_WAY: Final = 1000
"""The most jobs of a tenant that have not ended."""
MAX_EVENTS: Final = 1000
"""The most events that are kept of a job: the oldest go."""
MOST_READERS: Final = 2
"""A job has failed of which one shard, or the plan, has ended so many of the processes that read it: of one, something else may have been
the cause."""
READER_ENDED: Final = "reader_ended"
"""The kind of event that tells of one."""
MAX_PAGE: Final = 101
"""The most jobs or events that are read at once: a page of 100, and one more that tells whether there are others."""
MAX_EXPIRED: Final = 100
"""The most jobs that one look at the deadlines ends."""

_JOB: Final = bindparam("the_job", type_=Text)
_TENANT: Final = bindparam("the_tenant", type_=Text)
_COUNT: Final = bindparam("the_count", type_=Integer)


def _paid(column: Any) -> Any:  # noqa: ANN401 - expressions of SQL
    """Return the sum of a column of prices over all that ran a job."""
    return (
        select(func.coalesce(func.sum(column), 0))
        .where(PRICES.c.job == JOBS.c.id)
        .scalar_subquery()
    )


COLUMNS: Final = (
    *(
        column
        for column in JOBS.c
        if column.name not in {"spec_digest", "client_key", "is_tidy", "deadline_s", "events"}
    ),
    _paid(PRICES.c.rows).label("paid_rows"),
    _paid(PRICES.c.total).label("paid"),
)
"""The columns of which `job_of` makes a job."""
_GET: Final = select(*COLUMNS).where(JOBS.c.id == _JOB)
_BY_KEY: Final = select(*COLUMNS, JOBS.c.spec_digest).where(
    JOBS.c.tenant == _TENANT, JOBS.c.client_key == bindparam("the_key", type_=Text)
)
_COUNT_ALL: Final = select(func.count()).select_from(JOBS)
_COUNT_TENANT: Final = select(func.count()).where(JOBS.c.tenant == _TENANT)
_COUNT_UNDER_WAY: Final = select(func.count()).where(JOBS.c.tenant == _TENANT, IS_UNDER_WAY)
_OLDEST_ENDED: Final = (
    select(JOBS.c.id)
    .where(JOBS.c.tenant == _TENANT, JOBS.c.ended_s.is_not(None), JOBS.c.is_tidy)
    .order_by(JOBS.c.id)
    .limit(1)
)
_INSERT: Final = insert(JOBS)
_FORGET: Final = (
    delete(SHARDS).where(SHARDS.c.job == _JOB),
    delete(BAD_ROWS).where(BAD_ROWS.c.job == _JOB),
    delete(PRICES).where(PRICES.c.job == _JOB),
    delete(EVENTS).where(EVENTS.c.job == _JOB),
    delete(BATCHES).where(BATCHES.c.job == _JOB),
    delete(JOBS).where(JOBS.c.id == _JOB),
)
_BEFORE: Final = JOBS.c.id < bindparam("the_last", type_=Text)
_PAGE_OF_TENANT: Final = (
    select(*COLUMNS)
    .where(JOBS.c.tenant == _TENANT, _BEFORE)
    .order_by(JOBS.c.id.desc())
    .limit(_COUNT)
)
_PAGE_OF_ALL: Final = select(*COLUMNS).where(_BEFORE).order_by(JOBS.c.id.desc()).limit(_COUNT)
_IN_STATE: Final = JOBS.c.state == bindparam("the_state", type_=Text)
_PAGE_OF_TENANT_IN_STATE: Final = _PAGE_OF_TENANT.where(_IN_STATE)
_PAGE_OF_ALL_IN_STATE: Final = _PAGE_OF_ALL.where(_IN_STATE)
_LAST_ID: Final = "~"  # greater than any id
_MOVE: Final = (
    update(JOBS)
    .where(JOBS.c.id == _JOB, JOBS.c.state.in_(bindparam("the_states", expanding=True)))
    .values(
        state=bindparam("the_state", type_=Text),
        reason=bindparam("the_reason", type_=Text),
        ended_s=bindparam("the_end_s"),
    )
    .returning(JOBS.c.id)
)
_STATE: Final = select(JOBS.c.state).where(JOBS.c.id == _JOB).with_for_update(read=True)
_NEXT_EVENT: Final = (
    update(JOBS).where(JOBS.c.id == _JOB).values(events=JOBS.c.events + 1).returning(JOBS.c.events)
)
_INSERT_EVENT: Final = insert(EVENTS)
_FORGET_EVENTS: Final = delete(EVENTS).where(
    EVENTS.c.job == _JOB, EVENTS.c.seq <= bindparam("the_seq", type_=Integer)
)
_EVENTS: Final = (
    select(EVENTS.c.seq, EVENTS.c.at_s, EVENTS.c.kind, EVENTS.c.text)
    .where(EVENTS.c.job == _JOB, EVENTS.c.seq > bindparam("the_seq", type_=Integer))
    .order_by(EVENTS.c.seq)
    .limit(_COUNT)
)
_EVENTS_LIKE: Final = select(func.count()).where(
    EVENTS.c.job == _JOB,
    EVENTS.c.kind == bindparam("the_kind", type_=Text),
    EVENTS.c.text.like(bindparam("the_beginning", type_=Text)),
)
_IS_HELD: Final = and_(
    IS_LEASED,
    or_(
        SHARDS.c.until_s > bindparam("the_now_s"), SHARDS.c.second_until_s > bindparam("the_now_s")
    ),
)
SUMS: Final = (
    func.count(),
    func.coalesce(func.sum(case((IS_DONE, 1), else_=0)), 0),
    func.coalesce(func.sum(case((_IS_HELD, 1), else_=0)), 0),
    func.coalesce(func.sum(SHARDS.c.done_rows), 0),
    func.coalesce(func.sum(SHARDS.c.bad_rows), 0),
)
"""The sums over shards of which `Counts` are made."""
_COUNTS: Final = select(*SUMS).where(SHARDS.c.job == _JOB)
_KEEP_COUNTS: Final = (
    update(JOBS)
    .where(JOBS.c.id == _JOB)
    .values(
        shards=bindparam("all_shards", type_=Integer),
        done_shards=bindparam("the_shards", type_=Integer),
        done_rows=bindparam("the_rows"),
        bad_rows=bindparam("the_bad_rows"),
    )
)
_UNDONE: Final = select(SHARDS.c.seq).where(SHARDS.c.job == _JOB, ~IS_DONE).limit(1)
_DUE: Final = (
    select(JOBS.c.id)
    .where(IS_UNDER_WAY, JOBS.c.deadline_s <= bindparam("the_now_s"))
    .order_by(JOBS.c.deadline_s, JOBS.c.id)
    .limit(MAX_EXPIRED)
)
_UNTIDY: Final = select(*COLUMNS).where(IS_UNTIDY).order_by(JOBS.c.id).limit(_COUNT)
_TIDIED: Final = update(JOBS).where(JOBS.c.id == _JOB).values(is_tidy=True)


def submit(
    turn: Turn, job_id: JobId, tenant: str, spec: JobSpec, pinned: Pinned
) -> tuple[Job, bool]:
    """Keep a new job and return it and True; one that was submitted before under its client key, and False.

    Raises:
        KeyUsed: the tenant used the client key for another job.
        TooManyRequests: the tenant, or the store, has the most jobs that it may.
    """
    run = turn.connection.execute
    digest = spec.digest()
    if spec.client_key:
        known = run(_BY_KEY, {"the_tenant": tenant, "the_key": spec.client_key}).first()
        if known is not None:
            if bytes(known.spec_digest) != digest:
                raise KeyUsed(
                    f"the client key {spec.client_key!r} was used for the job {known.id}, which is another one; use a new"
                    " key for each job"
                )
            return job_of(known), False
    _make_room(turn, tenant)
    values = {
        "id": job_id,
        "tenant": tenant,
        "client_key": spec.client_key or None,
        "spec": spec.text(),
        "spec_digest": digest,
        "version": pinned.version,
        "digest": pinned.digest,
        "state": JobState.PLANNING.value,
        "reason": "",
        "created_s": turn.now_s,
        "deadline_s": spec.deadline_s,
        "rows": 0,
        "shards": 0,
        "fingerprint": "",
        "events": 0,
        "owner": "",
        "token": 0,
        "until_s": 0.0,
        "is_tidy": False,
    }
    run(_INSERT, values)
    note(turn, job_id, "submitted", f"{spec.model} version {pinned.version}, {pinned.digest}")
    return get(turn, job_id), True


def _make_room(turn: Turn, tenant: str) -> None:
    run = turn.connection.execute
    asked = {"the_tenant": tenant}
    under_way = run(_COUNT_UNDER_WAY, asked).scalar_one()
    if under_way >= MAX_UNDER_WAY:
        raise TooManyRequests(
            f"{under_way} jobs of this tenant have not ended, the most that may; wait for one, or cancel one"
        )
    is_full = run(_COUNT_ALL).scalar_one() >= MAX_JOBS
    if is_full or run(_COUNT_TENANT, asked).scalar_one() >= MAX_TENANT_JOBS:
        oldest = run(_OLDEST_ENDED, asked).scalar()
        if oldest is None:
            raise TooManyRequests(
                f"the store has {MAX_JOBS} jobs, or {MAX_TENANT_JOBS} of this tenant, the most that it may, and none of this"
                " tenant's has ended; try again later",
                60.0,
            )
        for statement in _FORGET:
            run(statement, {"the_job": oldest})


def get(turn: Turn, job_id: JobId, tenant: str | None = None) -> Job:
    """Return a job; `tenant` is whose it must be, None: anybody's. Raises `JobNotFound`."""
    row = turn.connection.execute(_GET, {"the_job": job_id}).first()
    if row is None or tenant not in {None, row.tenant}:
        raise no_job(job_id)
    return job_of(row)


def page(
    turn: Turn,
    tenant: str | None,
    last: JobId | None,
    count: int,
    state: JobState | None = None,
) -> list[Job]:
    """Return jobs, the newest first: those before `last`, which ended the page before; None: the first page.

    `tenant` and `state` are those that a job must have; None: any.
    """
    asked: dict[str, Any] = {"the_last": last or _LAST_ID, "the_count": min(count, MAX_PAGE)}
    statement = _PAGE_OF_ALL if state is None else _PAGE_OF_ALL_IN_STATE
    if tenant is not None:
        asked["the_tenant"] = tenant
        statement = _PAGE_OF_TENANT if state is None else _PAGE_OF_TENANT_IN_STATE
    if state is not None:
        asked["the_state"] = state.value
    return [job_of(row) for row in turn.connection.execute(statement, asked)]


def move(
    turn: Turn, job_id: JobId, to: JobState, reason: str = "", tenant: str | None = None
) -> Job:
    """Bring a job into another state and return it; one that is in it already stays as it is.

    Raises:
        JobNotFound: there is no such job, or it is not the tenant's.
        JobConflict: the state cannot follow the job's.
    """
    job = get(turn, job_id, tenant)
    if job.state is to:
        return job
    asked: dict[str, Any] = {
        "the_job": job_id,
        "the_states": before(to),
        "the_state": to.value,
        "the_reason": short(reason),
        "the_end_s": turn.now_s if to in ENDED else None,
    }
    if turn.connection.execute(_MOVE, asked).first() is None:
        job = get(turn, job_id)
        if job.state is to:  # another router did it meanwhile
            return job
        raise JobConflict(f"the job {job_id} is {job.state}: it cannot become {to}")
    turn.takes_results.pop(job_id, None)
    if to in ENDED:
        total = counts(turn, job_id)
        kept = {
            "the_job": job_id,
            "all_shards": total.shards if job.shards else 0,
            "the_shards": total.done_shards,
            "the_rows": total.rows,
        }
        turn.connection.execute(_KEEP_COUNTS, {**kept, "the_bad_rows": total.bad_rows})
    note(turn, job_id, to.value, reason)
    return get(turn, job_id)


def resume(turn: Turn, job_id: JobId, tenant: str | None = None) -> Job:
    """Let a paused job go on; raises as `move`, also for one that is not paused and does not run."""
    job = get(turn, job_id, tenant)
    if job.state is JobState.BLOCKED:  # it goes on by itself, when it can
        return job
    if job.state is JobState.PLANNING:
        raise JobConflict(f"the job {job_id} is planning: it was not paused")
    return move(turn, job_id, JobState.RUNNING, tenant=tenant)


def finish(turn: Turn, job_id: JobId) -> Job:
    """Complete a job all of whose shards are done, and return the job as it is then."""
    job = get(turn, job_id)
    if job.state not in COMMITTING or turn.connection.execute(_UNDONE, {"the_job": job_id}).first():
        return job
    return move(turn, job_id, JobState.COMPLETED)


def expire(turn: Turn) -> list[JobId]:
    """End jobs whose deadline has passed and return their ids, at most `MAX_EXPIRED`: ask again if there are so many."""
    found = turn.connection.execute(_DUE, {"the_now_s": turn.now_s}).scalars().all()
    for job_id in found:
        move(turn, JobId(job_id), JobState.EXPIRED, "its deadline came first")
    return [JobId(each) for each in found]


def takes_results(turn: Turn, job_id: JobId) -> bool:
    """Return whether manifests of a job are taken, and keep its state as it is until the transaction's end."""
    known = turn.takes_results.get(job_id)
    if known is None:
        state = turn.connection.execute(_STATE, {"the_job": job_id}).scalar()
        known = turn.takes_results[job_id] = state in COMMITTING
    return known


def counts(turn: Turn, job_id: JobId) -> Counts:
    """Return how far a job is, summed over its shards."""
    row = turn.connection.execute(_COUNTS, {"the_job": job_id, "the_now_s": turn.now_s}).one()
    return Counts(*(int(each) for each in row))


def note(turn: Turn, job_id: JobId, kind: str, words: str) -> None:
    """Keep an event of a job; nothing happens if there is no such job."""
    turn.must_last()  # whoever follows a job has read its events up to a number
    seq = turn.connection.execute(_NEXT_EVENT, {"the_job": job_id}).scalar()
    if seq is None:
        return
    values = {"job": job_id, "seq": seq, "at_s": turn.now_s, "kind": kind, "text": short(words)}
    turn.connection.execute(_INSERT_EVENT, values)
    if seq > MAX_EVENTS:
        turn.connection.execute(_FORGET_EVENTS, {"the_job": job_id, "the_seq": seq - MAX_EVENTS})


def has_ended_readers(turn: Turn, job_id: JobId, what: str, words: str) -> bool:
    """Keep that a shard or the plan of a job ended who read it, and return whether that is one time too many."""
    note(turn, job_id, READER_ENDED, f"{what}: {words}")
    asked = {"the_job": job_id, "the_kind": READER_ENDED, "the_beginning": f"{what}: %"}
    return turn.connection.execute(_EVENTS_LIKE, asked).scalar_one() >= MOST_READERS


def events(turn: Turn, job_id: JobId, after: int, count: int) -> list[Event]:
    """Return the events of a job after one, by its number, in order."""
    asked = {"the_job": job_id, "the_seq": after, "the_count": min(count, MAX_PAGE)}
    return [Event(*row) for row in turn.connection.execute(_EVENTS, asked)]


def untidy(turn: Turn, count: int) -> list[Job]:
    """Return ended jobs whose folders may hold files that no manifest names, the oldest first."""
    return [job_of(row) for row in turn.connection.execute(_UNTIDY, {"the_count": count})]


def tidied(turn: Turn, job_id: JobId) -> None:
    """Take in that those files of an ended job were removed."""
    turn.connection.execute(_TIDIED, {"the_job": job_id})


def job_of(row: Any) -> Job:  # noqa: ANN401 - a row that has all of `COLUMNS`
    """Return a job as it is kept."""
    ended = None
    if row.ended_s is not None and row.done_rows is not None:
        ended = Counts(row.shards, row.done_shards, 0, row.done_rows, row.bad_rows)
    return Job(
        JobId(row.id),
        row.tenant,
        spec_of(row.spec),
        Pinned(ModelVersion(row.version), row.digest),
        JobState(row.state),
        row.reason,
        row.created_s,
        row.ended_s,
        row.rows,
        row.shards,
        row.fingerprint,
        ended,
        Price(int(row.paid_rows), float(row.paid)),
    )


def spec_of(words: str) -> JobSpec:
    """Return a spec as it is kept."""
    return read(json.loads(words), JobSpec)
