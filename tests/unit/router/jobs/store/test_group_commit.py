"""Operations that wait share one transaction, and none of them harms another."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from job_desk import PINNED, Clock, Desk, ranges, spec_with
from sqlalchemy import event, insert, select

from capamesh.protocol.errors import ConfigError, Overloaded
from capamesh.router.access.engines import file_systems
from capamesh.router.jobs.errors import JobNotFound, JobsUnavailable
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import job_store
from capamesh.router.jobs.store.database import Change, Database, SqliteDatabase, open_database
from capamesh.router.jobs.store.group_commit import Operation, StoreThread, Turn, Waiting, run_group
from capamesh.router.jobs.store.job_operations import get
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.store.price_operations import keep_price
from capamesh.router.jobs.store.state_operations import FIRST
from capamesh.router.jobs.store.tables import FORMAT, FORMATS
from capamesh.router.jobs.stored_files import Owner, Purpose
from capamesh.router.jobs.values import Counts, JobId, Paid, Price


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
        there = [each.id for each in jobs.page(turn, None, None, 9)]
        seen.append((waits_for_the_disk(turn), there))
        turn.must_last()
        return submitting("job-1")(turn)

    def counts(turn: Turn) -> None:
        turn.connection.execute(insert(FORMATS).values(number=0))

    group = [asking(each, Change.FLEETING) for each in (counts, tells)]
    run_group(database, group)
    assert group[1].future.result(0) == "job-1"
    assert seen == [(False, []), (True, [])]
    with database.engine.connect() as connection:
        assert len(connection.execute(select(FORMATS)).all()) == 2
    assert names(database) == ["job-1"]


class Held:
    """An operation that lasts until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, _turn: Turn) -> str:
        self.has_begun.set()
        assert self.go_on.wait(30)
        return "held"


async def test_no_more_operations_wait_than_may(database: Database) -> None:
    thread = StoreThread(database, most_waiting=2)
    held = Held()
    thread.put(held)
    assert held.has_begun.wait(30)
    thread.put(submitting("job-0"))
    thread.put(submitting("job-1"))
    with pytest.raises(Overloaded, match="2 operations wait"):
        thread.put(submitting("job-2"))
    assert not thread.close(0)  # the end does not wait for a database that stands still
    held.go_on.set()
    assert thread.close(30)
    assert names(database) == ["job-0", "job-1"]


LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the disk as long as it takes."""
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore.open(str(tmp_path / "jobs.db"), Clock())
    yield store
    await store.close()


async def test_loop_does_not_wait_for_a_database_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "PATIENCE_S", 0)
    thread = StoreThread(open_database(str(tmp_path / "jobs.db"), Clock()))
    store = JobStore(thread, Clock())
    stands = Held()
    held = thread.put(stands)
    assert stands.has_begun.wait(LIMIT_S)  # before, what is put next would be of its group
    with pytest.raises(JobsUnavailable, match="has not answered"):
        await store.submit("acme", spec_with("key"), PINNED)
    stands.go_on.set()
    await asyncio.wrap_future(held)
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)
    # it was taken back before its turn
    assert await store.page(None, None, 10) == []
    await store.close()


async def test_counts_of_several_jobs_are_each_in_its_place(store: JobStore) -> None:
    first, _ = await store.submit("acme", spec_with("first"), PINNED)
    await store.claim_plan("router")
    assert await store.add_shards(first.id, 1, 0, ranges(3))
    second, _ = await store.submit("acme", spec_with("second"), PINNED)
    planned, empty = Counts(shards=3), Counts()
    assert await store.counts_of([second.id, first.id, second.id]) == [empty, planned, empty]
    assert await store.counts_of([first.id]) == [await store.counts(first.id)]
    assert await store.counts_of([]) == []


async def test_looks_wait_for_nobody_who_writes(store: JobStore, tmp_path: Path) -> None:
    job, _ = await store.submit("acme", spec_with(), PINNED)
    file = await store.files.begin(Owner("acme"), "rows.jsonl", Purpose.BATCH, 10, 60.0, 10)
    other = open_database(str(tmp_path / "jobs.db"), Clock())
    with other.transaction(Change.LASTING):
        assert (await store.get(job.id, None)).id == job.id
        assert (await store.look(job.id, None, 0)).job.id == job.id
        looks: list[Awaitable[object]] = [
            store.counts(job.id),
            store.counts_of([job.id]),
            store.page("acme", None, 10, JobState.PLANNING),
            store.count_states(),
            store.look_at_states(0.0, FIRST, 10),
            store.some([job.id]),
            store.events(job.id, 0, 10),
            store.untidy(10),
            store.ended_leases(),
            store.holders([job.id]),
            store.bad_rows(job.id, -1, 10),
            store.manifests(job.id, 0, 10),
            store.place_of(job.id, 0),
            store.files.get(file.id, None),
            store.files.arriving("acme", "rows.jsonl"),
            store.files.page("acme", "", None, 10, is_newest_first=True),
            store.files.known([file.id]),
            store.batches.page("acme", None, 10),
            store.batches.undone(job.id, 0),
        ]
        for look in looks:  # one after the other, so that no group is as one of them
            await look
    other.engine.dispose()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_file_on_a_network_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "file_system_of", lambda _path: kind)
    with pytest.raises(ConfigError, match=rf"kind {kind}.*PostgreSQL"):
        SqliteDatabase(tmp_path / "jobs.db", Clock())
    assert not (tmp_path / "jobs.db").exists()


def test_file_is_its_owner_s_alone_and_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "new" / "jobs.db"
    database = open_database(str(path), Clock())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database.engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous")
        ]
    assert found == ["wal", 2]
    database.engine.dispose()


def test_store_is_opened_again_and_one_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    database = open_database(path, Clock())
    open_database(path, Clock()).engine.dispose()
    with database.engine.begin() as connection:
        connection.execute(insert(FORMATS).values(number=FORMAT + 1))
    database.engine.dispose()
    with pytest.raises(ConfigError, match="newer version"):
        open_database(path, Clock())


def test_store_of_an_older_version_gets_the_table_that_it_lacks(tmp_path: Path) -> None:
    clock = Clock()
    path = str(tmp_path / "jobs.db")
    database = open_database(path, clock)
    job = Desk(database, clock).submitted()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE price")
    database.engine.dispose()
    database = open_database(path, clock)
    desk = Desk(database, clock)
    desk.call(keep_price, Paid(job.id, "a", Price(10, 1.0)))
    assert desk.call(get, job.id).price == Price(10, 1.0)
    database.engine.dispose()


def test_url_that_is_none_is_refused_without_its_password() -> None:
    for url in ("postgresql://me:hunter2@host:port/jobs", "mysql://me:hunter2@host/jobs"):
        with pytest.raises(ConfigError) as refused:
            open_database(url, Clock())
        assert "hunter2" not in str(refused.value)
