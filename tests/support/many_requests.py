"""Sends many requests, made of a seed, through a router's own code and prints a digest of all bytes that it wrote.

    python tests/support/many_requests.py COUNT [SEED]

What is the same with each run: requests, how they arrive in parts, the nodes' answers and errors, all clocks and random
numbers. So two implementations of the router write the same bytes to clients and nodes, or one is wrong. Of each hundred
requests there is a digest, so that it can be told where they part.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import virtual_time
from fleet_fakes import Fleet, NullLog, answer_of, keys_of, offer
from link_ends import Ends
from origins import ANYWHERE
from request_shapes import RANKS, RequestShapes, model_of

from capamesh.protocol import errors, implementation
from capamesh.protocol.links.calls import (
    ControlCall,
    LoadReport,
    decode_call,
    decode_probe,
    encode_load,
)
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec
from capamesh.router.http import connection, server
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.server import Front

LIMITS = Limits(max_message_bytes=50_000_000, max_json_bytes=200_000, max_tensors=4, max_dims=5)
DIGEST_EVERY = 100
PEERS = "ABC"
OUTPUTS = ("x", "y")
"""The outputs of each model: both are its first input."""
TURNS = 4000
"""Turns in which a request has to be answered (many more than any takes)."""
SLOW = (0.2, 0.7)
"""The part of the turns in which a node leaves unread what it was asked; the first node is slower than the others."""


class Client:
    """A client's transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        del name

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        for part in parts:
            self.written += part

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        del high

    def get_write_buffer_size(self) -> int:
        return 0


class World:
    """A front, a router's core and real links to three nodes, which answer as the seed says; nothing has a socket."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._requests = RequestShapes(random.Random(seed + 1))
        fleet = Fleet(policy="prequal", limits=LIMITS, seed=seed)
        models = [
            replace(
                offer(model_of(datatype, rank), version),
                outputs=tuple(TensorSpec(name, datatype, (-1,) * rank) for name in OUTPUTS),
            )
            for datatype in Datatype
            for rank in RANKS
            for version in ("1", "2")
        ]
        self._nodes: list[Ends] = []
        for peer in PEERS:
            fleet.node(peer, models=models)
            ends = Ends()
            fleet.endpoints[-1].link = ends.link
            self._nodes.append(ends)
        self.log = NullLog()
        inference = Inference(
            fleet.view,
            fleet.routing,
            fleet.telemetry,
            30.0,
            LIMITS,
            self.log,  # type: ignore[arg-type]
            repeated=keys_of(fleet),
        )
        self._front = Front(inference, OpenRequests(), arrival_s=30.0, origin_check=ANYWHERE)
        self._connect()
        self._waiting: list[tuple[int, Ends, RequestReceived]] = []
        self.digest = hashlib.blake2b(digest_size=12)
        self.seen: Counter[str] = Counter()

    def _connect(self) -> None:
        self._client = Client()
        self._connection = FrontConnection(self._front)
        self._connection.connection_made(cast(asyncio.Transport, self._client))

    async def ask(self) -> None:
        """Send a request, and turn the loop until it is answered."""
        head, body = self._requests.next()
        self._arrive(head + body)
        for _ in range(TURNS):
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the links have written
            for ends in self._nodes:
                self._listen(ends)
            if self._client.written:
                break
            await asyncio.sleep(self._rng.choice((0.001, 0.01)))
        else:
            raise SystemExit(f"a request got no answer: {(head + body)[:2000]!r}")
        await asyncio.sleep(self._rng.choice((0, 0, 0, 0.001, 0.02)))
        answer = bytes(self._client.written)
        self._client.written.clear()
        self._see("client", answer)
        self.seen[answer[9:12].decode()] += 1
        if self._client.is_closed:
            self._connection.connection_lost(None)
            self._connect()

    def _see(self, who: str, data: bytes) -> None:
        self.digest.update(f"{who} {len(data)}\0".encode() + data)

    def _arrive(self, data: bytes) -> None:
        """Let a request's bytes arrive, one of four in parts."""
        most = self._rng.choice((1 << 20, 1 << 20, 1 << 20, max(7, len(data) // 3)))
        missing = memoryview(data)
        while missing and not self._client.is_closed:
            buffer = self._connection.get_buffer(-1)
            count = min(len(buffer), len(missing), most)
            buffer[:count] = missing[:count]
            missing = missing[count:]
            self._connection.buffer_updated(count)

    def _listen(self, ends: Ends) -> None:
        """Let a node answer what it was asked; now and then it takes its time."""
        if not ends.transport.sent or self._rng.random() < SLOW[ends is self._nodes[0]]:
            return
        self._see("node", bytes(ends.transport.sent))
        for event in ends.read():
            if isinstance(event, RequestReceived):
                self._respond(ends, event)
            elif isinstance(event, ProbeReceived):
                model, version = decode_probe(event.meta)
                self.digest.update(f"{model} {version}".encode())
                load = LoadReport(self._rng.randrange(4), 0, 8, 9, self._rng.randrange(9_000), 0)
                ends.peer.send_load(event.stream, encode_load(load))
        ends.deliver()

    def _respond(self, ends: Ends, event: RequestReceived) -> None:
        rng = self._rng
        asked, _ = decode_call(event.meta, memoryview(event.body), LIMITS)
        if isinstance(asked, ControlCall):
            ends.peer.fail(event.stream, errors.ModelUnavailable("it loads nothing"))
            return
        draw = rng.random()
        if draw < 0.03:
            ends.peer.fail(event.stream, rng.choice(FAILURES))
            return
        if draw < 0.034:
            ends.peer.respond(event.stream, b"\xc1", [b""])
            return
        names = asked.outputs or OUTPUTS if draw < 0.98 else ("x",)
        outputs = [
            Tensor(name, tensor.datatype, tensor.shape, tensor.data)
            for name in names
            for tensor in asked.inputs[:1]
        ]
        load = LoadReport(rng.randrange(4), 0, 8, 9, rng.randrange(9_000), 0)
        answer = answer_of(asked.version or "1", *outputs, load=load)
        ends.peer.respond(event.stream, answer.meta, [answer.body])


FAILURES = (
    errors.Overloaded("full", 0.5),
    errors.RunFailed("the run failed"),
    errors.InvalidRequest("wrong of input 'x'"),
    errors.ModelUnavailable("it is unloading"),
    errors.Draining("it leaves"),
    errors.TooLarge("too large"),
)


async def run(count: int, seed: int) -> dict[str, Any]:
    """Send the requests; return what is printed."""
    loop = asyncio.get_running_loop()
    time.perf_counter = time.monotonic = loop.time  # the time that code takes is not to be seen
    server.formatdate = lambda *_, **__: "Thu, 01 Jan 1970 00:00:00 GMT"  # type: ignore[assignment]
    world = World(seed)
    digests: list[str] = []
    for number in range(1, count + 1):
        await world.ask()
        if number % DIGEST_EVERY == 0 or number == count:
            digests.append(world.digest.hexdigest())
    return {
        "running": implementation.RUNNING,
        "code": connection.__file__,
        "digests": digests,
        "seen": dict(sorted(world.seen.items())),
        "logged": world.log.events,
    }


def main() -> None:
    """Send and print."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.stdout.write(json.dumps(virtual_time.run(run(count, seed))) + "\n")


if __name__ == "__main__":
    main()
