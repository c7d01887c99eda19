"""A disk without room: no part of a job is written, and no change of its store. IO: none, which is the point."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from capamesh.router.access.engines.sqlite import READS_ONLY
from capamesh.router.jobs.outputs.sink import LocalSink


@contextmanager
def full_disk(routers: Iterable[Any]) -> Iterator[None]:
    """Let the disk be full of the jobs' results, and of the job store as these routers have it open."""
    steps: Any = LocalSink
    usual = steps._write_all, steps._reserve  # noqa: SLF001
    stores = [router._jobs._store._store for router in routers]  # noqa: SLF001
    engines = [store._thread._database.engine for store in stores if store]  # noqa: SLF001
    steps._write_all = steps._reserve = _no_room  # noqa: SLF001
    for engine in engines:
        event.listen(engine, "commit", _not_committed)
    try:
        yield
    finally:
        steps._write_all, steps._reserve = usual  # noqa: SLF001
        for engine in engines:
            event.remove(engine, "commit", _not_committed)


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _not_committed(connection: Connection) -> None:
    if not connection.get_execution_options().get(READS_ONLY, False):
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))
