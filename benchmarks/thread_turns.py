"""Tells how late an event loop wakes while a thread writes JSON, with Python's own turns of threads and with a router's. Starts no processes.

python benchmarks/thread_turns.py [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time

from capamesh.protocol.thread_turns import SWITCH_S

STEP_S = 0.002
ROWS = 200


async def turn(switch_s: float, seconds: float) -> str:
    """Return how late the loop was, and what the thread wrote meanwhile."""
    sys.setswitchinterval(switch_s)
    ends, written = threading.Event(), 0
    rows = [[at * 0.1 + each for each in range(10)] for at in range(ROWS)]

    def write() -> None:
        nonlocal written
        while not ends.is_set():
            for row in rows:
                json.dumps({"row": 1, "outputs": {"y": row}})
            written += ROWS

    thread = threading.Thread(target=write)
    thread.start()
    late_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while (now_s := time.perf_counter()) < until_s:
        await asyncio.sleep(STEP_S)
        late_s.append(time.perf_counter() - now_s - STEP_S)
    ends.set()
    thread.join()
    late_s.sort()
    p50_s, p99_s = late_s[len(late_s) // 2], late_s[int(0.99 * len(late_s))]
    return f"{switch_s * 1e3:4.1f} ms   p50 {p50_s * 1e3:6.2f} ms   p99 {p99_s * 1e3:6.2f} ms   {written / seconds:,.0f} rows/s"


def main() -> None:
    """Print a line for each turn, two of each kind that take turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    for switch_s in (0.005, SWITCH_S) * 2:
        print(asyncio.run(turn(switch_s, seconds)))


if __name__ == "__main__":
    main()
