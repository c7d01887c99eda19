"""Files of SQLite: how they are made and opened, and how a transaction begins. IO: the file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import make_folder

READS_ONLY: Final = "capamesh_reads_only"
"""The execution option of a connection whose transactions only read: they keep nobody from writing."""
SYNCHRONOUS: Final = "capamesh_synchronous"
"""The execution option with SQLite's word for how a connection's transactions wait for the disk; without it, as its pragmas say."""

_TRY_EVERY_S: Final = 0.005
"""Seconds between two tries to change the journal of a file that another process has (guess: it makes the tables, in milliseconds)."""


def make_file(path: Path, kept: str) -> None:
    """Make the file of what is `kept`, for its owner alone, and its folder, unless it is there; raises `ConfigError`."""
    make_folder(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise ConfigError(f"cannot make the file of {kept} {path}: {exc.strerror}") from exc


def sqlite_engine(
    path: Path, *, busy_s: float, is_kept_open: bool, pragmas: Sequence[str] = ()
) -> Engine:
    """Return an engine for a file, which must be there each time that it is opened.

    A transaction takes the lock of those who write at once, unless its connection has the option `READS_ONLY`: two that
    began by reading could not both go on to write. `busy_s` is for how long the lock is waited for. One connection is
    kept if `is_kept_open`; else each opens the file anew: it may have been put back, or be another one. `pragmas`, such
    as "journal_mode = WAL", are set on each connection. One thread at a time may use the engine, not always the same.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in pragmas:
                _set_pragma(connection, pragma, busy_s)
        except BaseException:
            connection.close()
            raise
        return connection

    pool: dict[str, Any] = {"poolclass": NullPool}
    if is_kept_open:
        pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
    engine = create_engine("sqlite://", creator=connect, hide_parameters=True, **pool)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragma(connection: sqlite3.Connection, pragma: str, busy_s: float) -> None:
    """Set a pragma, and wait for whoever has the file meanwhile: SQLite does not, where two change its journal at once."""
    until_s = time.monotonic() + busy_s
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until_s:
                raise
            time.sleep(_TRY_EVERY_S)
        else:
            return


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    word = options.get(SYNCHRONOUS)
    if word is not None and connection.info.get(SYNCHRONOUS) != word:
        # it may not be changed within a transaction; by SQLAlchemy, which is passed by here, it would take ten times as long
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA synchronous = {word}")
        connection.info[SYNCHRONOUS] = word
    is_reading = options.get(READS_ONLY, False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
