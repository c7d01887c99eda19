"""Where jobs are kept: which files are taken, and what is said of a database."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from job_desk import Clock
from sqlalchemy import insert

from capamesh.protocol.errors import ConfigError
from capamesh.router.jobs.store import database as databases
from capamesh.router.jobs.store.database import SqliteDatabase, file_system_of, open_database
from capamesh.router.jobs.store.tables import FORMAT, FORMATS

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


def test_link_is_followed_to_the_file_system_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path}/share rw - nfs b rw\n")
    assert file_system_of(tmp_path / "link/jobs.db", mounts) == "nfs"


def test_file_system_is_not_known_where_the_kernel_tells_nothing(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_file_on_a_network_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "file_system_of", lambda _path: kind)
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


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigError, match=r"cannot keep jobs in .*not a database"):
        open_database(str(path), Clock())
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(ConfigError, match="cannot make the file of jobs"):
        open_database(str(tmp_path / "folder.db"), Clock())


def test_url_that_is_none_is_refused_without_its_password() -> None:
    for url in ("postgresql://me:hunter2@host:port/jobs", "mysql://me:hunter2@host/jobs"):
        with pytest.raises(ConfigError) as refused:
            open_database(url, Clock())
        assert "hunter2" not in str(refused.value)
