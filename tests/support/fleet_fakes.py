"""Adverts in few words, and links to nodes that answer as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from capamesh.protocol.adverts import (
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
)
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    decode_call,
    encode_answer,
)
from capamesh.protocol.links.link import Answer
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec
from capamesh.router.candidates import Candidate

SPEC = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
OUT = (TensorSpec("y", Datatype.FP32, (-1, 2)),)


class NullLog:
    """Takes every event and keeps the names."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def _take(self, event: str, **_: object) -> None:
        self.events.append(event)

    debug = info = warning = error = exception = _take

    def bind(self, **_: object) -> NullLog:
        return self


def offer(
    name: str = "m", version: str = "1", state: ModelState = ModelState.READY, reason: str = ""
) -> ModelOffer:
    return ModelOffer(
        ModelName(name), ModelVersion(version), "sha256:" + "0" * 64, state, reason, SPEC, OUT
    )


def device(index: int = 0, *addresses: str) -> Device:
    return Device(index, "cpu", "cpu", "CPUExecutionProvider", 100, 50, addresses)


def advert(
    peer: str,
    *addresses: str,
    models: Sequence[ModelOffer] = (offer(),),
    is_draining: bool = False,
    counter: int = 1,
) -> NodeAdvert:
    return NodeAdvert(
        peer=PeerId(peer),
        sequence=AdvertSequence(1, counter),
        devices=(device(0, *addresses),),
        models=tuple(models),
        region="eu",
        price_per_million=1.5,
        agent_version="0.1",
        is_draining=is_draining,
    )


def fp32(name: str, *rows: Sequence[float]) -> Tensor:
    return Tensor.from_numpy(name, np.array(rows, np.float32))


def call(model: str = "m", version: str = "", *outputs: str) -> InferCall:
    return InferCall(ModelName(model), ModelVersion(version), (fp32("x", [1, 2]),), outputs)


Reply = Callable[[InferCall, int | None], Awaitable[Answer]]


def answer_of(version: str, *outputs: Tensor, load: LoadReport | None = None) -> Answer:
    given = InferAnswer(ModelVersion(version), outputs, 3, 4, load or LoadReport(1, 0, 8, 9, 10, 0))
    meta, body = encode_answer(given)
    return Answer(meta, memoryview(b"".join(body)))


async def echo(asked: InferCall, _: int | None) -> Answer:
    """Answer with the first input as `y`."""
    first = asked.inputs[0]
    return answer_of("1", Tensor("y", first.datatype, first.shape, first.data))


def failing(error: BaseException) -> Reply:
    async def reply(_: InferCall, __: int | None) -> Answer:
        raise error

    return reply


def garbage(meta: bytes = b"\xc1", body: bytes = b"") -> Reply:
    async def reply(_: InferCall, __: int | None) -> Answer:
        return Answer(meta, memoryview(body))

    return reply


class FakeLink:
    """A node's link: takes a reply from its script for each request, the last one for ever."""

    def __init__(self, *script: Reply, limits: Limits | None = None) -> None:
        self._script = list(script) or [echo]
        self._limits = limits or Limits()
        self.is_usable = True
        self.calls: list[InferCall] = []
        self.budgets_ms: list[int | None] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def request(self, meta: bytes, body: Sequence[Any] = ()) -> Answer:
        asked, budget_ms = decode_call(meta, memoryview(b"".join(body)), self._limits)
        self.calls.append(asked)
        self.budgets_ms.append(budget_ms)
        self.asked.set()
        reply = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        try:
            return await reply(asked, budget_ms)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def hang(_: InferCall, __: int | None) -> Answer:
    """Never answer."""
    return await asyncio.get_running_loop().create_future()


def linked(candidate: Candidate, *script: Reply) -> FakeLink:
    """Give a candidate a link and return it."""
    link = FakeLink(*script)
    candidate.link = link  # type: ignore[assignment]
    return link
