"""The store's operations on the results of shards: manifests, bad rows, and where a row is. IO: the turn's connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Integer, Text, and_, bindparam, func, insert, select, update

from capamesh.protocol.schema import plain_values, read
from capamesh.router.jobs.spec import MAX_BAD_ROWS, JobSpec
from capamesh.router.jobs.states import JobState, ShardState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import move, takes_results
from capamesh.router.jobs.store.lease_operations import IS_MINE, named
from capamesh.router.jobs.store.price_operations import keep_price
from capamesh.router.jobs.store.tables import (
    BAD_ROWS,
    IS_DONE,
    IS_LEASED,
    IS_OPEN,
    RANGE,
    SHARDS,
    range_of,
)
from capamesh.router.jobs.values import BadRow, JobId, Lease, Manifest, Paid, RowRange, short

MAX_MANIFESTS: Final = 1000
"""The most manifests of one answer."""

_JOB: Final = bindparam("the_job", type_=Text)
_SEQ: Final = bindparam("the_seq", type_=Integer)
_TOKEN: Final = bindparam("the_token", type_=Integer)
_COUNT: Final = bindparam("the_count", type_=Integer)
_COMMIT: Final = (
    update(SHARDS)
    .where(IS_MINE)
    .values(
        state=ShardState.DONE.value,
        first_token=_TOKEN,
        second_token=0,
        done_rows=bindparam("the_rows", type_=Integer),
        bad_rows=bindparam("the_bad_rows", type_=Integer),
        manifest=bindparam("the_manifest", type_=Text),
    )
    .returning(SHARDS.c.seq)
)
_IS_COMMITTED: Final = select(SHARDS.c.seq).where(
    SHARDS.c.job == _JOB,
    SHARDS.c.seq == _SEQ,
    IS_DONE,
    SHARDS.c.first_token == _TOKEN,
)
_BAD_ROWS_KEPT: Final = select(func.count()).where(BAD_ROWS.c.job == _JOB)
_INSERT_BAD_ROWS: Final = insert(BAD_ROWS)
_ALL_BAD_ROWS: Final = select(func.coalesce(func.sum(SHARDS.c.bad_rows), 0)).where(
    SHARDS.c.job == _JOB
)
_BAD_ROWS: Final = (
    select(BAD_ROWS.c.row, BAD_ROWS.c.row_id, BAD_ROWS.c.code, BAD_ROWS.c.text, BAD_ROWS.c.node)
    .where(BAD_ROWS.c.job == _JOB, BAD_ROWS.c.row > bindparam("the_row"))
    .order_by(BAD_ROWS.c.row)
    .limit(_COUNT)
)
_MANIFESTS: Final = (
    select(SHARDS.c.seq, SHARDS.c.manifest, *RANGE)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq >= _SEQ, IS_DONE)
    .order_by(SHARDS.c.seq)
    .limit(_COUNT)
)
_LAST_SEQ: Final = select(func.max(SHARDS.c.seq)).where(SHARDS.c.job == _JOB)
_FROM_SEQ: Final = (
    select(SHARDS.c.seq, SHARDS.c.first_row)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq >= _SEQ)
    .order_by(SHARDS.c.seq)
    .limit(1)
)
_FROM: Final = and_(SHARDS.c.job == _JOB, SHARDS.c.seq >= _SEQ)
_GAPS: Final = (
    select(SHARDS.c.first_row).where(_FROM, IS_OPEN).order_by(SHARDS.c.seq).limit(1),
    select(func.min(SHARDS.c.first_row)).where(_FROM, IS_LEASED),
)


def commit(
    turn: Turn,
    lease: Lease,
    spec: JobSpec,
    manifest: Manifest,
    bad_rows: Sequence[BadRow] = (),
    paid: Paid | None = None,
) -> bool:
    """Make a manifest the shard's, and return whether it is: also if it was before, for the answer may have been lost.

    False: another router's manifest was first, or may still be, since it took the lease over, or the job takes none any more.
    Of `bad_rows` the first `MAX_BAD_ROWS` of the job are kept. A job that has more of them than `spec` bears has failed. What the router has
    `paid` for the job is kept whoever was first.
    """
    run = turn.connection.execute
    if paid is not None:  # the last of all commits of a transaction has the whole sum
        turn.at_end["price", paid.job, paid.owner] = partial(keep_price, paid=paid)
    asked = {
        **named(lease),
        "the_rows": manifest.rows,
        "the_bad_rows": manifest.bad_rows,
        "the_manifest": json.dumps(plain_values(manifest), separators=(",", ":")),
    }
    if not takes_results(turn, lease.job) or run(_COMMIT, asked).first() is None:
        return run(_IS_COMMITTED, named(lease)).first() is not None
    if bad_rows:
        room = MAX_BAD_ROWS - run(_BAD_ROWS_KEPT, {"the_job": lease.job}).scalar_one()
        kept = [_bad_row_values(lease.job, each) for each in bad_rows[: max(0, room)]]
        if kept:
            run(_INSERT_BAD_ROWS, kept)
    if manifest.bad_rows:
        found = int(run(_ALL_BAD_ROWS, {"the_job": lease.job}).scalar_one())
        if found > spec.failure.most_bad_rows:
            words = f"{found} bad rows, and it bears {spec.failure.most_bad_rows}"
            move(turn, lease.job, JobState.FAILED, words)
    return True


def bad_rows(turn: Turn, job_id: JobId, after: int, count: int) -> list[BadRow]:
    """Return bad rows of a job after one, by its number, in order; -1: from the first."""
    asked = {"the_job": job_id, "the_row": after, "the_count": min(count, MAX_MANIFESTS)}
    return [BadRow(*row) for row in turn.connection.execute(_BAD_ROWS, asked)]


def manifests(
    turn: Turn, job_id: JobId, from_seq: int, count: int
) -> list[tuple[int, RowRange, Manifest]]:
    """Return the manifests of a job from a shard on, in order, each with the shard's number and rows."""
    asked = {"the_job": job_id, "the_seq": from_seq, "the_count": min(count, MAX_MANIFESTS)}
    return [
        (row.seq, range_of(row), read(json.loads(row.manifest), Manifest))
        for row in turn.connection.execute(_MANIFESTS, asked)
    ]


def place_of(turn: Turn, job_id: JobId, row: int) -> tuple[int, int | None]:
    """Return the number of the shard that has a row, and the first row from that shard on that has no manifest; None: all have."""
    run = turn.connection.execute
    low, high = 0, run(_LAST_SEQ, {"the_job": job_id}).scalar_one() or 0
    while low < high:
        middle = (low + high + 1) // 2
        found = run(_FROM_SEQ, {"the_job": job_id, "the_seq": middle}).one()  # some were joined
        if found.first_row <= row:
            low = found.seq
        else:
            high = middle - 1
    gaps = (run(each, {"the_job": job_id, "the_seq": low}).scalar() for each in _GAPS)
    return low, min((gap for gap in gaps if gap is not None), default=None)


def _bad_row_values(job_id: JobId, row: BadRow) -> dict[str, Any]:
    return {
        "job": job_id,
        "row": row.row,
        "row_id": short(row.row_id),
        "code": row.code,
        "text": short(row.text),
        "node": row.node,
    }
