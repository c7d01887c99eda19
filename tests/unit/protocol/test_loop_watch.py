from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from capamesh.protocol.loop_watch import TELL_S, LoopWatch


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})


def keeps_the_loop(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        json.loads("[1]")


async def test_a_loop_that_was_kept_is_told_with_what_kept_it() -> None:
    log, delays = Log(), list[float]()
    watch = LoopWatch(log, delays.append, lambda: "model m")  # type: ignore[arg-type]
    watch.start()
    try:
        while len(delays) < 2:
            await asyncio.sleep(0.01)
        keeps_the_loop(3 * TELL_S)
        count = len(delays)
        while len(delays) == count:
            await asyncio.sleep(0.01)
    finally:
        watch.stop()
    late = [line for line in log.lines if "keeps_the_loop" in line["ran"]]
    assert len(late) == 1
    assert (late[0]["event"], late[0]["doing"]) == ("loop_late", "model m")
    assert late[0]["late_s"] >= 2 * TELL_S
    assert max(delays) >= 2 * TELL_S


async def test_a_stopped_watch_measures_nothing_more() -> None:
    delays = list[float]()
    watch = LoopWatch(Log(), delays.append)  # type: ignore[arg-type]
    watch.start()
    watch.stop()
    await asyncio.sleep(0.15)
    assert delays == []
