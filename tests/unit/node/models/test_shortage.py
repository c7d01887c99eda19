"""A worker without memory for a moment."""

from __future__ import annotations

import pytest
from fleet_fakes import NullLog

from capamesh.node.models import shortage
from capamesh.node.models.shortage import Reserve


@pytest.fixture
def reserve(monkeypatch: pytest.MonkeyPatch) -> Reserve:
    monkeypatch.setattr(shortage, "PAUSE_S", 0.0)
    monkeypatch.setattr(shortage, "AGAIN_S", 3600.0)  # it is not taken again while a test looks
    return Reserve(NullLog())  # type: ignore[arg-type]


async def test_run_that_finds_no_memory_is_repeated_with_the_reserve_let_go(
    reserve: Reserve,
) -> None:
    reserve.take()
    held: list[bool] = []

    async def run() -> None:
        held.append(reserve.is_held)
        if len(held) < 3:
            raise MemoryError("unable to allocate")

    await reserve.lasting(run)
    assert held == [True, False, False]


async def test_task_group_that_finds_no_memory_is_run_again_too(reserve: Reserve) -> None:
    count = 0

    async def run() -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise ExceptionGroup("tasks", [MemoryError()])

    await reserve.lasting(run)
    assert count == 2
