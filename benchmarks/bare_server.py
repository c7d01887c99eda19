"""The least that can serve a model over a link: what `engine.py` compares a node with.

No queue to speak of, no deadlines, no checks. With a batch of 1 each request runs at once, in the event loop; with
more, so many requests are stacked and run in a thread. `python benchmarks/bare_server.py FOLDER MODEL THREADS
BATCH SHAPES`, with a saved membership in FOLDER and the inputs' shapes and dtypes as JSON; prints its port.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvloop
from typing_extensions import override

from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.network import Member, Membership, Role

META = b"\x80"
LATE_S = 0.1
"""The last requests of a load do not fill a batch: they run when nothing has come for so long."""
Waiting = tuple[Link, int, memoryview]


class BareServer(LinkHandler):
    """Runs one model on the raw bytes of its inputs, one row a request."""

    def __init__(
        self,
        membership: Membership,
        model: Path,
        threads: int,
        batch: int,
        inputs: dict[str, tuple[list[int], str]],
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._batch = batch
        self._inputs = [
            (name, shape[1:], np.dtype(dtype)) for name, (shape, dtype) in inputs.items()
        ]
        self._trust = membership.trust()
        self._waiting: list[Waiting] = []
        self._is_running = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1)

    @override
    def verify(self, hello: Hello, certificate: bytes) -> Member:
        now = dt.datetime.now(dt.UTC)
        return check_hello(self._trust, hello, certificate, now, role=Role.ROUTER)

    @override
    def link_up(self, link: Link) -> None:
        """Do nothing."""

    @override
    def link_down(self, link: Link, reason: str) -> None:
        """Do nothing."""

    @override
    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        if self._batch == 1:
            self._answer([(link, stream, body)], self._run([body]))
            return
        self._waiting.append((link, stream, body))
        self._next()

    def _next(self, *, is_late: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_running or not self._waiting:
            return
        if len(self._waiting) < self._batch and not is_late:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LATE_S, partial(self._next, is_late=True))
            return
        works, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        self._is_running = True
        bodies = [body for _, _, body in works]
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, bodies)
        running.add_done_callback(lambda done: self._ran(works, done.result()))

    def _ran(self, works: list[Waiting], output: np.ndarray) -> None:
        self._is_running = False
        self._next()
        self._answer(works, output)

    def _answer(self, works: list[Waiting], output: np.ndarray) -> None:
        for row, (link, stream, _) in enumerate(works):
            link.respond(stream, META, [output[row : row + 1].data.cast("B")])

    def _run(self, bodies: list[memoryview]) -> np.ndarray:
        feed: dict[str, np.ndarray] = {}
        at = 0
        for name, rest, dtype in self._inputs:
            end = at + math.prod(rest) * dtype.itemsize
            raw = bodies[0][at:end] if len(bodies) == 1 else b"".join([b[at:end] for b in bodies])
            feed[name] = np.frombuffer(raw, dtype).reshape(len(bodies), *rest)
            at = end
        return self._session.run(None, feed)[0]

    @override
    def request_cancelled(self, link: Link, stream: int) -> None:
        """Do nothing."""

    @override
    def load(self, meta: bytes) -> bytes:
        return META

    @override
    def goaway_received(self, link: Link, reason: str) -> None:
        """Do nothing."""

    @override
    def read_ended(self, link: Link) -> None:
        """Do nothing."""


async def serve(folder: Path, model: Path, threads: int, batch: int, inputs: str) -> None:
    """Serve until this process is ended."""
    membership = Membership.load(folder, dt.datetime.now(dt.UTC))
    server = BareServer(membership, model, threads, batch, json.loads(inputs))
    transport = LinkTransport(membership, folder, agent_version="bare")
    listening = await transport.listen("127.0.0.1", 0, lambda: server)
    print(listening.sockets[0].getsockname()[1], flush=True)
    freeze_loaded_objects()
    await asyncio.Event().wait()


if __name__ == "__main__":
    given = sys.argv
    uvloop.run(serve(Path(given[1]), Path(given[2]), int(given[3]), int(given[4]), given[5]))
