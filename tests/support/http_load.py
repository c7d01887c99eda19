"""Requests over raw HTTP, at a fixed rate or so many at once, and figures of them; as a program: well-behaved clients. IO: sockets.

A latency counts from when the request was due, so that a stalled generator shows and is not left out.

`python http_load.py URL CONNECTIONS new|kept PAUSE_S` asks `digits` until its standard input ends, and prints what it saw. Beside
an attack it must not share the attack's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

READY_EVERY_S = 0.1
"""How often a router that took no connection is asked whether it is ready again (guess)."""
PATIENCE_S = 60.0
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Request = tuple[bytes, bytes]
"""A body, and what its answer must hold."""


def digits_body(timeout_s: float = 0.0) -> bytes:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    parameters = {"parameters": {"timeout": round(timeout_s * 1e6)}} if timeout_s else {}
    return json.dumps({**parameters, "inputs": [tensor]}).encode()


DIGITS: Request = digits_body(), b'"label"'


@dataclass(slots=True)
class Shot:
    """One request and what became of it. Times are seconds of the monotonic clock."""

    number: int
    due_s: float
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    """0: no answer came."""
    error: str = ""
    node: str = ""
    asked: tuple[str, ...] = ()
    """The nodes that were asked, in that order."""
    is_right: bool = True
    body: bytes = field(default=b"", repr=False)
    expected: bytes = field(default=b"", repr=False)
    tries: int = 0

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s

    @property
    def is_answered(self) -> bool:
        return self.status == 200


class Load:
    """A stream of requests for one model at one router, or at several that stand in for each other."""

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str = "digits",
        *,
        is_explained: bool = True,
        is_new: bool = False,
        **headers: str,
    ) -> None:
        """Explained requests tell whom the router asked, in `Shot.asked`, at some cost to it.

        `is_new`: each request is on a connection of its own.
        """
        addresses = [urls] if isinstance(urls, str) else list(urls)
        self._targets = [url.removeprefix("http://").rsplit(":", 1) for url in addresses]
        more = {**headers, **({"X_Capamesh_Explain": "1"} if is_explained else {})}
        wishes = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
        self._heads = [
            (
                f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"Content-Type: application/json\r\n{wishes}Content-Length: %d\r\n\r\n"
            ).encode()
            for host, port in self._targets
        ]
        self._is_new = is_new
        self._idle: list[list[Wire]] = [[] for _ in self._targets]
        self._writers: set[asyncio.StreamWriter] = set()
        self._down: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self.shots: list[Shot] = []
        """Those of the run under way, or of the last."""

    async def run(
        self,
        requests: Iterable[Request],
        *,
        rate: float = math.inf,
        concurrency: int = 0,
        pause_s: float = 0.0,
        seed: int = 1,
        at: Mapping[int, Callable[[], Coroutine[Any, Any, None]]] | None = None,
    ) -> list[Shot]:
        """Send `requests`, `rate` a second by a seeded Poisson process, or always `concurrency`, each `pause_s` after an answer.

        `at[n]` is begun when the n-th is due; all are waited for, and their errors raised, before this returns.
        """
        rng, loop = random.Random(seed), asyncio.get_running_loop()
        places = asyncio.Semaphore(concurrency)
        shots = self.shots = []
        asks: list[asyncio.Task[None]] = []
        due_s = time.monotonic() + 0.01
        try:
            async with asyncio.TaskGroup() as events:
                for number, (body, expected) in enumerate(requests):
                    if concurrency:
                        await places.acquire()
                        due_s = time.monotonic()
                    else:
                        due_s += rng.expovariate(rate)
                    wait_s = due_s - time.monotonic()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                    elif number % 20 == 0:
                        await asyncio.sleep(0)
                    if at and number in at:
                        events.create_task(at[number]())
                    shot = Shot(number, due_s, body=body, expected=expected)
                    shots.append(shot)
                    asks.append(self._begin(self._ask(shot)))
                    if concurrency:
                        asks[-1].add_done_callback(
                            lambda _: loop.call_later(pause_s, places.release)
                        )
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*asks)
        except TimeoutError:
            for shot in shots:
                if not shot.ended_s:
                    shot.ended_s, shot.error = time.monotonic(), "no answer for a minute"
        finally:
            await self._hang_up()
        return shots

    async def closed_rate(self, request: Request, *, concurrency: int, seconds: float) -> float:
        """Return how many requests a second are answered when `concurrency` are always under way."""
        ends_s = time.monotonic() + seconds
        asked = itertools.takewhile(lambda _: time.monotonic() < ends_s, itertools.repeat(request))
        shots = await self.run(asked, concurrency=concurrency)
        answered = sum(shot.is_answered and shot.ended_s <= ends_s for shot in shots)
        if not answered:
            raise AssertionError(f"nothing was answered: {failures(shots)[:3]}")
        return answered / seconds

    async def connect(self, count: int) -> None:
        """Open so many connections to the first router, for the next run."""
        for _ in range(count):
            self._idle[0].append(await self._connected(0))

    def _begin(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _ask(self, shot: Shot) -> None:
        """Send a request; where there are several routers, elsewhere when one does not answer, twice to each at most."""
        count = len(self._targets)
        for _ in range(2 * count if count > 1 else 1):
            shot.tries += 1
            target = self._target()
            try:
                wire = self._unused(target) or await self._connected(target)
            except OSError as error:
                shot.error = repr(error)
                if count > 1 and target not in self._down:
                    self._begin(self._until_ready(target))
                self._down.add(target)
                continue
            try:
                await self._exchange(wire, target, shot)
            except (OSError, asyncio.IncompleteReadError) as error:
                shot.error = f"the connection ended: {error!r}"
                self._close(wire)
            else:
                return
        shot.ended_s = time.monotonic()

    def _target(self) -> int:
        for _ in self._targets:
            self._next = (self._next + 1) % len(self._targets)
            if self._next not in self._down:
                break
        return self._next

    def _unused(self, target: int) -> Wire | None:
        while self._idle[target]:
            wire = self._idle[target].pop()
            if not wire[0].at_eof():
                return wire
            self._close(wire)
        return None

    async def _connected(self, target: int) -> Wire:
        reader, writer = await asyncio.open_connection(*self._targets[target])
        self._writers.add(writer)
        return reader, writer

    def _close(self, wire: Wire) -> None:
        self._writers.discard(wire[1])
        wire[1].close()

    async def _exchange(self, wire: Wire, target: int, shot: Shot) -> None:
        reader, writer = wire
        shot.sent_s = time.monotonic()
        writer.write(self._heads[target] % len(shot.body) + shot.body)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(_header(head, b"content-length") or 0))
        shot.ended_s = time.monotonic()
        shot.status = int(head[9:12])
        shot.node = _header(head, b"x-capamesh-node").decode()
        shot.asked = _asked(head)
        if shot.status == 200:
            shot.is_right = shot.expected in body
        else:
            shot.error = body[:300].decode(errors="replace")
        if self._is_new or _header(head, b"connection").lower() == b"close":
            self._close(wire)
        else:
            self._idle[target].append(wire)

    async def _until_ready(self, target: int) -> None:
        """Wait for a router as what stands before several does: it has requests again when it says so."""
        line = b""
        while b" 200 " not in line:
            await asyncio.sleep(READY_EVERY_S)
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(*self._targets[target])
                writer.write(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
                try:
                    line = await reader.readline()
                finally:
                    writer.close()
        self._down.discard(target)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _asked(head: bytes) -> tuple[str, ...]:
    start = head.find(b'"chosen":[')
    if start < 0:
        return ()
    inside = head[start + 10 : head.find(b"]", start)]
    return tuple(part.strip(b'"').decode() for part in inside.split(b",") if part)


def failures(shots: Iterable[Shot]) -> list[str]:
    """Return what went wrong, each kind once with its count; empty when all were answered, and rightly."""
    kinds = Counter(
        "a wrong answer" if shot.is_answered else f"{shot.status}: {shot.error[:200]}"
        for shot in shots
        if not (shot.is_answered and shot.is_right)
    )
    return [f"{count} x {kind}" for kind, count in kinds.most_common()]


def between(shots: Iterable[Shot], from_s: float, to_s: float = math.inf) -> list[Shot]:
    """Return those that were due in a span of the monotonic clock."""
    return [shot for shot in shots if from_s <= shot.due_s < to_s]


def failed(shots: Sequence[Shot]) -> int:
    """Return how many were not answered, or not rightly."""
    return sum(not (shot.is_answered and shot.is_right) for shot in shots)


def quantile_s(shots: Iterable[Shot], part: float) -> float:
    """Return a quantile of the latencies of those answered, infinity when there are none."""
    seen = sorted(shot.latency_s for shot in shots if shot.is_answered)
    return seen[min(len(seen) - 1, math.ceil(part * len(seen)) - 1)] if seen else math.inf


def share_asked(shots: Sequence[Shot], peer: str) -> float:
    """Return in which part of the requests a node was asked at all; they must have been explained."""
    return sum(peer in shot.asked for shot in shots) / max(1, len(shots))


def attempts_a_request(shots: Sequence[Shot]) -> float:
    """Return how many nodes were asked for one answered request; they must have been explained."""
    answered = [shot for shot in shots if shot.is_answered]
    return sum(len(shot.asked) for shot in answered) / max(1, len(answered))


async def never_read(
    address: tuple[str, int], path: str, body: bytes, source: str = ""
) -> socket.socket:
    """Ask for an answer of which nothing is ever read, from an address of one's own; return the connection."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    sock.bind((source, 0))
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await loop.sock_sendall(sock, head.encode() + body)
    return sock


async def main(url: str, connections: int, pause_s: float, *, is_new: bool) -> None:
    """Ask until standard input ends, and once more on each connection: what is so at the end is seen, too."""
    stop = asyncio.Event()
    stdin = sys.stdin.fileno()
    asyncio.get_running_loop().add_reader(stdin, lambda: None if sys.stdin.read(1) else stop.set())

    def requests() -> Iterator[Request]:
        for number in itertools.count():
            if number == connections:
                print("asking", flush=True)  # noqa: T201 - its owner waits for the line
            if stop.is_set():
                break
            yield DIGITS
        yield from [DIGITS] * connections

    load = Load(url, is_explained=False, is_new=is_new)
    shots = await load.run(requests(), concurrency=connections, pause_s=pause_s)
    seen = {
        "answered": len(shots) - failed(shots),
        "failed": failed(shots),
        "failures": failures(shots)[:20],
        "slowest_s": max(shot.latency_s for shot in shots),
    }
    print(json.dumps(seen), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[4]), is_new=sys.argv[3] == "new")
    )
