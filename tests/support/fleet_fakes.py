"""Adverts in few words, links to nodes that answer as a test says, and a router's core between them."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import virtual_time
from awaited_calls import outcome_of

from capamesh.node.contract.messages import DeviceOffer
from capamesh.protocol.adverts import (
    Device,
    ModelOffer,
    ModelState,
    NodeAdvert,
)
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.errors import CapameshError, LinkLost, ModelUnavailable
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import (
    ControlCall,
    InferAnswer,
    InferCall,
    LoadReport,
    decode_call,
    decode_probe,
    encode_answer,
    encode_load,
)
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import LoadHandler, PartsHandler, ResponseHandler
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec
from capamesh.router.balancing.served_model import ServedModel
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.fleet.view import FleetView
from capamesh.router.ownership.owners import Owners
from capamesh.router.policies import IsEligible, Policy, RequestShape, make_policy
from capamesh.router.policies.policy import MayBeProbed, PolicyBase
from capamesh.router.process.request_parts import RequestParts
from capamesh.router.requests.call import Call, Outcome, RoutingOptions
from capamesh.router.rules.model_rules import DEFAULT_POLICY, NO_RULES, ModelRules, RoutingRules
from capamesh.router.telemetry import Telemetry

T = TypeVar("T")
SPEC = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
OUT = (TensorSpec("y", Datatype.FP32, (-1, 2)),)


class NullLog:
    """Takes every event: keeps its name, and in `told` its values, too."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.warnings: list[tuple[str, dict[str, Any]]] = []

    def _take(self, event: str, **values: Any) -> None:
        self.events.append(event)
        self.told.append((event, values))

    debug = info = error = exception = _take

    def warning(self, event: str, **values: Any) -> None:
        self._take(event, **values)
        self.warnings.append((event, values))

    def bind(self, **_: object) -> NullLog:
        return self

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for name, values in self.told if name == event]


def offer(
    name: str = "m",
    version: str = "1",
    state: ModelState = ModelState.READY,
    reason: str = "",
    **more: Any,
) -> ModelOffer:
    known = ModelName(name), ModelVersion(version), "sha256-chunks:" + "0" * 64
    return ModelOffer(*known, state, reason, SPEC, OUT, **more)


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


def device_offer(*addresses: str, models: Sequence[ModelOffer] = (offer(),)) -> DeviceOffer:
    """Return what the worker of a node's only device offers."""
    return DeviceOffer(device(0, *addresses), tuple(models))


def fp32(name: str, *rows: Sequence[float]) -> Tensor:
    return Tensor.from_numpy(name, np.array(rows, np.float32))


def call(model: str = "m", version: str = "", *outputs: str) -> InferCall:
    return InferCall(ModelName(model), ModelVersion(version), (fp32("x", [1, 2]),), outputs)


Reply = Callable[["Ask"], None]
"""What a node does about a request: called when it is sent, to act in a later turn of the loop."""
LoadReply = Callable[["LoadAsk"], None]


def answer_of(version: str, *outputs: Tensor, load: LoadReport | None = None) -> Answer:
    given = InferAnswer(ModelVersion(version), outputs, 3, 4, load or LoadReport(1, 0, 8, 9, 10, 0))
    meta, body = encode_answer(given)
    return Answer(meta, memoryview(b"".join(body)))


def echo_of(asked: InferCall, load: LoadReport | None = None) -> Answer:
    """Return the first input as `y`."""
    first = asked.inputs[0]
    output = Tensor("y", first.datatype, first.shape, first.data)
    return answer_of(asked.version or "1", output, load=load)


def echo(ask: Ask) -> None:
    asyncio.get_running_loop().call_soon(lambda: ask.answer(echo_of(ask.call)))


def hang(_: object) -> None:
    """Never answer."""


def failing(error: CapameshError) -> Reply:
    return lambda ask: _soon(lambda: ask.fail(error))


def garbage(meta: bytes = b"\xc1", body: bytes = b"") -> Reply:
    return answering(Answer(meta, memoryview(body)))


def answering(answer: Answer) -> Reply:
    return lambda ask: _soon(lambda: ask.answer(answer))


def after(seconds: float, reply: Reply) -> Reply:
    def later(ask: Ask) -> None:
        asyncio.get_running_loop().call_later(seconds, reply, ask)

    return later


def parting(parts: int, *, rows: int = 1, end: CapameshError | None = None) -> Reply:
    """Answer in so many parts, 1, 2, …, each once the one before is released; `end` comes in the place of the last."""

    def reply(ask: Ask) -> None:
        sent = 0

        def send() -> None:
            nonlocal sent
            sent += 1
            answer = answer_of(ask.call.version or "1", fp32("y", *[[sent, sent]] * rows))
            if sent < parts:
                ask.part(answer)
            elif end is not None:
                ask.fail(end)
            else:
                ask.answer(answer)

        ask.link.on_release[ask.stream] = send
        _soon(send)

    return reply


def telling(load: LoadReport) -> LoadReply:
    return lambda ask: _soon(lambda: ask.tell(encode_load(load)))


def _soon(act: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(act)


class _Asked:
    """What was asked of a node on a stream; `ended` says how it ended. What tells the asker says False where that is over."""

    def __init__(self, askers: dict[int, Any], stream: int) -> None:
        self._askers = askers
        self.stream = stream
        self.ended = ""

    def fail(self, error: CapameshError) -> bool:
        return self._end("failed", lambda asker: asker.failed(error))

    def lose(self, error: LinkLost) -> None:
        self._end("lost", lambda asker: asker.failed(error))

    def _end(self, how: str, tell: Callable[[Any], None]) -> bool:
        asker = self._askers.pop(self.stream, None)
        if asker is not None:
            self.ended = how
            tell(asker)
        return asker is not None


class Ask(_Asked):
    """One request at a link, for the test to answer."""

    def __init__(
        self, link: FakeLink, stream: int, asked: InferCall, budget_ms: int | None
    ) -> None:
        super().__init__(link.waiting, stream)
        self.link = link
        self.call, self.budget_ms = asked, budget_ms

    def answer(self, answer: Answer) -> bool:
        return self._end("answered", lambda asker: asker.answered(answer))

    def part(self, answer: Answer) -> bool:
        asker = self._askers.get(self.stream)
        if asker is not None:
            assert isinstance(asker, PartsHandler)
            asker.part_answered(answer)
        return asker is not None

    def echo(self, load: LoadReport | None = None) -> bool:
        return self.answer(echo_of(self.call, load))


class LoadAsk(_Asked):
    def __init__(self, link: FakeLink, stream: int, meta: bytes) -> None:
        super().__init__(link.probing, stream)
        self.link = link
        self.model, self.version = decode_probe(meta)

    def tell(self, meta: bytes) -> bool:
        return self._end("told", lambda asker: asker.reported(meta))


class FakeLink:
    """A node's link: takes a reply from its script for each request, the last one for ever.

    It tells its askers as `Link` does: each once, in the turn in which it is told itself, unless withdrawn.
    """

    def __init__(self, *script: Reply, endpoint: Endpoint | None = None) -> None:
        self._script = list(script) or [echo]
        self.endpoint = endpoint
        self._streams = 0
        self._end_reason = ""
        self.is_usable = True
        self.peer_process = b"the same"
        self.refusal: CapameshError | None = None
        """What `ask` and `ask_load` raise."""
        self.waiting: dict[int, ResponseHandler] = {}
        self.probing: dict[int, LoadHandler] = {}
        self.asks: list[Ask] = []
        self.probes: list[LoadAsk] = []
        self.withdrawn: list[int] = []
        self.released: list[Answer] = []
        self.on_release: dict[int, Callable[[], None]] = {}
        """What a node does when a part of the answer on a stream is released."""
        self.load_reply: LoadReply = hang
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    @property
    def calls(self) -> list[InferCall]:
        return [ask.call for ask in self.asks]

    @property
    def budgets_ms(self) -> list[int | None]:
        return [ask.budget_ms for ask in self.asks]

    def ask(self, meta: bytes, body: Sequence[Any], asker: ResponseHandler) -> int:
        stream = self._open()
        asked, budget_ms = decode_call(meta, memoryview(b"".join(body)), Limits())
        if isinstance(asked, ControlCall):
            _soon(lambda: asker.failed(ModelUnavailable("it loads nothing")))
            return stream
        ask = Ask(self, stream, asked, budget_ms)
        self.asks.append(ask)
        self.waiting[stream] = asker
        self.asked.set()
        reply = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        reply(ask)
        return stream

    def withdraw(self, stream: int) -> None:
        if self.waiting.pop(stream, None) is not None:
            self.withdrawn.append(stream)
            self.cancelled.set()
            next(ask for ask in self.asks if ask.stream == stream).ended = "withdrawn"

    def release(self, stream: int, part: Answer) -> None:
        self.released.append(part)
        if stream in self.on_release:
            _soon(self.on_release[stream])

    def ask_load(self, meta: bytes, asker: LoadHandler) -> int:
        stream = self._open()
        probe = LoadAsk(self, stream, meta)
        self.probes.append(probe)
        self.probing[stream] = asker
        self.load_reply(probe)
        return stream

    def withdraw_load(self, stream: int) -> None:
        if self.probing.pop(stream, None) is not None:
            self.withdrawn.append(stream)
            self.cancelled.set()

    def end(self, reason: str = "the peer closed it", *, is_sudden: bool = False) -> None:
        """The link ends: all who wait are told, and only then its owner is. `is_sudden`: as when the process does."""
        if self._end_reason:
            return
        self._end_reason = reason
        self.is_usable = False
        for ask in [*self.asks, *self.probes]:
            error = LinkLost(f"the link ended: {reason}")
            error.is_sudden = is_sudden
            ask.lose(error)
        if self.endpoint is not None and self.endpoint.link is self:  # type: ignore[comparison-overlap]
            self.endpoint.link = None

    def _open(self) -> int:
        if self._end_reason:
            raise LinkLost(f"the link has ended: {self._end_reason}")
        if self.refusal is not None:
            raise self.refusal
        self._streams += 2
        return self._streams


def linked(endpoint: Endpoint, *script: Reply) -> FakeLink:
    link = FakeLink(*script, endpoint=endpoint)
    endpoint.link = link  # type: ignore[assignment]
    endpoint.process = endpoint.process or link.peer_process
    return link


class InOrder(PolicyBase):
    """Picks the first eligible replica, keeps what it was asked for, and probes whom the test names."""

    name: ClassVar[str] = "in-order"

    def __init__(self) -> None:
        super().__init__(random.Random(0))
        self.shapes: list[RequestShape] = []
        self.wanted: list[Replica] = []

    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del now_s
        self.shapes.append(request)
        return next((replica for replica in replicas if is_eligible(replica)), None)

    def probes(
        self, replicas: Sequence[Replica], may_be_probed: MayBeProbed, now_s: float
    ) -> Sequence[Replica]:
        del replicas, may_be_probed, now_s
        return self.wanted


class Nodes:
    """Nodes A, B, … at links of a test's making, in the view of a router's core."""

    def __init__(
        self,
        view: FleetView,
        core: RequestParts,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        policies: dict[str, Policy],
        owners: Owners | None = None,
    ) -> None:
        self.view = view
        self.telemetry = telemetry
        self.clock = clock
        self.policies = policies
        self.owners = owners
        self.balancer, self.prober, self.routing = core.balancer, core.prober, core.routing
        self.dispatch = core.dispatch
        self.links: list[FakeLink] = []

    @property
    def endpoints(self) -> list[Endpoint]:
        return list(self.view.endpoints())

    def node(
        self,
        peer: str,
        *script: Reply,
        models: Sequence[ModelOffer] = (offer(),),
        invite: str = "",
    ) -> FakeLink:
        self.hear(advert(peer, f"{peer.lower()}:1", models=models), invite)
        self.links.append(linked(self.endpoints[-1], *script))
        return self.links[-1]

    def hear(self, joined: NodeAdvert, invite: str = "") -> None:
        judged = self.owners.heard(joined, invite, self.clock()) if self.owners else None
        self.view.apply([Joined(joined)])
        if judged is not None:
            self.view.judge_anew(judged)

    def relink(self, at: int, *script: Reply) -> FakeLink:
        """Give a node a new link; who waits for one is told in this call."""
        endpoint = self.endpoints[at]
        self.links.append(linked(endpoint, *script))
        self.balancer.linked(endpoint, self.clock())
        return self.links[-1]

    def infer(
        self, asked: InferCall, options: RoutingOptions, deadline_s: float
    ) -> Coroutine[Any, Any, Outcome]:
        """Send a request on its way and return what came of it."""
        asked_for = Call(asked, options, deadline_s)
        return outcome_of(lambda responder: self.routing.pipeline.start(asked_for, responder))

    def served(self, version: str = "1") -> ServedModel:
        return self.balancer.served(ModelName("m"), ModelVersion(version))

    @property
    def replicas(self) -> list[Replica]:
        return [replica for each in self.endpoints for replica in self.view.replicas_at(each)]

    @property
    def in_order(self) -> InOrder:
        policy = self.policies[InOrder.name]
        assert isinstance(policy, InOrder)
        return policy

    @property
    def asked(self) -> list[int]:
        return [len(link.asks) for link in self.links]

    @property
    def counts(self) -> dict[str, int]:
        """Whatever counts requests or probes that are under way, unless it is 0."""
        counts = {
            "hosts": sum(abs(replica.rif) for replica in self.replicas),
            "candidates": sum(abs(endpoint.rif) for endpoint in self.endpoints),
            "links": sum(len(link.waiting) + len(link.probing) for link in self.links),
            "gates": abs(self.balancer.under_way),
            "waiting": len(self.balancer.links),
            "probes": len(self.prober._under_way),
        }
        return {name: count for name, count in counts.items() if count}


class PolicyMaker:
    """Makes policies, `in-order` among them, and keeps the last of each name."""

    def __init__(self) -> None:
        self.made: dict[str, Policy] = {}

    def __call__(self, name: str, rng: random.Random) -> Policy:
        self.made[name] = InOrder() if name == InOrder.name else make_policy(name, rng)
        return self.made[name]


def with_policy(rules: RoutingRules, policy: str) -> RoutingRules:
    def filled(of_model: ModelRules) -> ModelRules:
        return replace(of_model, policy=policy) if of_model.policy == DEFAULT_POLICY else of_model

    models = {name: filled(of_model) for name, of_model in rules.models.items()}
    return RoutingRules(filled(rules.every), models)


class Fleet(Nodes):
    """A router's core alone, on the running loop's clock, and nodes A, B, … that replicate m and follow the scripts."""

    def __init__(
        self,
        *scripts: Sequence[Reply],
        policy: str = InOrder.name,
        rules: RoutingRules | None = None,
        limits: Limits | None = None,
        owners: Owners | None = None,
        invites: Mapping[str, str] | None = None,
        seed: int = 0,
        rng: random.Random | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.policy = policy
        policies = PolicyMaker()
        view = FleetView(on_new=lambda _: None, on_gone=lambda _: None, owners=owners)
        telemetry = Telemetry()
        self.core = RequestParts(
            view,
            with_policy(rules or NO_RULES, policy),
            clock=loop.time,
            timers=loop,
            rng=rng or random.Random(seed),
            counts=telemetry,
            do=lambda _, turn: turn(),
            on_verdict=lambda _: None,
            limits=limits or Limits(),
            invite_of=lambda peer: (invites or {}).get(peer, ""),
            make_policy=policies,
        )
        super().__init__(
            view, self.core, telemetry, clock=loop.time, policies=policies.made, owners=owners
        )
        for peer, script in zip("ABCDEFGHIJ", scripts, strict=False):
            self.node(peer, *script)

    def take_rules(self, rules: RoutingRules) -> None:
        """Go by other rules, as a router that reads them anew does."""
        self.core.take_rules(with_policy(rules, self.policy))


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Make a test of a scenario in which no time passes but that of timers."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> T:
        return virtual_time.run(test(*arguments, **named))

    return run
