"""The least that can stand behind a router: a member that answers every request over its link at once. IO: sockets, a sidecar.

    python benchmarks/peers/link_upstream.py TOKEN_FILE FOLDER

It joins, links and advertises as a node does, and runs no model: an answer is zeros in the form of the model's output.
Answers are as a node encodes them, with a load that says it is idle.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog
import uvloop
from typing_extensions import override

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
    SequenceSource,
    advert_to_body,
    seal,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.call_decoder import CallDecoder
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import adverts_topic
from capamesh.protocol.model_digest import digest_of
from capamesh.protocol.network import Member, Role
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor, TensorSpec

IDLE = LoadReport(0, 0, 1000, 0, 1, 1 << 40, 1, 0)
"""The load of who is never busy and answers in a microsecond."""
ADVERTISE_EVERY_S = 5.0
VERSION = ModelVersion("1")
MODELS = {
    "mlp": (
        TensorSpec("x", Datatype.FP32, (-1, 64)),
        TensorSpec("y", Datatype.FP32, (-1, 10)),
    ),
    "picture": (
        TensorSpec("image", Datatype.FP32, (-1, 3, 224, 224)),
        TensorSpec("mean", Datatype.FP32, (-1, 3, 1, 1)),
    ),
}
"""The input and the output of the models that the benchmark asks for."""


def offer(name: str) -> ModelOffer:
    """Return what a node would say of a model."""
    takes, gives = MODELS[name]
    digest = digest_of(hashlib.sha256(name.encode()).digest())
    return ModelOffer(
        ModelName(name), VERSION, digest, ModelState.READY, "", (takes,), (gives,), row_us=1
    )


class LinkUpstream(LinkHandler):
    """A member that advertises the models and answers."""

    def __init__(self, token: str, folder: Path) -> None:
        home, log = DataDir(folder), structlog.get_logger()
        self.membership = home.membership(token, Role.NODE, dt.datetime.now(dt.UTC))
        self._trust = self.membership.trust()
        self._transport = LinkTransport(self.membership, folder, agent_version="0", log=log)
        self._topic = adverts_topic(self.membership.network_id)
        self._mesh = MeshClient(
            self.membership,
            listen=[],
            bootstrap=home.bootstrap(),
            subscribe=[],
            log=log,
            on_subscribed=lambda _topic, _peers: self._advertise(),
        )
        self._sequences = SequenceSource(time.time_ns())
        self._address = ""
        self._calls = CallDecoder(DEFAULT_LIMITS)
        self._load = encode_load(IDLE)
        self._answers: dict[tuple[str, int], tuple[bytes, list[bytes | memoryview]]] = {}
        """Answers, encoded once, by the model's name and the rows asked for."""

    async def run(self) -> None:
        """Be there until cancelled."""
        server = await self._transport.listen("127.0.0.1", 0, lambda: self)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        mesh = asyncio.create_task(self._mesh.run())
        try:
            while True:
                self._advertise()
                await asyncio.sleep(ADVERTISE_EVERY_S)
        finally:
            server.close()
            mesh.cancel()
            with suppress(asyncio.CancelledError):
                await mesh

    def _advertise(self) -> None:
        device = Device(0, "cpu", "none", "none", 1 << 40, 1 << 40, (self._address,))
        sequence = self._sequences.next()
        advert = NodeAdvert(
            self.membership.identity.peer_id,
            sequence,
            (device,),
            tuple(offer(name) for name in MODELS),
            region="",
            price_per_million=0.0,
            agent_version="0",
            is_draining=False,
        )
        body, now_ms = advert_to_body(advert), time.time_ns() // 1_000_000
        self._mesh.publish(self._topic, seal(KIND_ADVERT, body, self.membership, sequence, now_ms))

    def _answer_to(self, call: InferCall) -> tuple[bytes, list[bytes | memoryview]]:
        key = call.model, call.inputs[0].shape[0]
        if (known := self._answers.get(key)) is None:
            gives = MODELS[call.model][1]
            zeros = np.zeros((key[1], *gives.shape[1:]), np.float32)
            output = Tensor.from_numpy(gives.name, zeros)
            known = encode_answer(InferAnswer(VERSION, (output,), 0, 1, IDLE))
            self._answers[key] = known
        return known

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
        call, _ = self._calls.decode(meta, body)
        if isinstance(call, InferCall):
            link.respond(stream, *self._answer_to(call))

    @override
    def request_cancelled(self, link: Link, stream: int) -> None:
        """Do nothing."""

    @override
    def load(self, meta: bytes) -> bytes:
        return self._load

    @override
    def goaway_received(self, link: Link, reason: str) -> None:
        """Do nothing."""

    @override
    def read_ended(self, link: Link) -> None:
        """Do nothing."""


async def serve(token: str, folder: Path) -> None:
    """Be a member until the process is ended."""
    upstream = LinkUpstream(token, folder)
    freeze_loaded_objects()
    await upstream.run()


def main() -> None:
    """Join with a token, and answer."""
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    uvloop.run(serve(Path(sys.argv[1]).read_text().strip(), folder))


if __name__ == "__main__":
    main()
