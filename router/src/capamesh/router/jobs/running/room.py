"""Gives shards at work here their room: so many at a time and so many bytes, of one model and of all. Pure.

A shard that was taken over from a router that died has its lease at once, so that everybody knows that it goes on, and waits here for
its room: what is read and held has a bound, whatever dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capamesh.router.jobs.running.model_work import ModelWork
    from capamesh.router.jobs.running.shard_run import ShardRun

HELD_BYTES: Final = 256 * 2**20
"""The most bytes of shards at work, in and out as planned, from which on no other begins. A shard has 128 MiB at most, so a router
plans to hold less than 384 MiB; what Python needs beside that for a window of each is bounded by `MOST_SHARDS`."""
HELD_BYTES_EACH: Final = HELD_BYTES // 2
"""The same for one model: one that nodes have no room for leaves the rest to others."""
MOST_SHARDS: Final = 16
"""The most shards at work (guess: as many windows of some 32 MiB as values of Python's)."""


class Room:
    """The room of one router."""

    def __init__(self) -> None:
        self._runs: dict[ShardRun, None] = {}
        """The shards that have room or wait for it, in the order of their coming."""

    def enter(self, run: ShardRun) -> None:
        """Take in a shard; `may_begin` is set once it has room, which may be at once."""
        self._runs[run] = None
        self._give()

    def leave(self, run: ShardRun) -> None:
        """Take in that a shard has ended here; a second time does nothing."""
        if run in self._runs:
            del self._runs[run]
            self._give()

    def _give(self) -> None:
        shards = held_bytes = 0
        of_model: dict[ModelWork, int] = {}
        waiting: list[ShardRun] = []
        for run in self._runs:
            if run.may_begin.is_set():
                shards += 1
                held_bytes += run.planned_bytes
                of_model[run.work] = of_model.get(run.work, 0) + run.planned_bytes
            else:
                waiting.append(run)
        for run in waiting:
            if shards >= MOST_SHARDS or held_bytes >= HELD_BYTES:
                return
            if of_model.get(run.work, 0) >= HELD_BYTES_EACH:
                continue  # the rest is for other models
            run.may_begin.set()
            shards += 1
            held_bytes += run.planned_bytes
            of_model[run.work] = of_model.get(run.work, 0) + run.planned_bytes
