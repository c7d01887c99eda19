"""Files of SQLite: whose they are, what is set on a connection, and what a transaction keeps others from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from capamesh.router.access.engines.sqlite import READS_ONLY, make_file, sqlite_engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "a b%.db"
    make_file(path, "plums")
    return path


@pytest.fixture
def engines(path: Path) -> Iterator[tuple[Engine, Engine]]:
    pair = (
        sqlite_engine(path, busy_s=0.0, is_kept_open=True, pragmas=("synchronous = OFF",)),
        sqlite_engine(path, busy_s=0.0, is_kept_open=False),
    )
    with pair[0].begin() as connection:
        connection.exec_driver_sql("CREATE TABLE plums (count INTEGER)")
    yield pair
    for engine in pair:
        engine.dispose()


def test_change_of_the_journal_waits_for_whoever_has_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    engines = [
        sqlite_engine(path, busy_s=busy_s, is_kept_open=False, pragmas=("journal_mode = WAL",))
        for busy_s in (0.0, 60.0)
    ]
    with pytest.raises(OperationalError, match="database is locked"), engines[0].connect():
        pass
    monkeypatch.setattr(
        "capamesh.router.access.engines.sqlite.time.sleep", lambda _: holder.rollback()
    )
    with engines[1].connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    holder.close()


def test_transaction_that_may_write_keeps_others_from_writing_and_not_from_reading(
    engines: tuple[Engine, Engine],
) -> None:
    first, second = engines
    reading = {READS_ONLY: True}
    with first.begin():
        with pytest.raises(OperationalError, match="database is locked"), second.begin():
            pass
        with second.connect().execution_options(**reading) as connection, connection.begin():
            connection.exec_driver_sql("SELECT count(*) FROM plums")
    with first.connect().execution_options(**reading) as connection, connection.begin():
        connection.exec_driver_sql("SELECT count(*) FROM plums")
        with second.connect() as writing, writing.begin() as transaction:
            transaction.rollback()
