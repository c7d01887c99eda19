"""Databases of keys: files of SQLite, where they lie, and what is shown of a place or an error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, exc
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError, StatementError

from capamesh.router.access.engines.file_systems import file_system_of
from capamesh.router.access.engines.location import DatabaseLocation
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


MOUNTS = """\
1 0 254:0 / / rw,relatime - ext4 /dev/vda rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:40 / /mnt/data rw shared:1 - nfs4 server:/export rw
4 3 254:1 / /mnt/data/local\\040disk rw - xfs /dev/vdb rw
5 1 0:41 / /mnt/twice rw - ext4 /dev/vdc rw
6 1 0:42 / /mnt/twice rw - cifs //server/share rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/jobs.db", "ext4"),
        ("/mnt/data/jobs.db", "nfs4"),
        ("/mnt/data/deep/er/jobs.db", "nfs4"),
        ("/mnt/database/jobs.db", "ext4"),
        ("/mnt/data/local disk/jobs.db", "xfs"),
        ("/mnt/twice/jobs.db", "cifs"),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(path), mounts) == kind


def test_file_system_is_not_known_where_the_kernel_tells_nothing(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://db/keys", "postgresql://db/keys"),
        ("postgres://me:secret@db:5433/keys", "postgresql://db:5433/keys"),
        ("postgresql://me:secret@a:1,b:2/keys?password=secret", "postgresql://a:1,b:2/keys"),
        ("postgresql://me:sec@ret@db/keys", "postgresql://db/keys"),
        ("postgresql://me:se/cret@db/keys", "the database"),
        ("postgresql://me:se?cret@db/keys", "the database"),
        ("postgresql://me:se#cret@db/keys", "the database"),
        ("postgresql://me:secret@[db/keys", "the database"),
        ("postgresql:///keys", "postgresql:///keys"),
    ],
)
def test_url_is_shown_without_user_and_password(url: str, shown: str) -> None:
    location = DatabaseLocation.of(url, "keys")
    assert (location.file, location.url, str(location)) == (None, url, shown)
    assert "secret" not in repr(location)


def failing(text: str, sqlstate: str | None = "23505") -> IntegrityError:
    """Return an error that a server told, or a driver where it has no state."""
    cause = Exception(text)
    cause.sqlstate = sqlstate  # type: ignore[attr-defined]
    return IntegrityError("INSERT secret", {"a": "secret"}, cause)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (failing("it is there\nKey (secret)"), "it is there"),
        (failing("no host answers:\n  first\n  second", None), "no host answers: first second"),
        (StatementError("bad", "INSERT secret", {}, ValueError("a value")), "a value"),
        (exc.TimeoutError("waited for 30 s"), "waited for 30 s"),
        (failing(""), "IntegrityError"),
        (failing("x" * 600), "x" * 500),
    ],
)
def test_reason_is_one_line_without_the_statement(error: SQLAlchemyError, reason: str) -> None:
    assert reason_of(error) == reason
