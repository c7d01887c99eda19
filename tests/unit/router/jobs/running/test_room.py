"""What is at work at once has a bound in shards and bytes, and what is beyond it waits for its turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from capamesh.router.jobs.running import room
from capamesh.router.jobs.running.room import HELD_BYTES, HELD_BYTES_EACH, Room
from capamesh.router.jobs.running.shard_run import ShardRun


@dataclass(eq=False)
class Run:
    """A shard, as far as its room is concerned."""

    planned_bytes: int = 0
    work: str = "digits"
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)


class Rig:
    def __init__(self) -> None:
        self.room = Room()

    def enter(self, planned_bytes: int = 0, work: str = "digits") -> Run:
        run = Run(planned_bytes, work)
        self.room.enter(cast("ShardRun", run))
        return run

    def leave(self, run: Run) -> None:
        self.room.leave(cast("ShardRun", run))


def began(*runs: Run) -> list[bool]:
    return [run.may_begin.is_set() for run in runs]


def test_bytes_of_one_model_leave_room_for_others() -> None:
    rig = Rig()
    first, second = rig.enter(HELD_BYTES_EACH), rig.enter(1)
    other = rig.enter(HELD_BYTES - HELD_BYTES_EACH, "text")
    third = rig.enter(1, "sound")
    assert began(first, second, other, third) == [True, False, True, False]
    rig.leave(first)
    assert began(second, third) == [True, True]


def test_shard_that_waits_and_leaves_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SHARDS", 1)
    rig = Rig()
    first, second, third = rig.enter(), rig.enter(), rig.enter()
    rig.leave(second)
    rig.leave(first)
    assert began(second, third) == [False, True]
