"""A store of jobs on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_desk import Clock, Desk

from capamesh.router.jobs.store.database import open_database


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    clock = Clock()
    database = open_database(str(tmp_path / "jobs.db"), clock)
    yield Desk(database, clock)
    database.engine.dispose()
