"""The two databases that jobs are kept in: a file of SQLite, or PostgreSQL by URL. IO: they.

SQLite is for the routers of one machine: its file is refused on a network's file system, whose locks and shared memory
cannot be trusted. Leases are measured there by the clock that is passed in, which all of them share; PostgreSQL measures them
by its own. Whoever stands still in the middle of a change holds SQLite's file until he goes on; PostgreSQL breaks him off.
What may be lost with the machine (`Change.FLEETING`) does not wait for the disk in SQLite: whoever holds a lease is lost with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, literal_column, select
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines.file_systems import check_is_local
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.engines.postgres import TimeLimits, postgres_engine
from capamesh.router.access.engines.reasons import reason_of
from capamesh.router.access.engines.sqlite import (
    READS_ONLY,
    SYNCHRONOUS,
    make_file,
    sqlite_engine,
)
from capamesh.router.jobs.store.tables import FORMAT, FORMATS, METADATA

KEPT: Final = "jobs"
BUSY_S: Final = 5.0
"""Seconds for which another process's change is waited for (guess: one takes milliseconds)."""
STATEMENT_S: Final = 10
"""Seconds after which PostgreSQL breaks off a statement, or a transaction that stands still (guess: less than a lease)."""
CONNECT_S: Final = 5
"""Seconds that connecting to a server may take, to each of its addresses (guess; libpq takes no less than 2)."""
CACHE_KIB: Final = 16 * 1024
"""The memory for SQLite's pages (guess: the indices of a large job)."""
_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    f"cache_size = -{CACHE_KIB}",
    "temp_store = MEMORY",
)
_LOCK: Final = 0x6361_7061_6A6F_6273  # "capajobs"
_DATABASE_NOW: Final = select(func.extract("epoch", func.clock_timestamp()))


class Change(IntEnum):
    """The change that an operation makes, from the least on; a transaction is as the greatest of its operations."""

    NONE = 0
    """No change: it reads."""
    FLEETING = 1
    """Leases, and plans that are being made: what is lost with the machine is lost with those who had it, and begun anew."""
    LASTING = 2
    """All that is told: it must be on the disk first."""


_NO_OPTIONS: Final[Mapping[Change, Mapping[str, Any]]] = {change: {} for change in Change}
_SQLITE_OPTIONS: Final[Mapping[Change, Mapping[str, Any]]] = {
    Change.NONE: {READS_ONLY: True},
    Change.FLEETING: {SYNCHRONOUS: "NORMAL"},
    Change.LASTING: {SYNCHRONOUS: "FULL"},
}


class Database(ABC):
    """A database of jobs. One thread at a time uses it."""

    def __init__(
        self, engine: Engine, name: str, options: Mapping[Change, Mapping[str, Any]] = _NO_OPTIONS
    ) -> None:
        """`options` are those of connections for transactions that change so much."""
        self.engine = engine
        self.name = name
        """The name for messages, without a password."""
        self._engines = {
            change: engine.execution_options(**given) for change, given in options.items()
        }

    @contextmanager
    def transaction(self, change: Change) -> Generator[Connection]:
        """Begin a transaction whose operations change no more than that, and commit it unless something is raised."""
        with self._engines[change].begin() as connection:
            yield connection

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
                for table in METADATA.sorted_tables:
                    for index in table.indexes:  # those of a store that an older version has made
                        index.create(connection, checkfirst=True)
                number = connection.execute(select(func.max(FORMATS.c.number))).scalar()
                if number is None:
                    connection.execute(insert(FORMATS).values(number=FORMAT))
        except SQLAlchemyError as exc:
            raise ConfigError(f"cannot keep jobs in {self.name}: {reason_of(exc)}") from exc
        if number is not None and number > FORMAT:
            raise ConfigError(
                f"the jobs in {self.name} are of a newer version of capamesh than this: use that one"
            )

    @abstractmethod
    def _lock(self, connection: Connection) -> None:
        """Keep others from making the tables at the same time."""


class SqliteDatabase(Database):
    """A file of SQLite, in WAL and with what must last on the disk before it is told."""

    def __init__(self, path: Path, wall_s: Callable[[], float]) -> None:
        """Open the file, or make it for its owner alone; `wall_s` is this machine's clock.

        Raises:
            ConfigError: the file is on a network's file system, or cannot be used.
        """
        check_is_local(path)
        make_file(path, KEPT)
        engine = sqlite_engine(path, busy_s=BUSY_S, is_kept_open=True, pragmas=_PRAGMAS)
        super().__init__(engine, str(path), _SQLITE_OPTIONS)
        self._wall_s = wall_s

    @override
    def now_s(self, connection: Connection) -> float:
        return self._wall_s()

    @override
    def _lock(self, connection: Connection) -> None:
        """Do nothing: a transaction has the file to itself."""


class PostgresDatabase(Database):
    """PostgreSQL, shared by any number of routers of any number of machines."""

    def __init__(self, location: DatabaseLocation) -> None:
        """Take a place that is no file.

        Raises:
            ConfigError: its URL is none that libpq reads, or the library is missing.
        """
        limits = TimeLimits(CONNECT_S, STATEMENT_S, STATEMENT_S // 2, STATEMENT_S)
        engine = postgres_engine(location.url, KEPT, limits, is_kept_open=True)
        super().__init__(engine, str(location))

    @override
    def now_s(self, connection: Connection) -> float:
        return float(connection.execute(_DATABASE_NOW).scalar_one())

    @override
    def _lock(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(literal_column(str(_LOCK)))))


def open_database(where: str, wall_s: Callable[[], float]) -> Database:
    """Return the database at a path or a URL, with its tables; raises `ConfigError`."""
    location = DatabaseLocation.of(where, KEPT)
    database = (
        SqliteDatabase(location.file, wall_s)
        if location.file is not None
        else PostgresDatabase(location)
    )
    database.make()
    return database
