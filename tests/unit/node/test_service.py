from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from fleet_fakes import NullLog, call, fp32

from capamesh.node.store import Manifest, ModelSource
from capamesh.node.worker.models import HostedModel
from capamesh.node.worker.run_loop import RunLoop
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    NotMember,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    decode_answer,
    decode_load,
    encode_call,
)
from capamesh.protocol.links.endpoint import MAX_LINKS_OF_PEER
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.network import Member, Membership, NetworkOwner, NetworkTrust, Role
from capamesh.protocol.tensors import Limits, Tensor

NOW = dt.datetime.now(dt.UTC)
OWNER = NetworkOwner.create("test", NOW)


class Model:
    """Answers `y` from `x`, once its gate is open; refuses more than one input."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.ran = 0
        self.result: object = None

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        if len(inputs) != 1 or outputs not in {(), ("y",)}:
            raise InvalidRequest(f"{len(inputs)} inputs; the model takes x alone")

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> object:
        self.started.set()
        assert self.gate.wait(10)
        self.ran += 1
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result if self.result is not None else [fp32("y", [1.0, 2.0])]


class Models:
    """One model, `m` version 3, and one that is known but not ready."""

    def __init__(self, model: Model, max_in_flight: int) -> None:
        source = ModelSource(
            ModelName("m"), ModelVersion("3"), Path("model.onnx"), "", 0, Manifest()
        )
        self.hosted = HostedModel(source, model, max_in_flight)  # type: ignore[arg-type]

    def find(self, model: str, version: str) -> HostedModel | None:
        return self.hosted if model == "m" and version in {"", "3"} else None

    def is_known(self, model: str, version: str) -> bool:
        return model in {"m", "loading"} and version in {"", "3"}

    def describe(self) -> str:
        return "m/3"


class FakeLink:
    """A router's link as the service sees it. As the core does, it forgets a stream once answered."""

    def __init__(self) -> None:
        self.member = None
        self.is_quiet = True
        self.answers: dict[int, InferAnswer | CapameshError] = {}
        self.goaways: list[str] = []
        self.closed: list[str] = []
        self.membership_error: NotMember | None = None
        self.answered = asyncio.Event()

    def respond(self, stream: int, meta: bytes, body: Sequence[bytes]) -> bool:
        assert stream not in self.answers
        self.answers[stream] = decode_answer(meta, memoryview(b"".join(body)), Limits())
        self.answered.set()
        return True

    def fail(self, stream: int, error: CapameshError) -> bool:
        assert stream not in self.answers
        self.answers[stream] = error
        self.answered.set()
        return True

    def goaway(self, reason: str) -> None:
        self.goaways.append(reason)

    def close(self, reason: str) -> None:
        self.closed.append(reason)

    def recheck(self) -> None:
        if self.membership_error is not None:
            raise self.membership_error


class Rig:
    def __init__(self, *, max_queued: int = 8, max_in_flight: int = 8) -> None:
        self.now_s = 50.0
        self.model = Model()
        self.models = Models(self.model, max_in_flight)
        self.run_loop = RunLoop(lambda: self.now_s, max_queued)
        self.log = NullLog()
        self.service = WorkerService(
            self.models,  # type: ignore[arg-type]
            self.run_loop,
            NetworkTrust(OWNER.ca_der),
            clock=lambda: self.now_s,
            limits=Limits(),
            log=self.log,  # type: ignore[arg-type]
        )
        self.link = self.add_link()

    def add_link(self) -> FakeLink:
        link = FakeLink()
        self.service.link_up(link)  # type: ignore[arg-type]
        return link

    def ask(
        self,
        stream: int = 1,
        asked: InferCall | None = None,
        budget_ms: int | None = None,
        *,
        link: FakeLink | None = None,
    ) -> None:
        meta, body = encode_call(asked or call(), budget_ms)
        self.receive(stream, meta, b"".join(body), link)

    def receive(
        self, stream: int, meta: bytes, body: bytes = b"", link: FakeLink | None = None
    ) -> None:
        self.service.request_received(link or self.link, stream, meta, memoryview(body))  # type: ignore[arg-type]

    def cancel(self, stream: int) -> None:
        self.service.request_cancelled(self.link, stream)  # type: ignore[arg-type]

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            await self.run_loop.wait_idle()
        assert self.models.hosted.in_flight == 0
        assert self.run_loop.in_flight == 0
        assert repr(self.service).endswith(", 0 jobs)")

    async def hold(self) -> None:
        """Ask once on a link of its own, and wait until that runs."""
        self.model.gate.clear()
        self.ask(99, link=self.add_link())
        await asyncio.to_thread(self.model.started.wait, 10)

    def refusal(self, stream: int = 1) -> CapameshError:
        answer = self.link.answers[stream]
        assert isinstance(answer, CapameshError)
        return answer


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.model.gate.set()
    rig.run_loop.close()
    rig.run_loop._thread.join(10)


async def test_a_call_is_answered_with_outputs_times_and_load(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1)
    assert not rig.service.is_quiet
    rig.now_s = 50.25
    rig.model.gate.set()
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert answer.version == "3"
    assert answer.outputs == (fp32("y", [1.0, 2.0]),)
    assert (answer.queue_us, answer.run_us) == (250_000, 0)
    assert (answer.load.limit, answer.load.queued) == (8, 0)
    assert rig.service.is_quiet


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (call("x"), ModelUnavailable, "model 'x' version 'any' is not hosted on this node"),
        (call("m", "4"), ModelUnavailable, "model 'm' version '4' is not hosted on this node"),
        (call("loading"), ModelUnavailable, "'any' is not ready on this node, which has m/3"),
        (call("m", "", "z"), InvalidRequest, "the model takes x alone"),
    ],
)
async def test_a_call_that_cannot_be_run_is_refused_at_once(
    rig: Rig, asked: InferCall, kind: type[CapameshError], message: str
) -> None:
    rig.ask(1, asked)
    refusal = rig.refusal()
    assert type(refusal) is kind
    assert message in refusal.message
    await rig.idle()
    assert rig.model.ran == 0


@pytest.mark.parametrize("meta", [b"", b"\xc1", b"\x90", b"\x80", b"\x81\xa1m" + b"\x91" * 1000])
async def test_junk_is_an_invalid_request(rig: Rig, meta: bytes) -> None:
    rig.receive(1, meta)
    assert type(rig.refusal()) is InvalidRequest


@pytest.mark.parametrize("budget_ms", [0, -5, -(2**63)])
async def test_a_call_that_comes_too_late_is_not_queued(rig: Rig, budget_ms: int) -> None:
    rig.ask(1, budget_ms=budget_ms)
    assert type(rig.refusal()) is DeadlineExceeded
    await rig.idle()
    assert rig.model.ran == 0


async def test_a_call_that_becomes_too_late_while_it_waits_is_not_run(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1, budget_ms=1000)
    rig.ask(2, budget_ms=1001)
    rig.ask(3, budget_ms=2**64 - 1)
    rig.now_s = 51.0
    rig.model.gate.set()
    await rig.idle()
    assert type(rig.refusal(1)) is DeadlineExceeded
    assert isinstance(rig.link.answers[2], InferAnswer)
    assert isinstance(rig.link.answers[3], InferAnswer)
    assert rig.model.ran == 3


async def test_the_worker_s_and_the_model_s_limits_refuse_what_is_over_them() -> None:
    for limits in ({"max_queued": 2}, {"max_in_flight": 2}):
        rig = Rig(**limits)
        await rig.hold()
        rig.ask(1)
        rig.ask(2)
        assert type(rig.refusal(2)) is Overloaded
        assert rig.models.hosted.in_flight == 2
        rig.model.gate.set()
        await rig.idle()
        assert isinstance(rig.link.answers[1], InferAnswer)
        rig.ask(3)
        await rig.idle()
        assert isinstance(rig.link.answers[3], InferAnswer)
        rig.run_loop.close()


async def test_a_cancelled_call_is_neither_run_nor_answered(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1)
    rig.ask(2)
    rig.cancel(1)
    rig.cancel(1)
    rig.cancel(77)
    rig.model.gate.set()
    await rig.idle()
    assert list(rig.link.answers) == [2]
    assert rig.model.ran == 2


async def test_a_stream_used_again_after_a_cancel_gets_its_own_answer(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1)
    rig.cancel(1)
    rig.ask(1)
    rig.model.gate.set()
    await rig.idle()
    assert isinstance(rig.link.answers[1], InferAnswer)
    assert rig.model.ran == 2


async def test_what_a_lost_link_asked_for_is_dropped_and_other_links_go_on(rig: Rig) -> None:
    await rig.hold()
    other = rig.add_link()
    rig.ask(1)
    rig.ask(1, link=other)
    rig.service.link_down(rig.link, "gone")  # type: ignore[arg-type]
    rig.model.gate.set()
    await rig.idle()
    assert rig.link.answers == {}
    assert isinstance(other.answers[1], InferAnswer)
    assert rig.model.ran == 2
    assert repr(rig.service) == "WorkerService(2 links, 0 jobs)"


@pytest.mark.parametrize("result", [ValueError("odd"), SystemExit(1), MemoryError()])
async def test_a_run_that_fails_is_told_and_the_next_one_runs(
    rig: Rig, result: BaseException
) -> None:
    rig.model.result = result
    rig.ask(1)
    await rig.idle()
    assert type(rig.refusal()) is RunFailed
    rig.model.result = None
    rig.ask(2)
    await rig.idle()
    assert isinstance(rig.link.answers[2], InferAnswer)


async def test_the_load_tells_what_waits_and_what_runs(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1)
    rig.ask(2)
    load = decode_load(rig.service.load(b""))
    assert (load.in_flight, load.queued, load.limit) == (3, 2, 8)
    rig.model.gate.set()
    await rig.idle()
    assert decode_load(rig.service.load(b"")).in_flight == 0


async def test_draining_asks_every_peer_those_that_come_later_too_and_still_answers(
    rig: Rig,
) -> None:
    rig.service.drain()
    late = rig.add_link()
    assert rig.link.goaways == late.goaways == ["draining"]
    rig.ask(1)
    await rig.idle()
    assert isinstance(rig.link.answers[1], InferAnswer)


async def test_quiet_means_no_job_and_every_link_quiet(rig: Rig) -> None:
    assert rig.service.is_quiet
    rig.link.is_quiet = False
    assert not rig.service.is_quiet


async def test_a_recheck_ends_the_links_of_those_who_are_no_members_any_more(rig: Rig) -> None:
    other = rig.add_link()
    other.membership_error = NotMember("revoked peer")
    rig.service.recheck_members()
    assert rig.link.closed == []
    assert other.closed == ["not_member: revoked peer"]
    rig.service.close("the node is stopping")
    assert rig.link.closed == ["the node is stopping"]


@pytest.mark.parametrize("role", [Role.ROUTER, Role.NODE])
async def test_only_routers_may_ask(rig: Rig, role: Role) -> None:
    token = OWNER.invite(role, expires_at=NOW + dt.timedelta(days=1), bootstrap=(), now=NOW)
    member = Membership.join(Identity.generate(), token, NOW)
    hello = Hello(member.network_id, member.chain, "test", 1, 1)
    if role is Role.ROUTER:
        assert rig.service.verify(hello, member.chain[0]).peer_id == member.identity.peer_id
        with pytest.raises(NotMember, match="not the one of the TLS connection"):
            rig.service.verify(hello, member.chain[1])
    else:
        with pytest.raises(NotMember, match="role"):
            rig.service.verify(hello, member.chain[0])


async def test_a_router_has_a_limited_number_of_links_and_another_router_is_not_affected(
    rig: Rig,
) -> None:
    def of(peer: str) -> FakeLink:
        link = FakeLink()
        link.member = Member(PeerId(peer), Role.ROUTER, "0" * 40, NOW)  # type: ignore[assignment]
        rig.service.link_up(link)  # type: ignore[arg-type]
        return link

    kept = [of("busy") for _ in range(MAX_LINKS_OF_PEER)]
    assert [link.closed for link in kept] == [[]] * MAX_LINKS_OF_PEER
    assert of("busy").closed == ["16 links of this peer are open, the limit; close one first"]
    assert of("other").closed == []
    rig.service.link_down(kept[0], "gone")  # type: ignore[arg-type]
    assert of("busy").closed == []


async def test_an_answer_that_has_no_wire_form_is_an_error_and_not_silence(rig: Rig) -> None:
    rig.model.result = [object()]
    rig.ask(1)
    await rig.idle()
    assert isinstance(rig.refusal(), RunFailed)
