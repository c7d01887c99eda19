"""Many well-behaved clients as a process of their own, each on a connection that it keeps: how long their answers take. IO: HTTP.

`python crowd.py HOST PORT CA COUNT PAUSE_S`: each line on standard input begins a phase of that name; at its end the figures of all
phases are printed. CA is the authority's file, or `-` for plain HTTP.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from misbehaving_clients import REQUEST

ANSWER_S = 30.0
"""How long an answer may take before it counts as failed."""


class Phase:
    """What was seen in one phase."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.failures: Counter[str] = Counter()

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        took_s = sorted(self.took_s) or [0.0]
        return {
            "answered": len(self.took_s),
            "failures": dict(self.failures.most_common(20)),
            "p50_s": took_s[len(took_s) // 2],
            "p99_s": took_s[len(took_s) * 99 // 100],
            "slowest_s": took_s[-1],
        }


class Crowd:
    """The clients, and the phases that they have been through."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, pause_s: float) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._pause_s = pause_s
        self._rng = random.Random(1)  # noqa: S311 - it only spreads requests
        self.phases: dict[str, Phase] = {}
        self.phase = Phase()
        self.connected = 0

    async def client(self) -> None:
        """Ask again and again on one connection; take another where it ends."""
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=None if self._tls is None else "localhost",
                )
            except OSError as error:
                self.phase.failures[f"connecting: {error!r}"[:120]] += 1
                await asyncio.sleep(0.1)
                continue
            self.connected += 1
            try:
                while True:
                    await asyncio.sleep(self._pause_s * (0.5 + self._rng.random()))
                    await self._ask(reader, writer)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.phase.failures[repr(error)[:120]] += 1
            finally:
                writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        phase, began_s = self.phase, time.monotonic()
        writer.write(REQUEST)
        async with asyncio.timeout(ANSWER_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
        if head.startswith(b"HTTP/1.1 200 ") and b"label" in body:
            phase.took_s.append(time.monotonic() - began_s)
        else:
            phase.failures[f"{head[:40]!r} {body[:80]!r}"] += 1


async def main(host: str, port: int, ca: str, count: int, pause_s: float) -> None:
    """Connect all, say so, and go through the phases."""
    tls = None if ca == "-" else ssl.create_default_context(cafile=ca)
    crowd = Crowd(host, port, tls, pause_s)
    clients = []
    for at in range(count):
        clients.append(asyncio.create_task(crowd.client()))
        if at % 20 == 0:
            await asyncio.sleep(0.05)
    while crowd.connected < count:  # noqa: ASYNC110 - connections are counted, not told of
        await asyncio.sleep(0.05)
    print("asking", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        crowd.phase = crowd.phases[line] = Phase()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    seen = {name: phase.to_dict() for name, phase in crowd.phases.items()}
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    )
