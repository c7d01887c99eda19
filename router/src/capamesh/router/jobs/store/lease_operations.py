"""The store's operations on the leases of a running job's shards: claimed, taken over, renewed, given back. IO: the turn's connection.

A shard may have two leases: the first, and at the end of a job a second one for a slow router. Each claim raises the shard's
token, and a manifest is taken from whoever has one of the two tokens that hold now, once. So a router that stood still while
another took its lease over cannot commit, whatever it computed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Double,
    Integer,
    LargeBinary,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    literal_column,
    or_,
    select,
    union,
    union_all,
    update,
)
from typing_extensions import override

from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.states import JobState, ShardState
from capamesh.router.jobs.store.group_commit import JointOperation, Turn
from capamesh.router.jobs.store.job_operations import has_ended_readers, move, note, takes_results
from capamesh.router.jobs.store.tables import IS_LEASED, IS_OPEN, JOBS, RANGE, SHARDS, range_of
from capamesh.router.jobs.values import LEASE_S, JobId, Lease

MAX_CLAIM: Final = 64
"""The most shards of one claim (guess: more than a router starts at once)."""
MAX_JOINED: Final = 256
"""The most planned shards that are joined to one: their digests are read with each look at it (guess)."""
MAX_ENDED: Final = 256
"""The most leases that ended of which jobs are told at once: the rest is told at the next look."""
FAR_S: Final = 2 * LEASE_S
"""A lease that ends later than that was given before the clock was set back: it has ended."""

_JOB: Final = bindparam("the_job", type_=Text)
_SEQ: Final = bindparam("the_seq", type_=Integer)
_TOKEN: Final = bindparam("the_token", type_=Integer)
_NOW: Final = bindparam("the_now_s", type_=Double)
_UNTIL: Final = bindparam("the_until_s", type_=Double)
_COUNT: Final = bindparam("the_count", type_=Integer)
_OWNER: Final = bindparam("the_owner", type_=Text)
_IS_RUNNING: Final = JOBS.c.state == JobState.RUNNING.value
_JOB_RUNS: Final = exists().where(JOBS.c.id == _JOB, _IS_RUNNING)


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
_GIVEN: Final = (SHARDS.c.seq, SHARDS.c.token, SHARDS.c.failures, *RANGE)
_FIRST_LEASE: Final[dict[Any, Any]] = {
    SHARDS.c.state: ShardState.LEASED.value,
    SHARDS.c.token: SHARDS.c.token + 1,
    SHARDS.c.first_token: SHARDS.c.token + 1,
    SHARDS.c.owner: _OWNER,
    SHARDS.c.leased_s: _NOW,
    SHARDS.c.until_s: _UNTIL,
    # 0: nobody had it, or it was given back, and whoever did it counted that already
    SHARDS.c.failures: SHARDS.c.failures + case((SHARDS.c.until_s > 0, 1), else_=0),
}
_TAKE: Final = (
    update(SHARDS)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq.in_(select(_FREE.c.seq)))
    .values(_FIRST_LEASE)
    .returning(*_GIVEN)
)
_TAKE_OVER: Final = (
    update(SHARDS)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq.in_(select(_EXPIRED.c.seq)))
    .values(_FIRST_LEASE)
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
_JOBS: Final = bindparam("the_jobs", type_=Text, expanding=True)
_HOLDERS: Final = union(
    select(SHARDS.c.job, SHARDS.c.owner).where(
        SHARDS.c.job.in_(_JOBS), IS_LEASED, SHARDS.c.until_s > _NOW, SHARDS.c.first_token > 0
    ),
    select(SHARDS.c.job, SHARDS.c.second_owner).where(
        SHARDS.c.job.in_(_JOBS),
        IS_LEASED,
        SHARDS.c.second_until_s > _NOW,
        SHARDS.c.second_token > 0,
    ),
)
_ENDED: Final = (
    select(SHARDS.c.job)
    .join(JOBS, JOBS.c.id == SHARDS.c.job)
    .where(IS_LEASED, _has_ended(SHARDS.c.until_s), _IS_RUNNING)
    .order_by(SHARDS.c.until_s)
    .limit(MAX_ENDED)
)
_IS_FIRST: Final = SHARDS.c.first_token == _TOKEN
_IS_SECOND: Final = SHARDS.c.second_token == _TOKEN
IS_MINE: Final = and_(
    SHARDS.c.job == _JOB, SHARDS.c.seq == _SEQ, IS_LEASED, or_(_IS_FIRST, _IS_SECOND)
)
"""The shard of a lease, if that holds; the parameters are those of `named`."""
_RENEW: Final = (
    update(SHARDS)
    .where(IS_MINE)
    .values(
        until_s=case((_IS_FIRST, _UNTIL), else_=SHARDS.c.until_s),
        second_until_s=case((_IS_SECOND, _UNTIL), else_=SHARDS.c.second_until_s),
    )
    .returning(SHARDS.c.seq)
)
_IS_ANOTHER_S: Final = or_(
    and_(SHARDS.c.first_token > 0, ~_IS_FIRST), and_(SHARDS.c.second_token > 0, ~_IS_SECOND)
)
_RELEASE: Final = (
    update(SHARDS)
    .where(IS_MINE)
    .values(
        state=case((_IS_ANOTHER_S, ShardState.LEASED.value), else_=ShardState.OPEN.value),
        until_s=case((_IS_FIRST, 0.0), else_=SHARDS.c.until_s),
        first_token=case((_IS_FIRST, 0), else_=SHARDS.c.first_token),
        second_until_s=case((_IS_SECOND, 0.0), else_=SHARDS.c.second_until_s),
        second_token=case((_IS_SECOND, 0), else_=SHARDS.c.second_token),
        failures=SHARDS.c.failures + bindparam("the_failures", type_=Integer),
    )
    .returning(SHARDS.c.failures)
)


_BEHIND: Final = (
    select(SHARDS.c.seq, *RANGE)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq > _SEQ, IS_OPEN, SHARDS.c.token == 0)
    .order_by(SHARDS.c.seq)
    .limit(MAX_JOINED - 1)
    .with_for_update(skip_locked=True)
)
_DROP: Final = delete(SHARDS).where(
    SHARDS.c.job == _JOB,
    SHARDS.c.seq > _SEQ,
    SHARDS.c.seq <= bindparam("the_last", type_=Integer),
)
_JOIN: Final = (
    update(SHARDS)
    .where(SHARDS.c.job == _JOB, SHARDS.c.seq == _SEQ)
    .values(
        rows=bindparam("the_rows", type_=Integer),
        size_bytes=bindparam("the_bytes", type_=BigInteger),
        digest=bindparam("the_digest", type_=LargeBinary),
    )
)


@dataclass(frozen=True, slots=True)
class Claim(JointOperation[list[Lease]]):
    """A claim of shards of a running job: those that one router makes at once are one statement."""

    job_id: JobId
    spec: JobSpec
    owner: str
    count: int
    rows: int = 0

    @property
    @override
    def kind(self) -> Hashable:
        return Claim, self.job_id, self.owner, self.rows

    @override
    def run_all(self, turn: Turn, asked: Sequence[Claim]) -> list[list[Lease]]:
        counts = [min(each.count, MAX_CLAIM) for each in asked]
        found: list[list[Lease]] = []
        while len(found) < len(counts):
            total, last = 0, len(found)
            while last < len(counts) and total + counts[last] <= MAX_CLAIM:
                total += counts[last]
                last += 1
            leases = iter(claim(turn, self.job_id, self.spec, self.owner, total, rows=self.rows))
            found += [list(islice(leases, count)) for count in counts[len(found) : last]]
        return found


def claim(
    turn: Turn,
    job_id: JobId,
    spec: JobSpec,
    owner: str,
    count: int,
    *,
    rows: int = 0,
    may_be_second: bool = False,
    slow_s: float = 0.0,
) -> list[Lease]:
    """Lease shards of a running job, at most `count` and `MAX_CLAIM`, to a router. Each is joined with those behind it that nobody ever had, up to `rows`.

    Those whose lease has ended come first, the oldest before the others, then those that nobody had. `may_be_second`: where that
    is too few, those that other routers have held longest, and for `slow_s` at least, are leased a second time. A shard that has failed as often as
    `spec` bears ends the job, whose leases are no more then.
    """
    wanted = min(count, MAX_CLAIM)
    asked = {"the_job": job_id, "the_owner": owner, "the_count": wanted}
    leases = _taken(turn, _TAKE, asked, spec)
    if leases is None:
        return []
    if rows:
        leases = [_joined(turn, lease, rows) for lease in leases]
    if may_be_second and len(leases) < wanted:
        asked |= {"the_count": wanted - len(leases), "the_slow_s": slow_s}
        second = _taken(turn, _TAKE_SECOND, asked, spec, is_second=True)
        if second is None:
            return []
        leases += second
    leases.sort(key=lambda lease: lease.seq)
    return leases


def take_over(turn: Turn, job_id: JobId, spec: JobSpec, owner: str, count: int) -> list[Lease]:
    """Lease shards of a running job whose lease has ended to a router, as `claim` does, and no others."""
    asked = {"the_job": job_id, "the_owner": owner, "the_count": min(count, MAX_CLAIM)}
    return _taken(turn, _TAKE_OVER, asked, spec) or []


def ended(turn: Turn) -> list[JobId]:
    """Return the running jobs that have shards whose lease has ended, the longest ago first, of at most `MAX_ENDED` leases."""
    found = turn.connection.execute(_ENDED, {"the_now_s": turn.now_s}).scalars()
    return [JobId(each) for each in dict.fromkeys(found)]


def _taken(
    turn: Turn,
    statement: Any,  # noqa: ANN401 - of SQL
    asked: dict[str, Any],
    spec: JobSpec,
    *,
    is_second: bool = False,
) -> list[Lease] | None:
    """Return what a statement leases; None: one of the shards has failed too often, and its job with it."""
    if asked["the_count"] <= 0:
        return []
    until_s = turn.now_s + LEASE_S
    times = {"the_now_s": turn.now_s, "the_until_s": until_s}
    leases: list[Lease] = []
    job_id = JobId(asked["the_job"])
    for row in turn.connection.execute(statement, {**asked, **times}).all():
        if row.failures >= spec.failure.most_failures:
            fail_for(turn, job_id, row.seq, row.failures, "its leases ended without a result")
            return None
        leases.append(Lease(job_id, row.seq, row.token, until_s, range_of(row), is_second))
    return leases


def _joined(turn: Turn, lease: Lease, rows: int) -> Lease:
    """Return a lease whose shard has those behind it that nobody ever had, as far as it has no more than so many rows then."""
    whole, last = lease.range, lease.seq
    asked = {"the_job": lease.job, "the_seq": lease.seq}
    for behind in turn.connection.execute(_BEHIND, asked):
        more = range_of(behind)
        if (
            more.first_row != whole.first_row + whole.rows
            or whole.rows + more.rows > rows
            or whole.size_bytes + more.size_bytes > MAX_SHARD_BYTES
        ):
            break
        whole, last = whole.joined(more), behind.seq
    if last == lease.seq:
        return lease
    turn.connection.execute(_DROP, {**asked, "the_last": last})
    values = {"the_rows": whole.rows, "the_bytes": whole.size_bytes, "the_digest": whole.digest}
    turn.connection.execute(_JOIN, {**asked, **values})
    return replace(lease, range=whole)


def holders(turn: Turn, jobs: Sequence[JobId]) -> dict[JobId, set[str]]:
    """Return the routers that have leases of each of some jobs now."""
    found: dict[JobId, set[str]] = {job: set() for job in jobs}
    asked = {"the_jobs": list(jobs), "the_now_s": turn.now_s}
    for job, owner in turn.connection.execute(_HOLDERS, asked):
        found[job].add(owner)
    return found


def renew(turn: Turn, leases: Sequence[Lease]) -> list[Lease]:
    """Make leases hold `LEASE_S` from now and return them as they are then; one that is missing is lost."""
    until_s = turn.now_s + LEASE_S
    kept: list[Lease] = []
    for lease in leases:
        asked = {**named(lease), "the_until_s": until_s}
        if takes_results(turn, lease.job) and turn.connection.execute(_RENEW, asked).first():
            kept.append(
                Lease(lease.job, lease.seq, lease.token, until_s, lease.range, lease.is_second)
            )
    return kept


def release(
    turn: Turn,
    lease: Lease,
    spec: JobSpec,
    failure: str = "",
    *,
    has_ended_reader: bool = False,
) -> bool:
    """Give a lease back, so that the shard is free at once, and return False if it was lost before.

    `failure` says why it failed; "": the router just stops. A shard that has failed as often as `spec` bears ends the job, and one
    that has ended its readers `MOST_READERS` times.
    """
    asked = {**named(lease), "the_failures": 1 if failure else 0}
    row = turn.connection.execute(_RELEASE, asked).first()
    if row is None:
        return False
    if has_ended_reader and takes_results(turn, lease.job):
        if has_ended_readers(turn, lease.job, f"shard {lease.seq}", failure):
            rows = lease.range
            words = f"rows {rows.first_row} to {rows.first_row + rows.rows - 1}: {failure}"
            move(turn, lease.job, JobState.FAILED, words)
    elif failure and takes_results(turn, lease.job):
        note(turn, lease.job, "shard_failed", f"shard {lease.seq}: {failure}")
        if row.failures >= spec.failure.most_failures:
            fail_for(turn, lease.job, lease.seq, row.failures, failure)
    return True


def fail_for(turn: Turn, job_id: JobId, seq: int, failures: int, words: str) -> None:
    """End a job one of whose shards has failed too often."""
    move(turn, job_id, JobState.FAILED, f"shard {seq} failed {failures} times: {words}")


def named(lease: Lease) -> dict[str, Any]:
    """Return the parameters that name a lease."""
    return {"the_job": lease.job, "the_seq": lease.seq, "the_token": lease.token}
