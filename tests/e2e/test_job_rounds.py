"""Jobs of 10,000 rows while routers and nodes are killed and frozen: a few of the rounds of `benchmarks/jobs_chaos.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from job_rounds import run_rounds

ROUNDS = 5
SEED = 7


@pytest.fixture
def database() -> Iterator[str]:
    """Return the URL of an empty database."""
    with postgres.served() as server:
        yield server.new_database()


@pytest.mark.slow
async def test_every_row_is_answered_once_on_sqlite_whatever_dies(tmp_path: Path) -> None:
    seen = await run_rounds(tmp_path, "SQLite", "", rounds=ROUNDS, at_once=ROUNDS, seed=SEED)
    assert seen.failures == []


@pytest.mark.slow
async def test_every_row_is_answered_once_on_postgresql_whatever_dies(
    tmp_path: Path, database: str
) -> None:
    seen = await run_rounds(
        tmp_path, "PostgreSQL", database, rounds=ROUNDS, at_once=ROUNDS, seed=SEED
    )
    assert seen.failures == []
