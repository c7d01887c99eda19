"""The databases that keys are kept in, and what each does in its own way: SQLite and PostgreSQL. IO: a file, a connection.

SQLAlchemy is read in by this, for routers that ask for keys and for commands on keys.
"""

from __future__ import annotations

import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, MetaData, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines.file_systems import check_is_local
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.engines.postgres import TimeLimits, postgres_engine
from capamesh.router.access.engines.reasons import reason_of
from capamesh.router.access.engines.sqlite import READS_ONLY, make_file, sqlite_engine

if TYPE_CHECKING:
    import psycopg

BUSY_S: Final = 2
"""Seconds for which another process's change is waited for (guess: one takes milliseconds)."""
CONNECT_S: Final = 3
"""Seconds that connecting to a server may take, to each of its addresses (guess; libpq takes no less than 2)."""
STATEMENT_S: Final = 3
"""Seconds after which a server ends a statement (guess: one takes milliseconds)."""
IDLE_S: Final = 10
"""Seconds after which a server ends a change that its router has not gone on with, being frozen: others wait for it."""
KEPT: Final = "keys"
FORMAT: Final = 1
"""The newest format that is understood."""
_MARK: Final = "capamesh keys, format "
"""Stands before the format in the comment on the first table of PostgreSQL."""

AnyInsert = sqlite.Insert | postgresql.Insert


class Database(ABC):
    """One database. Its methods raise `ConfigError` when it cannot be used; they block, and one thread at a time calls them."""

    def __init__(self, engine: Engine, place: str) -> None:
        """`place` is what texts call it."""
        self.place = place
        self._engine = engine

    @contextlib.contextmanager
    def opened(self, *, is_written: bool = False) -> Generator[Connection]:
        """Begin a transaction, and end it well unless something is raised; `is_written` has others that change it wait."""
        try:
            options = {READS_ONLY: not is_written}
            with (
                self._engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                if self.format(connection) > FORMAT:
                    raise ConfigError(
                        f"{self.place} is of a newer version of capamesh than this: use that one"
                    )
                yield connection
        except SQLAlchemyError as exc:
            raise ConfigError(f"cannot use the keys in {self.place}: {reason_of(exc)}") from exc

    def add_tables(self, tables: MetaData) -> None:
        """Make those tables that are not there."""
        with self.opened(is_written=True) as connection:
            self._let_nobody_else_make(connection)
            is_new = self.format(connection) == 0
            tables.create_all(connection)
            if is_new:
                self._set_format(connection)

    @abstractmethod
    def make(self) -> None:
        """Make what has the tables, where it can be made from here."""

    def close(self) -> None:
        """Let go of what is held."""
        self._engine.dispose()

    @abstractmethod
    def cut(self) -> None:
        """Have whatever waits for a server end with an error; any thread may call it."""

    @abstractmethod
    def is_there(self) -> bool:
        """Return whether there is something to open, as far as that can be told without opening it."""

    @abstractmethod
    def format(self, connection: Connection) -> int:
        """Return the format of the tables; 0: there are none."""

    @abstractmethod
    def now_s(self) -> float:
        """Return the time by the clock that all who use the database go by, in seconds since 1970."""

    @abstractmethod
    def insert(self, table: Table) -> AnyInsert:
        """Return an insertion that may say what to do about rows that are there."""

    @abstractmethod
    def _let_nobody_else_make(self, connection: Connection) -> None:
        """Have others that make tables wait until the transaction, which is one that writes, has ended."""

    @abstractmethod
    def _set_format(self, connection: Connection) -> None:
        """Write down the format of the tables."""


class SqliteDatabase(Database):
    """A file of SQLite, which is opened anew each time: it may have been put back, or be another one."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """`clock` is that of this machine, in seconds since 1970."""
        self._path = path
        self._clock = clock
        super().__init__(sqlite_engine(path, busy_s=BUSY_S, is_kept_open=False), str(path))

    @override
    def is_there(self) -> bool:
        try:
            return self._path.exists()
        except OSError as exc:
            raise ConfigError(f"cannot look for {self._path}: {exc.strerror}") from exc

    @override
    def make(self) -> None:
        """Make the file, for its owner alone, unless it is there. A new one is not made where a network leads to it."""
        if not self.is_there():
            check_is_local(self._path)
        make_file(self._path, KEPT)

    @override
    def cut(self) -> None:
        """Do nothing: no server is waited for."""

    @override
    def format(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    @override
    def now_s(self) -> float:
        return self._clock()

    @override
    def insert(self, table: Table) -> AnyInsert:
        return sqlite.insert(table)

    @override
    def _let_nobody_else_make(self, connection: Connection) -> None:
        """Do nothing: whoever writes has the file alone."""

    @override
    def _set_format(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")


class PostgresDatabase(Database):
    """A database of PostgreSQL, to which one connection is kept, or none."""

    def __init__(self, location: DatabaseLocation, *, is_kept_open: bool) -> None:
        """Raises `ConfigError`: the URL is none that libpq reads, or the driver is missing."""
        limits = TimeLimits(CONNECT_S, STATEMENT_S, BUSY_S, IDLE_S)
        engine = postgres_engine(location.url, KEPT, limits, is_kept_open=is_kept_open)
        self._cutter: socket.socket | None = None
        """A second handle of the connection's socket."""
        if is_kept_open:
            event.listen(engine, "connect", self._connected)
        super().__init__(engine, str(location))

    @override
    def is_there(self) -> bool:
        return True

    @override
    def make(self) -> None:
        """Do nothing: an operator makes databases."""

    @override
    def format(self, connection: Connection) -> int:
        found = connection.exec_driver_sql(
            "SELECT to_regclass('changes') IS NOT NULL, obj_description(to_regclass('changes'), 'pg_class')"
        ).one()
        is_there, comment = bool(found[0]), str(found[1] or "")
        if not is_there:
            return 0
        number = comment.removeprefix(_MARK)
        if number == comment or not number.isdecimal():
            raise ConfigError(
                f"{self.place} has a table 'changes' that is not capamesh's: give keys a database of their own"
            )
        return int(number)

    @override
    def now_s(self) -> float:
        with self.opened() as connection:
            asked = "SELECT extract(epoch FROM clock_timestamp())::double precision"
            return float(connection.exec_driver_sql(asked).scalar_one())

    @override
    def insert(self, table: Table) -> AnyInsert:
        return postgresql.insert(table)

    @override
    def close(self) -> None:
        super().close()
        self._hold(None)

    @override
    def cut(self) -> None:
        cutter = self._cutter
        if cutter is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                cutter.shutdown(socket.SHUT_RDWR)

    @override
    def _let_nobody_else_make(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('capamesh keys'))")

    @override
    def _set_format(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"COMMENT ON TABLE changes IS '{_MARK}{FORMAT}'")

    def _connected(self, connection: psycopg.Connection, _record: object) -> None:
        self._hold(socket.socket(fileno=os.dup(connection.fileno())))

    def _hold(self, cutter: socket.socket | None) -> None:
        before, self._cutter = self._cutter, cutter
        if before is not None:
            before.close()


def database_at(
    location: DatabaseLocation, *, clock: Callable[[], float], is_kept_open: bool
) -> Database:
    """Return the database of a place; `clock` is that of this machine, in seconds since 1970. Raises `ConfigError`."""
    if location.file is not None:
        return SqliteDatabase(location.file, clock)
    return PostgresDatabase(location, is_kept_open=is_kept_open)
