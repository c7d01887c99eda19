"""Rows have one result each, whatever happens to two routers, on both stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_routers import STEP, walk
from postgres import served

STEPS = st.lists(STEP, min_size=30, max_size=60)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@given(STEPS)
@MANY
def test_rows_have_one_result_each_on_sqlite(steps: list[tuple[str, int, int, int]]) -> None:
    walk("", steps)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with served() as server:
        yield server.new_database()


@given(STEPS)
@settings(MANY, max_examples=10)
def test_rows_have_one_result_each_on_postgres(
    database: str, steps: list[tuple[str, int, int, int]]
) -> None:
    walk(database, steps)


def test_frozen_router_commits_nothing_when_it_wakes() -> None:
    steps = [
        ("claim", 0, 3, 1),
        *(("make", 0, at, 0) for at in range(4)),
        ("freeze or wake", 0, 0, 0),
        ("wait", 0, 0, 3),
        ("claim", 1, 3, 1),
        *(("make", 1, at, 0) for at in range(4)),
        ("freeze or wake", 0, 0, 0),
        *(("commit", 0, 0, 1) for _ in range(4)),
        *(("commit", 1, 0, 1) for _ in range(4)),
    ]
    routers = walk("", steps)
    assert all(line.part is not None for line in routers.done.values())
    assert {routers.done[seq].part.name for seq in range(4)} == {  # type: ignore[union-attr]
        f"part-{seq:06d}-2.jsonl" for seq in range(4)
    }
