from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from capamesh.protocol.loop_watch import BEAT_S, TELL_S, LoopWatch


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})


class Watched:
    """This loop under watch: the beats and the lines that the watch told."""

    def __init__(self) -> None:
        self.log = Log()
        self.beats: list[tuple[float, float]] = []
        """Of each, how late it was and the CPU time since the one before."""
        self._news = asyncio.Event()
        self.watch = LoopWatch(self.log, self._take, lambda: "model m")  # type: ignore[arg-type]

    def _take(self, late_s: float, busy_s: float) -> None:
        self.beats.append((late_s, busy_s))
        self._news.set()

    async def next_beat(self) -> tuple[float, float]:
        """Return the first beat from now on."""
        self._news.clear()
        await self._news.wait()
        return self.beats[-1]


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    seen = Watched()
    seen.watch.start()
    try:
        await seen.next_beat()
        yield seen
    finally:
        seen.watch.stop()


def keeps_the_loop(until: Callable[[], bool]) -> None:
    while not until():
        json.loads("[1]")


async def test_loop_that_was_kept_is_reported_with_what_kept_it() -> None:
    async with watched() as seen:
        end_s = time.monotonic() + BEAT_S + TELL_S

        def is_seen() -> bool:
            """Return whether it was late and looked at, however long that takes, and have no look come after it."""
            if time.monotonic() <= end_s or "keeps_the_loop" not in seen.watch._seen:
                return False
            seen.watch._ended.set()
            for each in threading.enumerate():
                if each.name == "loop-watch":
                    each.join(120)
            return True

        keeps_the_loop(is_seen)
        late_s, _ = await seen.next_beat()
    line = seen.log.lines[-1]
    assert (line["event"], line["doing"]) == ("loop_late", "model m")
    assert "keeps_the_loop" in line["ran"]
    assert line["late_s"] == round(late_s, 3) >= TELL_S


async def test_cpu_time_counts_for_the_beat_that_comes_after_the_callback() -> None:
    async with watched() as seen:
        end_s = time.thread_time() + 2 * BEAT_S
        keeps_the_loop(lambda: time.thread_time() >= end_s)
        late_s, busy_s = await seen.next_beat()
        assert busy_s >= 2 * BEAT_S  # all of it, though the beat was late for a part of it only
        assert late_s > 0


async def test_thread_that_does_not_run_is_late_and_not_busy() -> None:
    """As one that its machine does not schedule, and as one that waits for a disk."""
    async with watched() as seen:
        time.sleep(BEAT_S + TELL_S)  # noqa: ASYNC251 - it keeps the loop
        late_s, busy_s = await seen.next_beat()
    assert late_s >= TELL_S
    assert busy_s < TELL_S / 2
    assert seen.log.lines[-1]["busy_s"] == round(busy_s, 3)


async def test_stopped_watch_measures_nothing_more() -> None:
    seen = Watched()
    seen.watch.start()
    seen.watch.stop()
    await asyncio.sleep(3 * BEAT_S)
    assert seen.beats == []
