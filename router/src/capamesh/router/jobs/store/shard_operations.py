"""The store's operations on the shards of a running job: leases, manifests, bad rows. IO: the turn's connection.

A shard may have two leases: the first, and at the end of a job a second one for a slow router. Each claim raises the shard's
token, and a manifest is taken from whoever has one of the two tokens that hold now, once. So a router that stood still while
another took its lease over cannot commit, whatever it computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    Double,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    union,
    union_all,
    update,
)

from capamesh.protocol.schema import plain_values, read
from capamesh.router.jobs.spec import MAX_BAD_ROWS, JobSpec
from capamesh.router.jobs.states import JobState, ShardState
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.job_operations import move, note, takes_results
from capamesh.router.jobs.store.tables import BAD_ROWS, IS_DONE, IS_LEASED, IS_OPEN, JOBS, SHARDS
from capamesh.router.jobs.values import LEASE_S, BadRow, JobId, Lease, Manifest, RowRange, short

MAX_CLAIM: Final = 64
"""The most shards of one claim (guess: more than a router starts at once)."""
MAX_MANIFESTS: Final = 1000
"""The most manifests of one answer."""
FAR_S: Final = 2 * LEASE_S
"""A lease that ends later than that was given before the clock was set back: it has ended."""

_JOB: Final = bindparam("the_job", type_=Text)
_SEQ: Final = bindparam("the_seq", type_=Integer)
_TOKEN: Final = bindparam("the_token", type_=Integer)
_NOW: Final = bindparam("the_now_s", type_=Double)
_UNTIL: Final = bindparam("the_until_s", type_=Double)
_COUNT: Final = bindparam("the_count", type_=Integer)
_OWNER: Final = bindparam("the_owner", type_=Text)
_IS_MINE: Final = or_(SHARDS.c.first_token == _TOKEN, SHARDS.c.second_token == _TOKEN)
_RANGE: Final = (
    SHARDS.c.first_row,
    SHARDS.c.rows,
    SHARDS.c.group,
    SHARDS.c.offset,
    SHARDS.c.size_bytes,
    SHARDS.c.digest,
)
_JOB_RUNS: Final = exists().where(JOBS.c.id == _JOB, JOBS.c.state == JobState.RUNNING.value)


def _has_ended(until_s: Any) -> Any:  # noqa: ANN401 - an expression of SQL
    return or_(until_s <= _NOW, until_s > _NOW + FAR_S)


_EXPIRED: Final = (
    select(SHARDS.c.seq)
    .where(SHARDS.c.job == _JOB, IS_LEASED, _has_ended(SHARDS.c.until_s), _JOB_RUNS)
    .order_by(SHARDS.c.until_s)
    .limit(_COUNT)
    .with_for_update(skip_locked=True, of=SHARDS)
    .cte("expired")
)
_OPEN: Final = (
    select(SHARDS.c.seq)
    .where(SHARDS.c.job == _JOB, IS_OPEN, _JOB_RUNS)
    .order_by(SHARDS.c.seq)
    .limit(_COUNT)
    .with_for_update(skip_locked=True, of=SHARDS)
    .cte("open_shards")
)
_SLOW: Final = (
    select(SHARDS.c.seq)
    .where(
        SHARDS.c.job == _JOB,
        IS_LEASED,
        SHARDS.c.until_s > _NOW,
        SHARDS.c.owner != _OWNER,
        SHARDS.c.leased_s <= _NOW - bindparam("the_slow_s", type_=Double),
        _has_ended(SHARDS.c.second_until_s),
        _JOB_RUNS,
    )
    .order_by(SHARDS.c.leased_s)
    .limit(_COUNT)
    .with_for_update(skip_locked=True, of=SHARDS)
    .cte("slow")
)
# the second kind is locked also where the first is enough: until the end of the transaction others pass it by
_BOTH: Final = union_all(
    select(_EXPIRED.c.seq, literal_column("0", Integer).label("turn")),
    select(_OPEN.c.seq, literal_column("1", Integer).label("turn")),
).subquery("both_kinds")
_FREE: Final = select(_BOTH.c.seq).order_by(_BOTH.c.turn, _BOTH.c.seq).limit(_COUNT).cte("free")
_GIVEN: Final = (SHARDS.c.seq, SHARDS.c.token, SHARDS.c.failures, *_RANGE)
_TAKE: Final = (
    update(SHARDS)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq.in_(select(_FREE.c.seq)))
    .values(
        state=ShardState.LEASED.value,
        token=SHARDS.c.token + 1,
        first_token=SHARDS.c.token + 1,
        owner=_OWNER,
        leased_s=_NOW,
        until_s=_UNTIL,
        # 0: nobody had it, or it was given back, and whoever did it counted that already
        failures=SHARDS.c.failures + case((SHARDS.c.until_s > 0, 1), else_=0),
    )
    .returning(*_GIVEN)
)
_TAKE_SECOND: Final = (
    update(SHARDS)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq.in_(select(_SLOW.c.seq)))
    .values(
        token=SHARDS.c.token + 1,
        second_token=SHARDS.c.token + 1,
        second_owner=_OWNER,
        second_until_s=_UNTIL,
    )
    .returning(*_GIVEN)
)
_HOLDERS: Final = union(
    select(SHARDS.c.owner).where(
        SHARDS.c.job == _JOB, IS_LEASED, SHARDS.c.until_s > _NOW, SHARDS.c.first_token > 0
    ),
    select(SHARDS.c.second_owner).where(
        SHARDS.c.job == _JOB, IS_LEASED, SHARDS.c.second_until_s > _NOW, SHARDS.c.second_token > 0
    ),
)
_MINE: Final = and_(SHARDS.c.job == _JOB, SHARDS.c.seq == _SEQ, IS_LEASED, _IS_MINE)
_RENEW: Final = (
    update(SHARDS)
    .where(_MINE)
    .values(
        until_s=case((SHARDS.c.first_token == _TOKEN, _UNTIL), else_=SHARDS.c.until_s),
        second_until_s=case(
            (SHARDS.c.second_token == _TOKEN, _UNTIL), else_=SHARDS.c.second_until_s
        ),
    )
    .returning(SHARDS.c.seq)
)
_RELEASE: Final = (
    update(SHARDS)
    .where(_MINE)
    .values(
        until_s=case((SHARDS.c.first_token == _TOKEN, 0.0), else_=SHARDS.c.until_s),
        first_token=case((SHARDS.c.first_token == _TOKEN, 0), else_=SHARDS.c.first_token),
        second_until_s=case((SHARDS.c.second_token == _TOKEN, 0.0), else_=SHARDS.c.second_until_s),
        second_token=case((SHARDS.c.second_token == _TOKEN, 0), else_=SHARDS.c.second_token),
        failures=SHARDS.c.failures + bindparam("the_failures", type_=Integer),
    )
    .returning(SHARDS.c.failures)
)
_COMMIT: Final = (
    update(SHARDS)
    .where(_MINE)
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
    select(SHARDS.c.seq, SHARDS.c.manifest, *_RANGE)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq >= _SEQ, IS_DONE)
    .order_by(SHARDS.c.seq)
    .limit(_COUNT)
)
_LAST_SEQ: Final = select(func.max(SHARDS.c.seq)).where(SHARDS.c.job == _JOB)
_FIRST_ROW: Final = select(SHARDS.c.first_row).where(SHARDS.c.job == _JOB, SHARDS.c.seq == _SEQ)
_FROM: Final = and_(SHARDS.c.job == _JOB, SHARDS.c.seq >= _SEQ)
_GAPS: Final = (
    select(SHARDS.c.first_row).where(_FROM, IS_OPEN).order_by(SHARDS.c.seq).limit(1),
    select(func.min(SHARDS.c.first_row)).where(_FROM, IS_LEASED),
)


def claim(
    turn: Turn,
    job_id: JobId,
    spec: JobSpec,
    owner: str,
    count: int,
    *,
    may_be_second: bool = False,
    slow_s: float = 0.0,
) -> list[Lease]:
    """Lease shards of a running job, at most `count` and `MAX_CLAIM`, to a router.

    Those whose lease has ended come first, the oldest before the others, then those that nobody had. `may_be_second`: where that
    is too few, those that other routers have held longest, and for `slow_s` at least, are leased a second time. A shard that has failed as often as
    `spec` bears ends the job, whose leases are no more then.
    """
    wanted = min(count, MAX_CLAIM)
    until_s = turn.now_s + LEASE_S
    leases: list[Lease] = []
    for statement in (_TAKE, _TAKE_SECOND):
        is_second = statement is _TAKE_SECOND
        left = wanted - len(leases)
        if left <= 0 or (is_second and not may_be_second):
            break
        asked = {
            "the_job": job_id,
            "the_owner": owner,
            "the_now_s": turn.now_s,
            "the_until_s": until_s,
            "the_count": left,
            **({"the_slow_s": slow_s} if is_second else {}),
        }
        for row in turn.connection.execute(statement, asked).all():
            if row.failures >= spec.failure.most_failures:
                _fail_for(turn, job_id, row.seq, row.failures, "its leases ended without a result")
                return []
            leases.append(Lease(job_id, row.seq, row.token, until_s, _range_of(row), is_second))
    leases.sort(key=lambda lease: lease.seq)
    return leases


def holders(turn: Turn, job_id: JobId) -> set[str]:
    """Return the routers that have leases of a job now."""
    asked = {"the_job": job_id, "the_now_s": turn.now_s}
    return set(turn.connection.execute(_HOLDERS, asked).scalars())


def renew(turn: Turn, leases: Sequence[Lease]) -> list[Lease]:
    """Make leases hold `LEASE_S` from now and return them as they are then; one that is missing is lost."""
    until_s = turn.now_s + LEASE_S
    kept: list[Lease] = []
    for lease in leases:
        asked = {**_named(lease), "the_until_s": until_s}
        if takes_results(turn, lease.job) and turn.connection.execute(_RENEW, asked).first():
            kept.append(
                Lease(lease.job, lease.seq, lease.token, until_s, lease.range, lease.is_second)
            )
    return kept


def release(turn: Turn, lease: Lease, spec: JobSpec, failure: str = "") -> bool:
    """Give a lease back, so that the shard is free at once, and return False if it was lost before.

    `failure` says why it failed; "": the router just stops. A shard that has failed as often as `spec` bears ends the job.
    """
    asked = {**_named(lease), "the_failures": 1 if failure else 0}
    row = turn.connection.execute(_RELEASE, asked).first()
    if row is None:
        return False
    if failure and takes_results(turn, lease.job):
        note(turn, lease.job, "shard_failed", f"shard {lease.seq}: {failure}")
        if row.failures >= spec.failure.most_failures:
            _fail_for(turn, lease.job, lease.seq, row.failures, failure)
    return True


def commit(
    turn: Turn, lease: Lease, spec: JobSpec, manifest: Manifest, bad_rows: Sequence[BadRow] = ()
) -> bool:
    """Make a manifest the shard's, and return whether it is: also if it was before, for the answer may have been lost.

    False: another router's manifest was first, or may still be, since it took the lease over, or the job takes none any more.
    Of `bad_rows` the first `MAX_BAD_ROWS` of the job are kept. A job that has more of them than `spec` bears has failed.
    """
    run = turn.connection.execute
    asked = {
        **_named(lease),
        "the_rows": manifest.rows,
        "the_bad_rows": manifest.bad_rows,
        "the_manifest": json.dumps(plain_values(manifest), separators=(",", ":")),
    }
    if not takes_results(turn, lease.job) or run(_COMMIT, asked).first() is None:
        return run(_IS_COMMITTED, _named(lease)).first() is not None
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
        (row.seq, _range_of(row), read(json.loads(row.manifest), Manifest))
        for row in turn.connection.execute(_MANIFESTS, asked)
    ]


def place_of(turn: Turn, job_id: JobId, row: int) -> tuple[int, int | None]:
    """Return the number of the shard that has a row, and the first row from that shard on that has no manifest; None: all have."""
    run = turn.connection.execute
    low, high = 0, run(_LAST_SEQ, {"the_job": job_id}).scalar_one() or 0
    while low < high:
        middle = (low + high + 1) // 2
        if run(_FIRST_ROW, {"the_job": job_id, "the_seq": middle}).scalar_one() <= row:
            low = middle
        else:
            high = middle - 1
    found = (run(each, {"the_job": job_id, "the_seq": low}).scalar() for each in _GAPS)
    return low, min((gap for gap in found if gap is not None), default=None)


def _fail_for(turn: Turn, job_id: JobId, seq: int, failures: int, words: str) -> None:
    move(turn, job_id, JobState.FAILED, f"shard {seq} failed {failures} times: {words}")


def _named(lease: Lease) -> dict[str, Any]:
    return {"the_job": lease.job, "the_seq": lease.seq, "the_token": lease.token}


def _range_of(row: Any) -> RowRange:  # noqa: ANN401 - a row of any columns
    return RowRange(
        row.first_row, row.rows, row.group, row.offset, row.size_bytes, bytes(row.digest)
    )


def _bad_row_values(job_id: JobId, row: BadRow) -> dict[str, Any]:
    return {
        "job": job_id,
        "row": row.row,
        "row_id": short(row.row_id),
        "code": row.code,
        "text": short(row.text),
        "node": row.node,
    }
