"""The store's operations on batches: functions of a `Turn`. IO: the turn's connection.

A batch is a job and a row beside it. When the job has ended, one router makes the batch's files under a lease of its own, with the rules
of a shard's lease: what it made counts only if its token is the last, and then files and batch change together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Double, Integer, Text, bindparam, insert, or_, select, update

from capamesh.protocol.errors import JobNotFound, KeyUsed
from capamesh.router.jobs.batches import Batch, BatchAsked, batch_id_of, no_batch
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.store import file_operations, job_operations
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.lease_operations import FAR_S
from capamesh.router.jobs.store.tables import BATCHES, IS_DONE, IS_UNMADE, JOBS, SHARDS
from capamesh.router.jobs.stored_files import FileId, Whole
from capamesh.router.jobs.values import LEASE_S, JobId, Pinned, RowRange, short

MAX_PAGE: Final = 101
"""The most batches that are read at once: a page of 100, and one more that tells whether there are others."""
MAX_RANGES: Final = 500
"""The most ranges of rows that are read at once."""
_LAST_ID: Final = "~"
"""Is greater than any id."""

_JOB: Final = bindparam("the_job", type_=Text)
_TENANT: Final = bindparam("the_tenant", type_=Text)
_TOKEN: Final = bindparam("the_token", type_=Integer)
_NOW: Final = bindparam("the_now_s", type_=Double)
_UNTIL: Final = bindparam("the_until_s", type_=Double)
_COUNT: Final = bindparam("the_count", type_=Integer)
_GET: Final = select(BATCHES).where(BATCHES.c.job == _JOB)
_BY_KEY: Final = (
    select(JOBS.c.id, BATCHES.c.endpoint, BATCHES.c.input_file, BATCHES.c.window)
    .outerjoin_from(JOBS, BATCHES, BATCHES.c.job == JOBS.c.id)
    .where(JOBS.c.tenant == _TENANT, JOBS.c.client_key == bindparam("the_key", type_=Text))
)
_INSERT: Final = insert(BATCHES)
_BEFORE: Final = BATCHES.c.job < bindparam("the_last", type_=Text)
_PAGE_OF_ALL: Final = select(BATCHES).where(_BEFORE).order_by(BATCHES.c.job.desc()).limit(_COUNT)
_PAGE_OF_TENANT: Final = (
    select(BATCHES)
    .where(BATCHES.c.tenant == _TENANT, _BEFORE)
    .order_by(BATCHES.c.job.desc())
    .limit(_COUNT)
)
_FREE: Final = (
    select(BATCHES.c.job)
    .join_from(BATCHES, JOBS, BATCHES.c.job == JOBS.c.id)
    .where(
        IS_UNMADE,
        JOBS.c.ended_s.is_not(None),
        or_(BATCHES.c.until_s <= _NOW, BATCHES.c.until_s > _NOW + FAR_S),
    )
    .order_by(BATCHES.c.until_s, BATCHES.c.job)
    .limit(1)
    .with_for_update(skip_locked=True, of=BATCHES)
    .cte("free")
)
_TAKE: Final = (
    update(BATCHES)
    .where(BATCHES.c.job.in_(select(_FREE.c.job)))
    .values(token=BATCHES.c.token + 1, until_s=_UNTIL)
    .returning(BATCHES.c.job, BATCHES.c.token)
)
_MINE: Final = (BATCHES.c.job == _JOB, BATCHES.c.token == _TOKEN, IS_UNMADE)
_RENEW: Final = update(BATCHES).where(*_MINE).values(until_s=_UNTIL).returning(BATCHES.c.job)
_FAIL: Final = update(BATCHES).where(*_MINE).values(trouble=bindparam("the_trouble", type_=Text))
_FINISH: Final = (
    update(BATCHES)
    .where(*_MINE)
    .values(
        made_s=_NOW,
        trouble="",
        output_file=bindparam("the_output", type_=Text),
        error_file=bindparam("the_errors", type_=Text),
    )
    .returning(BATCHES.c.job)
)
_UNDONE: Final = (
    select(
        SHARDS.c.first_row,
        SHARDS.c.rows,
        SHARDS.c.group,
        SHARDS.c.offset,
        SHARDS.c.size_bytes,
        SHARDS.c.digest,
    )
    .where(
        SHARDS.c.job == _JOB, ~IS_DONE, SHARDS.c.first_row >= bindparam("the_row", type_=Integer)
    )
    .order_by(SHARDS.c.seq)
    .limit(_COUNT)
)


def create(
    turn: Turn, job_id: JobId, tenant: str, spec: JobSpec, pinned: Pinned, asked: BatchAsked
) -> tuple[Batch, bool]:
    """Keep a new batch and its job and return it and True; the one of its client key, and False.

    Raises:
        FileNotFound: the file of requests was deleted meanwhile.
        KeyUsed: the tenant used the client key for something else.
        TooManyRequests: the tenant, or the store, has the most jobs that it may.
    """
    if spec.client_key:
        key = {"the_tenant": tenant, "the_key": spec.client_key}
        known = turn.connection.execute(_BY_KEY, key).first()
        if known is not None:
            if (known.endpoint, known.input_file, known.window) != (
                asked.endpoint,
                asked.input_file,
                asked.window,
            ):
                raise KeyUsed(
                    f"the key {spec.client_key!r} was used for {batch_id_of(known.id)}, which is something else; use a new key"
                    " for each batch"
                )
            return get(turn, JobId(known.id)), False
    file_operations.get(turn, asked.input_file, tenant)
    job, _ = job_operations.submit(turn, job_id, tenant, spec, pinned)
    values = {
        "job": job.id,
        "tenant": tenant,
        "endpoint": asked.endpoint,
        "input_file": asked.input_file,
        "window": asked.window,
        "keep_s": asked.keep_s,
        "metadata": json.dumps(asked.metadata, separators=(",", ":")),
        "trouble": "",
        "token": 0,
        "until_s": 0.0,
    }
    turn.connection.execute(_INSERT, values)
    return get(turn, job.id), True


def get(turn: Turn, job_id: JobId, tenant: str | None = None) -> Batch:
    """Return the batch of a job; `tenant` is whose it must be, None: anybody's. Raises `JobNotFound`."""
    row = turn.connection.execute(_GET, {"the_job": job_id}).first()
    if row is None or tenant not in {None, row.tenant}:
        raise no_batch(batch_id_of(job_id))
    return _batch_of(turn, row)


def page(turn: Turn, tenant: str | None, last: JobId | None, count: int) -> list[Batch]:
    """Return batches, the newest first: those before `last`, which ended the page before; None: the first page."""
    asked: dict[str, Any] = {"the_last": last or _LAST_ID, "the_count": min(count, MAX_PAGE)}
    if tenant is None:
        rows = turn.connection.execute(_PAGE_OF_ALL, asked).all()
    else:
        rows = turn.connection.execute(_PAGE_OF_TENANT, {**asked, "the_tenant": tenant}).all()
    return [_batch_of(turn, row) for row in rows]


def claim(turn: Turn) -> tuple[Batch, int] | None:
    """Lease a batch whose job has ended and whose files are to be made, and return it and its token; None: there is none."""
    asked = {"the_now_s": turn.now_s, "the_until_s": turn.now_s + LEASE_S}
    row = turn.connection.execute(_TAKE, asked).first()
    return None if row is None else (get(turn, JobId(row.job)), row.token)


def renew(turn: Turn, job_id: JobId, token: int) -> bool:
    """Make the lease hold `LEASE_S` from now; False: it is lost."""
    asked = {"the_job": job_id, "the_token": token, "the_until_s": turn.now_s + LEASE_S}
    return turn.connection.execute(_RENEW, asked).first() is not None


def fail(turn: Turn, job_id: JobId, token: int, trouble: str) -> None:
    """Keep why the files of a batch could not be made; they are tried again once the lease has ended."""
    asked = {"the_job": job_id, "the_token": token, "the_trouble": short(trouble)}
    turn.connection.execute(_FAIL, asked)


def finish(
    turn: Turn,
    job_id: JobId,
    token: int,
    output: tuple[FileId, Whole] | None,
    errors: tuple[FileId, Whole] | None,
) -> bool:
    """Make files whole and a batch's, None: there is none; False: the lease is lost, and the files are nobody's."""
    asked = {
        "the_job": job_id,
        "the_token": token,
        "the_now_s": turn.now_s,
        "the_output": None if output is None else output[0],
        "the_errors": None if errors is None else errors[0],
    }
    if turn.connection.execute(_FINISH, asked).first() is None:
        return False
    for made in (output, errors):
        if made is not None:
            file_operations.finish(turn, *made)
    return True


def undone(turn: Turn, job_id: JobId, from_row: int) -> Sequence[RowRange]:
    """Return ranges of a job's rows that were not done, from a row on, in order, `MAX_RANGES` at most."""
    asked = {"the_job": job_id, "the_row": from_row, "the_count": MAX_RANGES}
    return [
        RowRange(row.first_row, row.rows, row.group, row.offset, row.size_bytes, bytes(row.digest))
        for row in turn.connection.execute(_UNDONE, asked)
    ]


def _batch_of(turn: Turn, row: Any) -> Batch:  # noqa: ANN401 - a row of the table
    asked = BatchAsked(
        row.endpoint,
        FileId(row.input_file),
        row.window,
        row.keep_s,
        json.loads(row.metadata),
    )
    try:
        job = job_operations.get(turn, JobId(row.job))
    except JobNotFound as exc:  # it was forgotten for a newer one
        raise no_batch(batch_id_of(JobId(row.job))) from exc
    return Batch(
        job,
        asked,
        row.made_s,
        None if row.output_file is None else FileId(row.output_file),
        None if row.error_file is None else FileId(row.error_file),
        row.trouble,
    )
