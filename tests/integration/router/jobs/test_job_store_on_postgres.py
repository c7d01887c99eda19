"""What the store of jobs does on PostgreSQL: the cases of SQLite, and those of locks and of a server that is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from job_desk import Clock, Desk, manifest
from postgres import PASSWORD, QUOTED, Postgres, served
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from tests.unit.router.jobs.store.test_file_store import *  # noqa: F403 - the tests
from tests.unit.router.jobs.store.test_job_store import *  # noqa: F403 - the tests

from capamesh.protocol.errors import StorageFull
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import database as databases
from capamesh.router.jobs.store import file_operations as files
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import lease_operations as leasing
from capamesh.router.jobs.store import shard_operations as shards
from capamesh.router.jobs.store.database import PostgresDatabase, open_database
from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.stored_files import FileId, Owner, Purpose
from capamesh.router.jobs.values import Counts, Job, Lease


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with served() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.new_database()


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    clock = Clock()
    database = open_database(url, clock)
    yield Desk(database, clock)
    database.engine.dispose()


@pytest.fixture
def other(url: str, desk: Desk) -> Iterator[Desk]:
    """Another router of the same store."""
    database = open_database(url, desk.clock)
    yield Desk(database, desk.clock)
    database.engine.dispose()


@contextmanager
def turn_of(desk: Desk) -> Iterator[Turn]:
    """Begin a transaction that ends when the test says so."""
    with desk.database.engine.begin() as connection:
        yield Turn(connection, desk.clock.now_s)


def waits_for_lock(desk: Desk, operation: Callable[[Turn], object]) -> None:
    """See that an operation waits for the transaction of another router."""
    with desk.database.engine.connect() as waiting:
        waiting.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        with pytest.raises(DBAPIError, match="lock timeout"):
            operation(Turn(waiting, desk.clock.now_s))


def test_leases_are_measured_by_the_server_s_clock(url: str) -> None:
    database = open_database(url, Clock())  # whose time is another one
    with database.engine.begin() as connection:
        earlier_s, later_s = database.now_s(connection), database.now_s(connection)
    assert abs(earlier_s - time.time()) < 60
    assert earlier_s < later_s  # within one transaction, too
    database.engine.dispose()


def test_shards_that_another_router_is_leasing_are_passed_by(desk: Desk, other: Desk) -> None:
    job = desk.planned(10)
    with turn_of(desk) as turn:
        mine = leasing.claim(turn, job.id, job.spec, "a", 4)
        theirs = other.call(leasing.claim, job.id, job.spec, "b", 4)
    assert [each.seq for each in mine] == [0, 1, 2, 3]
    assert [each.seq for each in theirs] == [4, 5, 6, 7]


def test_cancellation_waits_for_a_commit_and_counts_it(desk: Desk, other: Desk) -> None:
    job = desk.planned(2)
    first, second = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    with turn_of(desk) as turn:
        assert shards.commit(turn, first, job.spec, manifest(first))
        waits_for_lock(other, lambda turn: jobs.move(turn, job.id, JobState.CANCELLED))
    ended = other.call(jobs.move, job.id, JobState.CANCELLED)
    assert ended.counts == Counts(2, 1, 0, 10, 0)
    assert not desk.call(shards.commit, second, job.spec, manifest(second))


def test_commits_of_two_routers_to_one_job_do_not_wait_for_one_another(
    desk: Desk, other: Desk
) -> None:
    job = desk.planned(2)
    first, second = desk.call(leasing.claim, job.id, job.spec, "a", 2)
    with turn_of(desk) as turn:
        assert shards.commit(turn, first, job.spec, manifest(first))
        assert other.call(shards.commit, second, job.spec, manifest(second))
    assert desk.call(jobs.finish, job.id).state is JobState.COMPLETED


def test_files_that_two_routers_begin_at_once_are_counted_together(desk: Desk, other: Desk) -> None:
    def begin(turn: Turn, name: str) -> None:
        files.begin(turn, FileId(name), Owner("acme"), "in", Purpose.BATCH, 20, 60.0, 30)

    with turn_of(desk) as turn:
        begin(turn, "file-a")
        waits_for_lock(other, lambda turn: begin(turn, "file-b"))
    with pytest.raises(StorageFull):
        other.call(begin, "file-b")


def test_server_that_was_away_is_used_again_and_no_password_is_told(
    server: Postgres, desk: Desk
) -> None:
    job = desk.planned(1)
    server.stop()
    try:
        with pytest.raises(JobsUnavailable) as told:
            desk.call(jobs.get, job.id)
    finally:
        server.start()
    assert PASSWORD not in str(told.value)
    assert QUOTED not in str(told.value)
    assert desk.call(jobs.get, job.id).id == job.id


def claimed_by_one_that_stands_still(
    still: PostgresDatabase, desk: Desk, job: Job
) -> tuple[Connection, list[Lease]]:
    """Return a connection whose transaction has claimed a shard; one that was broken off before that is made again."""
    for _ in range(200):
        connection = still.engine.connect()
        with suppress(DBAPIError):
            turn = Turn(connection, desk.clock.now_s)
            if mine := leasing.claim(turn, job.id, job.spec, "a", 1):
                return connection, mine
        connection.invalidate()
        connection.close()
        time.sleep(0.1)
    pytest.fail("nothing can be claimed")


def test_router_that_stands_still_in_a_transaction_is_broken_off(
    url: str, desk: Desk, other: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.planned(1)
    monkeypatch.setattr(databases, "STATEMENT_S", 2)
    still = PostgresDatabase(DatabaseLocation.of(url, databases.KEPT))  # its tables are there
    connection, mine = claimed_by_one_that_stands_still(still, desk, job)
    with connection:
        for _ in range(200):
            theirs = other.call(leasing.claim, job.id, job.spec, "b", 1)
            if theirs:
                break
            time.sleep(0.1)
        with pytest.raises(DBAPIError):
            connection.commit()
        connection.invalidate()
    still.engine.dispose()
    assert [each.seq for each in theirs] == [each.seq for each in mine]
    assert other.call(shards.commit, theirs[0], job.spec, manifest(theirs[0]))
