"""Members with real tokens that do not mean well: they speak the protocol, and advertise and answer what they are told to. IO: sockets, sidecars.

They run in the test's own process; their mesh sidecars are processes as any node's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import structlog
from clusters import CAPACITY_IN_FLIGHT, MODEL, Cluster, models_at, nodes_at
from http_load import DIGITS, Request, digits_body
from patience import until

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
from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
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
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import adverts_topic
from capamesh.protocol.network import JoinToken, Member, Role
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor, TensorSpec

IDLE = LoadReport(0, 0, 1000, 0, 1, 1 << 40, 1, 0)
"""The load of who is never busy and answers in a microsecond."""
ADVERTISE_EVERY_S = 1.0
DIGITS_IN = (TensorSpec("X", Datatype.FP32, (-1, 64)),)
DIGITS_OUT = (
    TensorSpec("label", Datatype.INT64, (-1,)),
    TensorSpec("probabilities", Datatype.FP32, (-1, 10)),
)
WRONG_LABEL = 42
LATE_S = 0.3
"""A hundred times what the model takes."""
INDEX = TensorSpec("index", Datatype.INT64, (1,))
DONE = TensorSpec("done", Datatype.INT64, (1,))
TURN_S = 4e-6


Given = list[Tensor] | CapameshError | tuple[float, CapameshError] | None
"""What to answer a request: outputs, an error, one after so many seconds, or nothing, ever."""
Answers = Callable[[InferCall], Given]


class EvilNode(LinkHandler):
    """Advertises `offer` and answers as `answers` says, with outputs after `delay_s`, with errors at once; `asked` counts the requests that came."""

    def __init__(
        self, folder: Path, token: JoinToken, offer: ModelOffer, limits: LinkLimits | None = None
    ) -> None:
        log = structlog.get_logger()
        folder.mkdir(parents=True, exist_ok=True)
        home = DataDir(folder)
        self.membership = home.membership(token.encode(), Role.NODE, dt.datetime.now(dt.UTC))
        self._trust = self.membership.trust()
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

    @property
    def peer(self) -> str:
        return self.membership.identity.peer_id

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
        elif isinstance(given, tuple):
            delay_s, given = given
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

    def load(self, meta: bytes) -> bytes:
        return encode_load(self.load_reported)


@asynccontextmanager
async def present(evil: EvilNode) -> AsyncIterator[EvilNode]:
    task = asyncio.create_task(evil.run())
    try:
        yield evil
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def made_up(spec: TensorSpec, rows: int, value: int) -> Tensor:
    shape = [rows if dim < 0 else dim for dim in spec.shape]
    assert spec.datatype is not Datatype.BYTES
    return Tensor.from_numpy(spec.name, np.full(shape, value, spec.datatype.numpy_dtype))


def offer_of(
    name: str,
    version: str = "1",
    digest: str = "sha256-chunks:" + "e" * 64,
    *,
    inputs: tuple[TensorSpec, ...] = DIGITS_IN,
    outputs: tuple[TensorSpec, ...] = DIGITS_OUT,
    state: ModelState = ModelState.READY,
    reason: str = "",
) -> ModelOffer:
    """Return the offer of a model that is ready; the specs are those of digits."""
    return ModelOffer(
        ModelName(name), ModelVersion(version), digest, state, reason, inputs, outputs
    )


async def digest_of(cluster: Cluster, model: str = "digits") -> str:
    found = await models_at(cluster.http_url)
    (digest,) = [one["digest"] for one in found if one["name"] == model]
    return str(digest)


def wrong(call: InferCall) -> list[Tensor]:
    specs = [spec for spec in DIGITS_OUT if not call.outputs or spec.name in call.outputs]
    return [made_up(spec, call.inputs[0].shape[0], WRONG_LABEL) for spec in specs]


def _strange(_: InferCall) -> list[Tensor]:
    specs = [TensorSpec(spec.name, Datatype.FP64, (-1, 3)) for spec in DIGITS_OUT]
    return [made_up(spec, 1, WRONG_LABEL) for spec in specs]


LIES: dict[str, Answers] = {
    "invalid": lambda _: InvalidRequest("your request is wrong"),
    "too_large": lambda _: TooLarge("your request is too large"),
    "run_failed": lambda _: RunFailed("the model failed"),
    "strange outputs": _strange,
    "never answers": lambda _: None,
    "late": lambda _: (LATE_S, InvalidRequest("your request is wrong")),
    "once": lambda _: InvalidRequest("your request is wrong"),
}
"""What liars answer; of `once` they advertise beside that no request may run twice."""


async def right_request(url: str) -> tuple[Request, int]:
    """Return a request for digits with what its answer must hold, and the label; to be asked while all nodes are honest."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v2/models/digits/infer", data=digits_body()) as reply,
    ):
        outputs = (await reply.json())["outputs"]
    (label,) = [output["data"][0] for output in outputs if output["name"] == "label"]
    return (DIGITS[0], b'"data":[%d]' % label), int(label)


@asynccontextmanager
async def lying(
    cluster: Cluster, folder: Path, *answers: Answers, is_once: bool = False
) -> AsyncIterator[list[EvilNode]]:
    """Let a node be there for each of `answers`, all of one token, that hosts digits by its own word.

    Each honest node has an invite of its own; the liars share one, as strangers do who got one token. `is_once`: they
    advertise that no request may run twice.
    """
    offer = replace(offer_of("digits", "1", await digest_of(cluster)), is_idempotent=not is_once)
    token = cluster.token()
    async with AsyncExitStack() as stack:
        liars: list[EvilNode] = []
        for number, each in enumerate(answers):
            liar = EvilNode(folder / str(number), token, offer)
            liar.answers = each
            liars.append(await stack.enter_async_context(present(liar)))
        await until_usable(cluster, *liars)
        yield liars


async def until_usable(cluster: Cluster, *evil: EvilNode) -> None:
    """Wait until the router can reach them."""

    async def are_linked() -> bool:
        nodes = (await nodes_at(cluster.http_url)).items()
        usable = {peer for peer, node in nodes if any(one["is_usable"] for one in node["links"])}
        return {each.peer for each in evil} <= usable

    await until(are_linked)


@asynccontextmanager
async def gray_node(
    cluster: Cluster, turns: int, fails: Callable[[int], bool]
) -> AsyncIterator[str]:
    """Add a node that serves `turning` as the others do, but that its runs fail for the indices of which `fails` is true; yield its peer id.

    Its files are the others', else it would serve another model; so it is none of our node agents.
    """

    def answers(call: InferCall) -> Given:
        if fails(int(call.inputs[0].to_numpy()[0])):
            return RunFailed("the run failed")
        return [Tensor.from_numpy(DONE.name, np.array([turns], np.int64))]

    digest, run_us = await digest_of(cluster, MODEL), int(turns * TURN_S * 1e6)
    offer = offer_of(MODEL, "1", digest, inputs=(INDEX,), outputs=(DONE,))
    gray = EvilNode(cluster.folder / "gray", cluster.token(), offer)
    gray.answers, gray.delay_s = answers, turns * TURN_S
    gray.load_reported = LoadReport(0, 0, CAPACITY_IN_FLIGHT, 0, run_us, 1 << 30, run_us, 0)
    async with present(gray):
        yield gray.peer
