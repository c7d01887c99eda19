"""The two databases that jobs are kept in: a file of SQLite, or PostgreSQL by URL. IO: they.

SQLite is for the routers of one machine: its file is refused on a network's file system, whose locks and shared memory
cannot be trusted. Leases are measured there by the clock that is passed in, which all of them share; PostgreSQL measures them
by its own. Whoever stands still in the middle of a change holds SQLite's file until he goes on; PostgreSQL breaks him off.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool
from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import make_folder
from capamesh.router.jobs.store.tables import FORMAT, FORMATS, METADATA

BUSY_S: Final = 5.0
"""Seconds for which another process's change is waited for (guess: one takes milliseconds)."""
STATEMENT_S: Final = 10
"""Seconds after which PostgreSQL breaks off a statement, or a transaction that stands still (guess: less than a lease)."""
CONNECT_S: Final = 5
"""Seconds that connecting to a server may take, to each of its addresses (guess; libpq takes no less than 2)."""
FRESH_S: Final = 60
"""Seconds after which a connection is made anew: the server may have become one that only reads."""
CACHE_KIB: Final = 16 * 1024
"""The memory for SQLite's pages (guess: the indices of a large job)."""
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb2",
        "smb3",
        "smbfs",
        "virtiofs",
    }
)
_MOUNTS: Final = Path("/proc/self/mountinfo")
_LOCK: Final = 0x6361_7061_6A6F_6273  # "capajobs"
_DATABASE_NOW: Final = select(func.extract("epoch", func.clock_timestamp()))


class Database(ABC):
    """A database of jobs. One thread at a time uses it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        """The name for messages, without a password."""

    @abstractmethod
    def now_s(self, connection: Connection) -> float:
        """Return the time by which leases are measured, in seconds since 1970."""

    def make(self) -> None:
        """Make the tables, unless they are there.

        Raises:
            ConfigError: the database cannot be used, or is of a newer version.
        """
        try:
            with self.engine.begin() as connection:
                self._lock(connection)
                METADATA.create_all(connection)
                number = connection.execute(select(func.max(FORMATS.c.number))).scalar()
                if number is None:
                    connection.execute(insert(FORMATS).values(number=FORMAT))
        except SQLAlchemyError as exc:
            raise ConfigError(f"cannot keep jobs in {self.name}: {said(exc)}") from exc
        if number is not None and number > FORMAT:
            raise ConfigError(
                f"the jobs in {self.name} are of a newer version of capamesh than this: use that one"
            )

    @abstractmethod
    def _lock(self, connection: Connection) -> None:
        """Keep others from making the tables at the same time."""


class SqliteDatabase(Database):
    """A file of SQLite, in WAL and with every commit on the disk before it is told."""

    def __init__(self, path: Path, wall_s: Callable[[], float]) -> None:
        """Open the file, or make it for its owner alone; `wall_s` is this machine's clock.

        Raises:
            ConfigError: the file is on a network's file system, or cannot be used.
        """
        kind = file_system_of(path)
        if kind in NETWORK_FILE_SYSTEMS:
            raise ConfigError(
                f"{path} is on a file system of the kind {kind}, which is reached over a network, where SQLite's file can be"
                " damaged; use a local disk, or PostgreSQL for routers of several machines"
            )
        make_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise ConfigError(f"cannot make the file of jobs {path}: {exc.strerror}") from exc
        engine = create_engine(
            f"sqlite:///{path.absolute()}",
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"timeout": BUSY_S, "isolation_level": None, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        super().__init__(engine, str(path))
        self._wall_s = wall_s

    @override
    def now_s(self, connection: Connection) -> float:
        return self._wall_s()

    @override
    def _lock(self, connection: Connection) -> None:
        """Do nothing: a transaction has the file to itself."""


class PostgresDatabase(Database):
    """PostgreSQL, shared by any number of routers of any number of machines."""

    def __init__(self, url: str) -> None:
        """Take an address that libpq reads: `postgresql://user:password@host/database`.

        Raises:
            ConfigError: it is no such address, or the library is missing.
        """
        try:
            import psycopg  # noqa: PLC0415 - an extra, which few need
            from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - the same
        except ImportError as exc:
            raise ConfigError(
                "jobs in PostgreSQL need psycopg, which is not here: pip install 'capamesh[postgres]'"
            ) from exc
        try:
            given: dict[str, Any] = conninfo_to_dict(url)
        except psycopg.Error:  # its text has the whole URL
            raise ConfigError(
                "the URL of the store of jobs is none that PostgreSQL reads; expected postgresql://USER@HOST:PORT/DATABASE,"
                " with special characters of the password as %XX"
            ) from None
        options: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "application_name": "capamesh jobs",
            # an address that is silent is given up, not waited for
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            **given,
        }
        engine = create_engine(
            "postgresql+psycopg://",
            # nothing is prepared at the server, so that a pooler may lend one connection to many
            creator=lambda: psycopg.connect(**options, prepare_threshold=None),
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            pool_recycle=FRESH_S,
            hide_parameters=True,
        )
        event.listen(engine, "begin", _begin_postgres)
        super().__init__(engine, f"{given.get('host', 'PostgreSQL')}/{given.get('dbname', '')}")

    @override
    def now_s(self, connection: Connection) -> float:
        return float(connection.execute(_DATABASE_NOW).scalar_one())

    @override
    def _lock(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(literal_column(str(_LOCK)))))


def open_database(where: str, wall_s: Callable[[], float]) -> Database:
    """Return the database at a path or a URL, with its tables; raises `ConfigError`."""
    database = PostgresDatabase(where) if "://" in where else SqliteDatabase(Path(where), wall_s)
    database.make()
    return database


def said(error: SQLAlchemyError) -> str:
    """Return what a database said, without the statement and the values in it."""
    origin = getattr(error, "orig", None)
    words = str(origin or type(error).__name__).strip().splitlines()
    return (words[0] if words else type(error).__name__)[:200]


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the kind of the file system that a file lies on, or is to lie on; "" where the kernel does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.absolute().resolve()
    best, kind = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        columns = fields.split()
        if len(columns) < 5 or not rest:
            continue
        point = Path(columns[4].encode().decode("unicode_escape"))
        # of two on one point the later hides the earlier
        if (real == point or point in real.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    for line in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        f"PRAGMA cache_size = -{CACHE_KIB}",
        "PRAGMA temp_store = MEMORY",
    ):
        connection.execute(line)


def _begin_postgres(connection: Connection) -> None:
    # for this transaction alone: a pooler may lend the connection to others
    connection.exec_driver_sql(
        f"SELECT set_config('statement_timeout', '{STATEMENT_S}s', true),"
        f" set_config('lock_timeout', '{STATEMENT_S // 2}s', true),"
        f" set_config('idle_in_transaction_session_timeout', '{STATEMENT_S}s', true)"
    )


def _begin_sqlite(connection: Connection) -> None:
    # takes the lock at once: two that began by reading could not both go on to write
    connection.exec_driver_sql("BEGIN IMMEDIATE")
