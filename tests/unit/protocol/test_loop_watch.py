from __future__ import annotations

import asyncio
import threading
from typing import Any

from fleet_fakes import in_virtual_time

from capamesh.protocol.loop_watch import BEAT_S, TELL_S, LoopWatch


class Watched:
    """This loop under watch, on clocks of its own: its beats, and what the watch logged."""

    def __init__(self, look_every_s: float = 3600.0) -> None:
        self.kept_s = 0.0
        self.used_s = 0.0
        self.lines: list[dict[str, Any]] = []
        self.beats: list[tuple[float, float]] = []
        """Of each, how late it was and the CPU time since the one before."""
        loop = asyncio.get_running_loop()
        self.watch = LoopWatch(
            self,  # type: ignore[arg-type]  # the one method of a log that it calls
            lambda late_s, busy_s: self.beats.append((round(late_s, 6), round(busy_s, 6))),
            lambda: "model m",
            steady_s=lambda: loop.time() + self.kept_s,
            used_s=lambda: self.used_s,
            look_every_s=look_every_s,
        )

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})

    def keeps_the_loop(self, kept_s: float, used_s: float) -> None:
        self.kept_s += kept_s
        self.used_s += used_s
        self.watch.look()


@in_virtual_time
async def test_loop_that_was_kept_is_reported_with_what_kept_it() -> None:
    seen = Watched()
    seen.watch.start()
    await asyncio.sleep(2.5 * BEAT_S)
    seen.keeps_the_loop(TELL_S, 0.01)  # as one that waits for a disk, or is not scheduled
    await asyncio.sleep(BEAT_S)
    seen.keeps_the_loop(TELL_S / 4, 0.06)  # all of which counts, though it is hardly late
    await asyncio.sleep(BEAT_S)
    seen.watch.stop()
    await asyncio.sleep(10 * BEAT_S)
    assert seen.beats == [(0.0, 0.0), (0.0, 0.0), (TELL_S, 0.01), (TELL_S / 4, 0.06)]
    (line,) = seen.lines
    assert "keeps_the_loop" in line.pop("ran")
    assert line == {"event": "loop_late", "late_s": TELL_S, "busy_s": 0.01, "doing": "model m"}


@in_virtual_time
async def test_thread_looks_until_the_watch_stops() -> None:
    watch, looked = Watched(look_every_s=0.001).watch, threading.Event()
    watch.look = looked.set  # type: ignore[method-assign]
    watch.start()
    (thread,) = (each for each in threading.enumerate() if each.name == "loop-watch")
    assert looked.wait()
    watch.stop()
    thread.join()
