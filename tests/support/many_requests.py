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
from typing import Any

import virtual_time
from fleet_fakes import answer_of, offer
from front_world import World
from link_ends import Ends
from link_wire import deliver
from request_shapes import RANKS, RequestShapes, model_of
from typing_extensions import override

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

LIMITS = Limits(max_message_bytes=50_000_000, max_json_bytes=200_000, max_tensors=4, max_dims=5)
DIGEST_EVERY = 100
OUTPUTS = ("x", "y")
"""The outputs of each model: both are its first input."""
TURNS = 4000
"""Turns in which a request has to be answered (many more than any takes)."""
SLOW = (0.2, 0.7)
"""The part of the turns in which a node leaves unread what it was asked; the first node is slower than the others."""
FAILURES = (
    errors.Overloaded("full", 0.5),
    errors.RunFailed("the run failed"),
    errors.InvalidRequest("wrong of input 'x'"),
    errors.ModelUnavailable("it is unloading"),
    errors.Draining("it leaves"),
    errors.TooLarge("too large"),
)
MODELS = [
    replace(
        offer(model_of(datatype, rank), version),
        outputs=tuple(TensorSpec(name, datatype, (-1,) * rank) for name in OUTPUTS),
    )
    for datatype in Datatype
    for rank in RANKS
    for version in ("1", "2")
]


class Seeded(World):
    """The world whose nodes answer as the seed says."""

    def __init__(self, seed: int) -> None:
        super().__init__(models=MODELS, limits=LIMITS, seed=seed)
        self._rng = random.Random(seed)
        self._requests = RequestShapes(random.Random(seed + 1))
        self.digest = hashlib.blake2b(digest_size=12)
        self.seen: Counter[str] = Counter()

    async def exchange(self) -> None:
        """Send a request, one of four in parts, and turn the loop until it is answered."""
        rng, client = self._rng, self.client
        head, body = self._requests.next()
        data = head + body
        step = rng.choice((1 << 20, 1 << 20, 1 << 20, max(7, len(data) // 3)))
        for at in range(0, len(data), step):
            if not client.is_closed:
                deliver(self.connection, data[at : at + step])
        for _ in range(TURNS):
            await self.answer()
            if client.sent:
                break
            await asyncio.sleep(rng.choice((0.001, 0.01)))
        else:
            raise SystemExit(f"a request got no answer: {data[:2000]!r}")
        await asyncio.sleep(rng.choice((0, 0, 0, 0.001, 0.02)))
        answer = bytes(client.sent)
        client.sent.clear()
        self._see("client", answer)
        self.seen[answer[9:12].decode()] += 1
        if client.is_closed:
            self.connection.connection_lost(None)
            self.connect()

    def _see(self, who: str, data: bytes) -> None:
        self.digest.update(f"{who} {len(data)}\0".encode() + data)

    @override
    async def answer(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the links have written
        for ends in self.nodes:
            if ends.transport.sent and self._rng.random() >= SLOW[ends is self.nodes[0]]:
                self._listen(ends)

    def _listen(self, ends: Ends) -> None:
        self._see("node", bytes(ends.transport.sent))
        for event in ends.read():
            load = LoadReport(self._rng.randrange(4), 0, 8, 9, self._rng.randrange(9_000), 0)
            if isinstance(event, RequestReceived):
                self._respond(ends, event, load)
            elif isinstance(event, ProbeReceived):
                model, version = decode_probe(event.meta)
                self.digest.update(f"{model} {version}".encode())
                ends.peer.send_load(event.stream, encode_load(load))
        ends.deliver()

    def _respond(self, ends: Ends, event: RequestReceived, load: LoadReport) -> None:
        asked, _ = decode_call(event.meta, memoryview(event.body), LIMITS)
        draw = self._rng.random()
        if isinstance(asked, ControlCall):
            ends.peer.fail(event.stream, errors.ModelUnavailable("it loads nothing"))
        elif draw < 0.03:
            ends.peer.fail(event.stream, self._rng.choice(FAILURES))
        elif draw < 0.034:
            ends.peer.respond(event.stream, b"\xc1", [b""])
        else:
            names = asked.outputs or OUTPUTS if draw < 0.98 else ("x",)
            outputs = [
                Tensor(name, tensor.datatype, tensor.shape, tensor.data)
                for name in names
                for tensor in asked.inputs[:1]
            ]
            answer = answer_of(asked.version or "1", *outputs, load=load)
            ends.peer.respond(event.stream, answer.meta, [answer.body])


async def run(count: int, seed: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    time.perf_counter = time.monotonic = loop.time  # the time that code takes is not to be seen
    server.formatdate = lambda *_, **__: "Thu, 01 Jan 1970 00:00:00 GMT"  # type: ignore[assignment]
    world = Seeded(seed)
    digests: list[str] = []
    for number in range(1, count + 1):
        await world.exchange()
        if number % DIGEST_EVERY == 0 or number == count:
            digests.append(world.digest.hexdigest())
    return {
        "running": implementation.RUNNING,
        "code": connection.__file__,
        "digests": digests,
        "seen": dict(sorted(world.seen.items())),
        "logged": world.log.events,
    }


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:]), 1]
    sys.stdout.write(json.dumps(virtual_time.run(run(given[0], given[1]))) + "\n")
