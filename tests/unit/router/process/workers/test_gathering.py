"""Questions to all workers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from capamesh.router.process.workers import gathering
from capamesh.router.process.workers.gathering import Gathering
from capamesh.router.process.workers.messages import Ask, Part


class Worker:
    """A worker that is asked."""

    def __init__(self, *, is_there: bool = True) -> None:
        self.is_there = is_there
        self.asked: list[Ask] = []

    def ask(self, message: Ask) -> bool:
        self.asked.append(message)
        return self.is_there


async def begun(round_of: Gathering, *workers: Worker) -> asyncio.Task[dict[Any, bytes]]:
    asked: Any = workers
    task = asyncio.create_task(round_of.ask(asked, lambda number: Ask(number, "nodes")))
    await asyncio.sleep(0)
    return task


async def test_worker_that_is_gone_or_cannot_be_asked_is_not_waited_for() -> None:
    found, one, gone, never = Gathering(), Worker(), Worker(), Worker(is_there=False)
    task = await begun(found, one, gone, never)
    sources: list[Any] = [one, gone]
    found.lost(sources[1])
    found.answered(sources[0], Part(one.asked[0].number, b"x"))
    for _ in range(5):  # turns of the loop, far less than the deadline
        await asyncio.sleep(0)
    assert task.done()
    assert task.result() == {one: b"x"}
    assert await (await begun(found, never)) == {}


async def test_deadline_ends_the_wait_and_late_answers_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "DEADLINE_S", 0.0)
    found, one = Gathering(), Worker()
    task = await begun(found, one)
    assert await task == {}
    source: Any = one
    found.answered(source, Part(one.asked[0].number, b"late"))
    monkeypatch.setattr(gathering, "DEADLINE_S", 60.0)
    task = await begun(found, one)
    found.answered(source, Part(one.asked[0].number, b"old"))
    assert not task.done()
    found.answered(source, Part(one.asked[1].number, b"new"))
    assert await task == {one: b"new"}
