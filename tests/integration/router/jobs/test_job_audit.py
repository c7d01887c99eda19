"""The audit by which the kill rounds of jobs know takeovers and late commits, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import job_audit
import pytest
from job_audit import late_commits, take_overs
from job_desk import Clock, Desk, manifest
from postgres import served
from sqlalchemy import text

from capamesh.router.jobs.store import lease_operations as leasing
from capamesh.router.jobs.store import shard_operations as shards
from capamesh.router.jobs.store.database import open_database
from capamesh.router.jobs.values import LEASE_S


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "SQLite":
        yield str(tmp_path / "jobs.db")
        return
    with served() as server:
        yield server.new_database()


@pytest.fixture
def desk(where: str) -> Iterator[Desk]:
    clock = Clock()
    database = open_database(where, clock)
    job_audit.install(where)
    yield Desk(database, clock)
    database.engine.dispose()


def test_audit_tells_who_took_a_dead_router_s_shards_over_and_when(desk: Desk, where: str) -> None:
    job = desk.planned(3)
    mine = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    (other,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    desk.call(leasing.renew, mine)  # is no change of who has what
    assert len(job_audit.changes(where)) == 3
    assert desk.call(shards.commit, other, job.spec, manifest(other))
    gone_s = job_audit.changes(where)[-1].at_s
    desk.clock.now_s += LEASE_S
    (taken,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert desk.call(shards.commit, taken, job.spec, manifest(taken))
    found = job_audit.changes(where)
    assert [(each.was, each.became, each.owner) for each in found] == [
        ("open", "leased", "a"),
        ("open", "leased", "a"),
        ("open", "leased", "b"),
        ("leased", "done", "b"),
        ("leased", "leased", "b"),
        ("leased", "done", "b"),
    ]
    (over,) = take_overs(found, lambda owner: owner == "a", gone_s)
    assert (over.job, over.seq, over.taken_s) == (job.id, taken.seq, found[4].at_s)
    assert take_overs(found, lambda owner: owner == "b", gone_s) == []


def test_shard_of_which_another_router_has_a_second_lease_waits_for_nobody(
    desk: Desk, where: str
) -> None:
    job = desk.planned(1)
    desk.call(leasing.claim, job.id, job.spec, "a", 1)
    (second,) = desk.call(leasing.claim, job.id, job.spec, "b", 1, may_be_second=True)
    gone_s = job_audit.changes(where)[-1].at_s
    assert desk.call(shards.commit, second, job.spec, manifest(second))
    found = job_audit.changes(where)
    assert take_overs(found, lambda owner: owner == "a", gone_s) == []
    assert late_commits(found) == []


def test_commit_of_a_lease_that_was_taken_over_is_refused_and_would_be_seen(
    desk: Desk, where: str
) -> None:
    job = desk.planned(1)
    (old,) = desk.call(leasing.claim, job.id, job.spec, "a", 1)
    desk.clock.now_s += LEASE_S
    (new,) = desk.call(leasing.claim, job.id, job.spec, "b", 1)
    assert not desk.call(shards.commit, old, job.spec, manifest(old))
    assert late_commits(job_audit.changes(where)) == []
    forged = text("UPDATE shard SET state = 'done', first_token = :token WHERE seq = :seq")
    with desk.database.engine.begin() as connection:
        connection.execute(forged, {"token": old.token, "seq": new.seq})
    (late,) = late_commits(job_audit.changes(where))
    assert (late.first_was, late.first_token) == (new.token, old.token)
