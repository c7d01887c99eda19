"""Faults of one node of three while requests come, and what clients see of each. Starts processes.

Imported by `chaos.py`, by whose path the tests' support is found.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_models
from chaos import frozen, own_pids
from clusters import (
    MODEL,
    Cluster,
    capacity,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
    until_linked,
)
from http_load import (
    Load,
    attempts_a_request,
    between,
    failed,
    failures,
    quantile_s,
    share_asked,
)

TURNS = 500
"""2 ms of work: enough that what a router and this load generator cost is the smaller part."""
FIRST_S = 1.0
"""The time in which a fault is to be found."""
SETTLED = 300
"""Requests at first that are not counted: nothing is known of any latency yet."""
AFTER_RETURN = 300
"""Requests after a node is in rotation again, of which it has a share."""
BUMP_S = 5.0


@dataclass(slots=True)
class Faulty:
    """One node of three that a fault can befall."""

    peer: str
    fault: Callable[[], Awaitable[None]]
    recover: Callable[[], Awaitable[None]]


@asynccontextmanager
async def three_nodes(folder: Path) -> AsyncIterator[Cluster]:
    """Start a router; the caller adds the nodes."""
    models = folder / "models"
    engine_models.save(engine_models.turning(TURNS), models, MODEL)
    async with Cluster(folder / "cluster", models) as cluster:
        yield cluster


@asynccontextmanager
async def to_kill(cluster: Cluster) -> AsyncIterator[Faulty]:
    """Add a node that is killed and started again."""
    node = await cluster.add()

    async def kill() -> None:
        node.signal(signal.SIGKILL)
        await node.wait()

    async def start_again() -> None:
        peer = peer_of(await cluster.start_again(node))
        await until_linked(cluster.http_url, peer)  # it has recovered when it can be reached

    yield Faulty(peer_of(node), kill, start_again)


@asynccontextmanager
async def to_freeze(cluster: Cluster) -> AsyncIterator[Faulty]:
    """Add a node whose processes are stopped and go on."""
    node = await cluster.add()
    stopped: list[Any] = []

    async def freeze() -> None:
        stopped.append(frozen(own_pids(node)))
        stopped[0].__enter__()

    async def thaw() -> None:
        stopped.pop().__exit__(None, None, None)

    try:
        yield Faulty(peer_of(node), freeze, thaw)
    finally:
        if stopped:
            await thaw()


@asynccontextmanager
async def to_silence(cluster: Cluster) -> AsyncIterator[Faulty]:
    """Add a node behind a wire that accepts connections and passes nothing on."""
    async with cluster.proxied(1) as (node, proxy):

        async def hold(is_held: bool) -> None:
            proxy.hold(is_held=is_held)

        yield Faulty(peer_of(node), lambda: hold(True), lambda: hold(False))


FAULTS = {"kill": to_kill, "freeze": to_freeze, "silent": to_silence}


@dataclass(slots=True)
class FaultSeen:
    """The view that clients had of one fault."""

    failed: int
    left: int
    p99_in_fault: float
    p99_on_return: float
    """Both in parts of the normal one."""
    bad_share: float
    return_s: float
    """Seconds from the node's recovery until it has answered a request."""
    return_share: float
    notes: dict[str, Any]


async def one_fault(name: str, folder: Path, count: int, seed: int) -> FaultSeen:
    """Hurt one of three nodes while requests come at half of the capacity, and let it recover."""
    async with three_nodes(folder) as cluster, FAULTS[name](cluster) as faulty:
        for _ in range(2):
            await cluster.add()
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        rate = await capacity(cluster, TURNS) / 2
        times: dict[str, float] = {}

        async def hurt() -> None:
            times["fault"] = time.monotonic()
            await faulty.fault()

        is_back = asyncio.Event()

        async def recover() -> None:
            try:
                times["over"] = time.monotonic()
                await faulty.recover()
                times["recovered"] = time.monotonic()
                await until_in_rotation(cluster.http_url, faulty.peer)
                times["returned"] = time.monotonic()
            finally:
                is_back.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            """Go on until it is back, however few requests a small scale has, and then for its share to be seen."""
            numbered = requests(10**6, TURNS)
            yield from itertools.islice(numbered, count)
            while not is_back.is_set():
                yield next(numbered)
            yield from itertools.islice(numbered, AFTER_RETURN)

        began_s = time.monotonic()
        shots = await Load(cluster.http_url, MODEL).run(
            stream(),
            rate=rate,
            seed=seed,
            at={int(count * 0.3): hurt, int(count * 0.7): recover},
        )
        left = await still_in_flight(cluster.http_url)
    fault_s, recovered_s = times["fault"], times["recovered"]
    normal_s = quantile_s(between(shots[min(SETTLED, count // 10) :], 0, fault_s), 0.99)
    in_fault = between(shots, fault_s, times["over"])
    after_first = between(shots, fault_s + FIRST_S, times["over"])
    on_return = between(shots, recovered_s, recovered_s + BUMP_S)
    last = between(shots, times["returned"])
    return FaultSeen(
        failed=failed(shots),
        left=len(left),
        p99_in_fault=quantile_s(in_fault, 0.99) / normal_s,
        p99_on_return=quantile_s(on_return, 0.99) / normal_s,
        bad_share=share_asked(after_first, faulty.peer),
        return_s=min(
            (shot.ended_s for shot in on_return if shot.node == faulty.peer), default=math.inf
        )
        - recovered_s,
        return_share=sum(shot.node == faulty.peer for shot in last) / max(1, len(last)),
        notes={
            "rate": rate,
            "failures": failures(shots)[:5],
            "left_in_flight": left,
            "normal_p50_ms": quantile_s(between(shots, began_s, fault_s), 0.5) * 1e3,
            "normal_p99_ms": normal_s * 1e3,
            "fault_p99_ms": quantile_s(in_fault, 0.99) * 1e3,
            "fault_max_ms": quantile_s(in_fault, 1.0) * 1e3,
            "return_p99_ms": quantile_s(on_return, 0.99) * 1e3,
            "fault_seconds": times["over"] - fault_s,
            "asked_after_1_s": [
                round(shot.due_s - fault_s, 3) for shot in after_first if faulty.peer in shot.asked
            ][:200],
            "attempts_a_request": attempts_a_request(shots),
        },
    )
