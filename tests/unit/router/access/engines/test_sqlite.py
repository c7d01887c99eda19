"""Files of SQLite: whose they are, what is set on a connection, and what a transaction keeps others from."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, OperationalError

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines.reasons import reason_of
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


def test_file_is_its_owners_alone_and_is_left_as_it_is_where_it_is_there(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_bytes(b"something")
    make_file(path, "plums")
    assert path.read_bytes() == b"something"


def test_file_that_cannot_be_made_is_told_with_what_is_kept_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot make the file of plums .*: Is a directory"):
        make_file(tmp_path, "plums")


def test_file_that_is_not_there_is_not_made_by_opening(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "none.db", busy_s=0.0, is_kept_open=False)
    with pytest.raises(OperationalError) as told, engine.connect():
        pass
    assert reason_of(told.value) == "unable to open database file"
    assert not (tmp_path / "none.db").exists()


def test_connection_on_which_nothing_can_be_set_is_given_up(path: Path) -> None:
    path.write_bytes(b"something else" * 1000)
    engine = sqlite_engine(path, busy_s=0.0, is_kept_open=True, pragmas=("journal_mode = WAL",))
    with pytest.raises(DatabaseError) as told, engine.connect():
        pass
    assert reason_of(told.value) == "file is not a database"


def test_connections_have_what_is_set(engines: tuple[Engine, Engine]) -> None:
    found: list[int] = []
    for engine in engines:
        with engine.connect() as connection:
            found.append(int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one()))
    assert found == [0, 2]


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


def test_connection_that_reads_once_may_write_the_next_time(
    engines: tuple[Engine, Engine],
) -> None:
    kept, _ = engines
    with kept.connect().execution_options(**{READS_ONLY: True}) as connection, connection.begin():
        connection.exec_driver_sql("SELECT count(*) FROM plums")
    with kept.begin() as connection:
        connection.exec_driver_sql("INSERT INTO plums VALUES (1)")
