"""Where jobs are kept: which files are taken, and what is said of a database."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from job_desk import Clock, Desk
from sqlalchemy import insert

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines import file_systems
from capamesh.router.jobs.store.database import SqliteDatabase, open_database
from capamesh.router.jobs.store.job_operations import get
from capamesh.router.jobs.store.price_operations import keep_price
from capamesh.router.jobs.store.tables import FORMAT, FORMATS
from capamesh.router.jobs.values import Paid, Price


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
