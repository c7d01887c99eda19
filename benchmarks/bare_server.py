"""The least that can serve a model over a link: each request runs at once, in the event loop, as it comes.

No queue, no batches, no checks: what `engine.py` compares a node with. `python benchmarks/bare_server.py
FOLDER MODEL THREADS` with a saved membership in FOLDER; prints its port.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvloop

from capamesh.protocol.garbage import spare_what_is_loaded
from capamesh.protocol.links.endpoint import LinkEndpoint, check_hello
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Member, Membership, Role

META = b"\x80"


class BareServer:
    """Runs one model with one FP32 input on every request's body."""

    def __init__(self, membership: Membership, model: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        spec = self._session.get_inputs()[0]
        self._name = spec.name
        self._shape = (-1, *spec.shape[1:])
        self._trust = membership.trust()

    def verify(self, hello: Hello, certificate: bytes) -> Member:
        """Part of `LinkOwner`."""
        return check_hello(
            self._trust, hello, certificate, dt.datetime.now(dt.UTC), role=Role.ROUTER
        )

    def link_up(self, link: Link) -> None:
        """Part of `LinkOwner`."""

    def link_down(self, link: Link, reason: str) -> None:
        """Part of `LinkOwner`."""

    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Part of `LinkOwner`."""
        array = np.frombuffer(body, np.float32).reshape(self._shape)
        (output,) = self._session.run(None, {self._name: array})[-1:]
        link.respond(stream, META, [output.data.cast("B")])

    def request_cancelled(self, link: Link, stream: int) -> None:
        """Part of `LinkOwner`."""

    def load(self, meta: bytes) -> bytes:
        """Part of `LinkOwner`."""
        return META

    def goaway_received(self, link: Link, reason: str) -> None:
        """Part of `LinkOwner`."""


async def serve(folder: Path, model: Path, threads: int) -> None:
    """Serve until this process is ended."""
    membership = Membership.load(folder, dt.datetime.now(dt.UTC))
    server = BareServer(membership, model, threads)
    endpoint = LinkEndpoint(membership, folder, agent_version="bare")
    listening = await endpoint.listen("127.0.0.1", 0, lambda: server)
    print(listening.sockets[0].getsockname()[1], flush=True)
    spare_what_is_loaded()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
