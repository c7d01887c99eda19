"""A disk without room: no part of a job is written, and no change of its store. IO: the settings of the store's connections."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from capamesh.router.jobs.outputs.sink import LocalSink


@contextmanager
def full_disk(routers: Iterable[Any]) -> Generator[None]:
    """Let the disk be full of the jobs' results, and refuse changes of the job store as these routers have it open."""
    steps: Any = LocalSink
    usual = steps._write_all, steps._reserve  # noqa: SLF001
    stores = [router._jobs._store._store for router in routers]  # noqa: SLF001
    engines = [store._thread._database.engine for store in stores if store]  # noqa: SLF001
    steps._write_all = steps._reserve = _no_room  # noqa: SLF001
    _refuse_changes(engines, is_refused=True)
    try:
        yield
    finally:
        steps._write_all, steps._reserve = usual  # noqa: SLF001
        _refuse_changes(engines, is_refused=False)


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refuse_changes(engines: Iterable[Any], *, is_refused: bool) -> None:
    for engine in engines:
        connection = engine.raw_connection()
        connection.driver_connection.execute(f"PRAGMA query_only = {is_refused:d}")
        connection.close()
