"""A member with a real token that does not mean well: speaks the protocol, and advertises and answers what it is told to. IO: sockets, a sidecar.

It runs in the test's own process; its mesh sidecar is a process as any node's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from capamesh.protocol.adverts import (
    KIND_ADVERT,
    Device,
    ModelOffer,
    NodeAdvert,
    SequenceSource,
    advert_to_body,
    seal,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    decode_call,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import adverts_topic
from capamesh.protocol.network import Member, Role
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor, TensorSpec

IDLE = LoadReport(0, 0, 1000, 0, 1, 1 << 40, 1, 0)
"""The load of who is never busy and answers in a microsecond."""
ADVERTISE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Late:
    """An error that is told after a while."""

    after_s: float
    error: CapameshError


Answers = Callable[[InferCall], Sequence[Tensor] | CapameshError | Late | None]
"""What to answer a request: outputs, an error, or nothing, ever."""


class EvilNode:
    """Advertises `offer` and answers as `answers` says, with outputs after `delay_s`, with errors at once; `asked` counts the requests that came."""

    def __init__(
        self, folder: Path, token: str, offer: ModelOffer, *, message_bytes: int | None = None
    ) -> None:
        log = structlog.get_logger()
        folder.mkdir(parents=True, exist_ok=True)
        home = DataDir(folder)
        self.membership = home.membership(token, Role.NODE, dt.datetime.now(dt.UTC))
        self._trust = self.membership.trust()
        limits = LinkLimits()
        if message_bytes is not None:
            limits = replace(limits, message_bytes=message_bytes)
        self._transport = LinkTransport(
            self.membership, folder, agent_version="0.0", limits=limits, log=log
        )
        self._mesh = MeshClient(
            self.membership,
            listen=[],
            bootstrap=home.bootstrap(),
            subscribe=[],
            log=log,
            on_subscribed=lambda _topic, _peers: self.advertise(),
        )
        self._topic = adverts_topic(self.membership.network_id)
        self._sequences = SequenceSource(time.time_ns())
        self._address = ""
        self.offers: tuple[ModelOffer, ...] = (offer,)
        self.answers: Answers = lambda _: None
        self.delay_s = 0.0
        self.load_reported = IDLE
        self.asked = 0
        self.links = 0

    def advertise(self) -> None:
        """Tell the network what it is to believe."""
        if not self._address:
            return
        advert = NodeAdvert(
            peer=self.membership.identity.peer_id,
            sequence=self._sequences.next(),
            devices=(Device(0, "cpu", "evil", "CPUExecutionProvider", 1 << 40, 1 << 40, (self._address,)),),
            models=self.offers,
            region="",
            price_per_million=0.0,
            agent_version="0.0",
            is_draining=False,
        )  # fmt: skip
        body = advert_to_body(advert)
        now_ms = time.time_ns() // 1_000_000
        self._mesh.publish(
            self._topic, seal(KIND_ADVERT, body, self.membership, advert.sequence, now_ms)
        )

    async def run(self) -> None:
        """Be there until cancelled."""
        server = await self._transport.listen("127.0.0.1", 0, lambda: self)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        mesh = asyncio.create_task(self._mesh.run())
        try:
            while True:
                self.advertise()
                await asyncio.sleep(ADVERTISE_EVERY_S)
        finally:
            server.close()
            mesh.cancel()
            with suppress(asyncio.CancelledError):
                await mesh

    # LinkHandler

    def verify(self, hello: Hello, certificate: bytes) -> Member:
        return check_hello(
            self._trust, hello, certificate, dt.datetime.now(dt.UTC), role=Role.ROUTER
        )

    def link_up(self, link: Link) -> None:
        self.links += 1

    def link_down(self, link: Link, reason: str) -> None:
        self.links -= link.member is not None

    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        self.asked += 1
        call, _ = decode_call(meta, body, DEFAULT_LIMITS)
        assert isinstance(call, InferCall)
        given = self.answers(call)
        if given is None:
            return
        delay_s = self.delay_s
        if isinstance(given, CapameshError):
            delay_s = 0.0
        elif isinstance(given, Late):
            delay_s, given = given.after_s, given.error
        asyncio.get_running_loop().call_later(
            delay_s, self._reply, link, stream, call.version, given
        )

    def _reply(
        self,
        link: Link,
        stream: int,
        version: ModelVersion,
        given: Sequence[Tensor] | CapameshError,
    ) -> None:
        if isinstance(given, CapameshError):
            link.fail(stream, given)
            return
        meta, buffers = encode_answer(InferAnswer(version, tuple(given), 0, 1, self.load_reported))
        link.respond(stream, meta, buffers)

    def request_cancelled(self, link: Link, stream: int) -> None:
        pass

    def load(self, meta: bytes) -> bytes:
        return encode_load(self.load_reported)

    def load_told(self, link: Link, meta: bytes) -> None:
        pass

    def goaway_received(self, link: Link, reason: str) -> None:
        pass

    def read_ended(self, link: Link) -> None:
        pass


@asynccontextmanager
async def present(evil: EvilNode) -> AsyncIterator[EvilNode]:
    """Let it be there meanwhile."""
    task = asyncio.create_task(evil.run())
    try:
        yield evil
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def made_up(spec: TensorSpec, rows: int, value: int) -> Tensor:
    """Return an output as its spec says, all of one value."""
    shape = [rows if dim < 0 else dim for dim in spec.shape]
    assert spec.datatype is not Datatype.BYTES
    return Tensor.from_numpy(spec.name, np.full(shape, value, spec.datatype.numpy_dtype))
