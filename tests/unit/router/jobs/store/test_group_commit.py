"""Operations that wait share one transaction, and none of them harms another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from job_desk import PINNED, Clock, Desk, spec_with
from sqlalchemy import event

from capamesh.protocol.errors import Overloaded
from capamesh.router.jobs.errors import JobNotFound, JobsUnavailable
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store.database import Database, open_database
from capamesh.router.jobs.store.group_commit import MAX_GROUP, StoreThread, Turn, run_group
from capamesh.router.jobs.values import JobId


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(str(tmp_path / "jobs.db"), Clock())
    yield database
    database.engine.dispose()


class Commits:
    """Counts the transactions of a database that were committed."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine, "commit", self._add)

    def _add(self, _connection: object) -> None:
        self.count += 1


def submitting(name: str, client_key: str = "") -> object:
    def submit(turn: Turn) -> str:
        job, _ = jobs.submit(turn, JobId(name), "acme", spec_with(client_key), PINNED)
        return job.id

    return submit


def names(database: Database) -> list[str]:
    return sorted(each.id for each in Desk(database, Clock()).call(jobs.page, None, None, 100))


def test_operations_that_wait_share_one_commit(database: Database) -> None:
    commits = Commits(database)
    group = [Desk.waiting(submitting(f"job-{at}")) for at in range(5)]
    run_group(database, group)
    assert [each.future.result(0) for each in group] == [f"job-{at}" for at in range(5)]
    assert commits.count == 1


def test_operation_that_raises_undoes_its_own_changes_alone(database: Database) -> None:
    def breaks(turn: Turn) -> None:
        submitting("job-undone")(turn)
        raise RuntimeError("a bug")

    group = [
        Desk.waiting(submitting("job-0")),
        Desk.waiting(breaks),
        Desk.waiting(lambda turn: jobs.get(turn, JobId("job-none"))),
        Desk.waiting(submitting("job-1")),
    ]
    run_group(database, group)
    assert names(database) == ["job-0", "job-1"]
    assert isinstance(group[1].future.exception(0), RuntimeError)
    assert isinstance(group[2].future.exception(0), JobNotFound)


def test_row_that_is_there_meanwhile_is_found_at_the_second_try(database: Database) -> None:
    tries = 0

    def late(turn: Turn) -> str:
        nonlocal tries
        tries += 1
        name = "job-0" if tries <= 2 else "job-1"  # in the group, and the first time alone
        return submitting(name)(turn)

    run_group(database, [Desk.waiting(submitting("job-0"))])
    group = [Desk.waiting(late)]
    run_group(database, group)
    assert group[0].future.result(0) == "job-1"
    always = [Desk.waiting(submitting("job-0"))]
    run_group(database, always)
    assert isinstance(always[0].future.exception(0), JobsUnavailable)


def test_disk_that_is_full_fails_all_at_once_and_changes_nothing(database: Database) -> None:
    desk = Desk(database, Clock())
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    commits = Commits(database)
    group = [Desk.waiting(submitting(f"job-{at:03}")) for at in range(60)]
    run_group(database, group)
    errors = {str(each.future.exception(0)) for each in group}
    assert len(errors) == 1
    assert "database or disk is full" in errors.pop()
    assert commits.count == 0
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert desk.run(submitting("job-after")) == "job-after"
    assert names(database) == ["job-after"]


class Held:
    """An operation that lasts until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _turn: Turn) -> str:
        self.has_begun.set()
        assert self.go_on.wait(30)
        return "held"


@pytest.fixture
def thread(database: Database) -> Iterator[StoreThread]:
    thread = StoreThread(database, most_waiting=100)
    thread.start()
    yield thread
    thread.close(30)


def test_operations_that_come_during_a_commit_are_committed_together(
    database: Database, thread: StoreThread
) -> None:
    held, commits = Held(), Commits(database)
    first = thread.put(held)
    assert held.has_begun.wait(30)
    others = [thread.put(submitting(f"job-{at:03}")) for at in range(MAX_GROUP + 1)]
    held.go_on.set()
    assert first.result(30) == "held"
    assert [each.result(30) for each in others] == [f"job-{at:03}" for at in range(MAX_GROUP + 1)]
    assert commits.count == 3


def test_operation_taken_back_before_its_turn_does_not_run(
    database: Database, thread: StoreThread
) -> None:
    held = Held()
    thread.put(held)
    assert held.has_begun.wait(30)
    taken_back = thread.put(submitting("job-0"))
    assert taken_back.cancel()
    held.go_on.set()
    assert thread.put(submitting("job-1")).result(30) == "job-1"
    with pytest.raises(CancelledError):
        taken_back.result(0)
    assert thread.close(30)
    assert names(database) == ["job-1"]


def test_no_more_operations_wait_than_may(database: Database) -> None:
    thread = StoreThread(database, most_waiting=2)
    thread.put(submitting("job-0"))
    thread.put(submitting("job-1"))
    with pytest.raises(Overloaded, match="2 operations wait"):
        thread.put(submitting("job-2"))
    thread.start()
    assert thread.close(30)
    assert names(database) == ["job-0", "job-1"]


def test_closed_store_refuses(thread: StoreThread) -> None:
    assert thread.close(30)
    with pytest.raises(JobsUnavailable, match="closed"):
        thread.put(submitting("job-0"))


def test_end_does_not_wait_for_a_database_that_stands_still(thread: StoreThread) -> None:
    held = Held()
    thread.put(held)
    assert held.has_begun.wait(30)
    assert not thread.close(0)
    held.go_on.set()
