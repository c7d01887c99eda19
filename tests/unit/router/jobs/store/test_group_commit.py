"""Operations that wait share one transaction, and none of them harms another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from job_desk import PINNED, Clock, Desk, spec_with
from sqlalchemy import event, insert, select

from capamesh.protocol.errors import Overloaded
from capamesh.router.jobs.errors import JobNotFound, JobsUnavailable
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store.database import Change, Database, open_database
from capamesh.router.jobs.store.group_commit import (
    Operation,
    StoreThread,
    Turn,
    Waiting,
    run_group,
)
from capamesh.router.jobs.store.tables import FORMATS
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


def waits_for_the_disk(turn: Turn) -> bool:
    """Return whether the commit of a turn waits for the disk."""
    return bool(turn.connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2)


def asking(operation: Operation[Any], change: Change) -> Waiting[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return Waiting(operation, future, change)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ([Change.FLEETING], False),
        ([Change.FLEETING, Change.NONE], False),
        ([Change.LASTING], True),
        ([Change.NONE, Change.LASTING, Change.FLEETING], True),
    ],
)
def test_commit_waits_for_the_disk_where_something_is_to_last(
    database: Database, changes: list[Change], *, waits: bool
) -> None:
    for _ in range(2):  # whatever the transaction before was
        group = [asking(waits_for_the_disk, change) for change in changes]
        run_group(database, group)
        assert {each.future.result(0) for each in group} == {waits}
        run_group(database, [asking(waits_for_the_disk, Change(3 - max(changes)))])


def test_change_that_turns_out_to_last_is_made_once_more_so_that_it_does(
    database: Database,
) -> None:
    seen: list[tuple[bool, list[str]]] = []

    def tells(turn: Turn) -> str:
        seen.append(
            (waits_for_the_disk(turn), [each.id for each in jobs.page(turn, None, None, 9)])
        )
        turn.must_last()
        return submitting("job-1")(turn)

    first = asking(
        lambda turn: turn.connection.execute(insert(FORMATS).values(number=0)) and None,
        Change.FLEETING,
    )
    second = asking(tells, Change.FLEETING)
    run_group(database, [first, second])
    assert second.future.result(0) == "job-1"
    assert seen == [(False, []), (True, [])]
    with database.engine.connect() as connection:
        assert len(connection.execute(select(FORMATS)).all()) == 2
    assert names(database) == ["job-1"]


def test_move_and_event_of_an_operation_that_need_not_last_do(database: Database) -> None:
    run_group(database, [Desk.waiting(submitting("job-0"))])
    for moving in (
        lambda turn: jobs.move(turn, JobId("job-0"), JobState.CANCELLED),
        lambda turn: jobs.note(turn, JobId("job-0"), "waiting", "for its input"),
    ):
        seen: list[bool] = []
        group = [
            asking(
                lambda turn, seen=seen, moving=moving: (
                    seen.append(waits_for_the_disk(turn)),
                    moving(turn),
                ),
                Change.FLEETING,
            )
        ]
        run_group(database, group)
        group[0].future.result(0)
        assert seen == [False, True]


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
    yield thread
    thread.close(30)


async def test_no_more_operations_wait_than_may(database: Database) -> None:
    thread = StoreThread(database, most_waiting=2)
    held = Held()
    thread.put(held)
    assert held.has_begun.wait(30)
    thread.put(submitting("job-0"))
    thread.put(submitting("job-1"))
    with pytest.raises(Overloaded, match="2 operations wait"):
        thread.put(submitting("job-2"))
    held.go_on.set()
    assert thread.close(30)
    assert names(database) == ["job-0", "job-1"]


async def test_end_does_not_wait_for_a_database_that_stands_still(thread: StoreThread) -> None:
    held = Held()
    thread.put(held)
    assert held.has_begun.wait(30)
    assert not thread.close(0)
    held.go_on.set()
