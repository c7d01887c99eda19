"""A well-behaved client as a process of its own: asks `digits` until its standard input ends, then prints what it saw. IO: HTTP.

It runs beside an attack and must not share the attack's event loop: `python honest_client.py URL CONNECTIONS IS_NEW PAUSE_S`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import aiohttp

PATIENCE_S = 60.0
"""How long an answer may take before it counts as failed; far over the router's own limit of 30 s."""
BODY = json.dumps(
    {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
).encode()


class Seen:
    """What all connections of the client saw."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.longest_gap_s = 0.0
        self._answered_s = time.monotonic()

    def answer(self, took_s: float) -> None:
        """Count an answer that took so long."""
        now_s = time.monotonic()
        self.answered += 1
        self.slowest_s = max(self.slowest_s, took_s)
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._answered_s)
        self._answered_s = now_s

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "answered": self.answered,
            "failures": dict(self.failures.most_common(20)),
            "slowest_s": self.slowest_s,
            "longest_gap_s": max(self.longest_gap_s, time.monotonic() - self._answered_s),
        }


async def ask(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    """Send one request and count what came of it; nothing is tried twice."""
    began_s = time.monotonic()
    try:
        async with session.post(url, data=BODY) as reply:
            body = await reply.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.failures[f"{type(error).__name__}: {error}"[:200]] += 1
        return
    if reply.status == 200 and b"label" in body:
        seen.answer(time.monotonic() - began_s)
    else:
        seen.failures[f"{reply.status}: {body[:160].decode(errors='replace')}"] += 1


async def caller(
    url: str, seen: Seen, stop: asyncio.Event, *, is_new: bool, pause_s: float
) -> None:
    """Ask again and again on one connection, or on a new one each time, and once more after it is told to stop.

    So it sees what is so at the end, also if this process stood still until then.
    """
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(
        timeout=timeout,
        connector=aiohttp.TCPConnector(force_close=is_new),
        # aiohttp repeats a request on a connection that turned out to be closed; a POST it does not
        headers={"Content-Type": "application/json"},
    ) as session:
        while True:
            is_last = stop.is_set()
            await ask(session, url, seen)
            if is_last:
                return
            await asyncio.sleep(pause_s)


async def main(url: str, connections: int, pause_s: float, *, is_new: bool) -> None:
    """Ask until standard input ends; print a line once the first answer is there, and the figures at the end."""
    seen, stop = Seen(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: stop.set() if not sys.stdin.read(1) else None)
    callers = [
        asyncio.create_task(caller(url, seen, stop, is_new=is_new, pause_s=pause_s))
        for _ in range(connections)
    ]
    while not seen.answered and not seen.failures:
        await asyncio.sleep(0.01)
    print("asking", flush=True)  # noqa: T201 - its owner waits for the line
    await asyncio.gather(*callers)
    loop.remove_reader(sys.stdin.fileno())
    print(json.dumps(seen.to_dict()), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[4]), is_new=sys.argv[3] == "new")
    )
