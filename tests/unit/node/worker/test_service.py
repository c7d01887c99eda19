"""A worker's service: calls on links that a test plays, over a registry with one model."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from fleet_fakes import NullLog, call, fp32
from worker_fakes import (
    LIMIT_S,
    LONG,
    SHORT,
    FakeClock,
    FakeModel,
    FakeSwitch,
    engine_of,
    source_of,
)

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.lifecycle import Changed
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelUnavailable,
    NotMember,
    Overloaded,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import (
    ControlAction,
    ControlCall,
    InferAnswer,
    InferCall,
    LoadReport,
    decode_answer,
    decode_load,
    encode_call,
    encode_control,
    encode_done,
    encode_probe,
)
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.links.transport import MAX_LINKS_OF_PEER
from capamesh.protocol.network import Member, Membership, NetworkOwner, NetworkTrust, Role
from capamesh.protocol.tensors import Datatype, Limits, Tensor

pytestmark = pytest.mark.pure

NOW = dt.datetime.now(dt.UTC)
OWNER = NetworkOwner.create("test", NOW)
LOAD = ControlCall(ControlAction.LOAD, ModelName("m"), ModelVersion("3"))
UNLOAD = ControlCall(ControlAction.UNLOAD, ModelName("m"), ModelVersion(""))


class FakeLink:
    """A router's link as the service sees it. As the core does, it forgets a stream once answered."""

    def __init__(self, peer: str = "") -> None:
        self.member = Member(PeerId(peer), Role.ROUTER, "0" * 40, NOW, NOW) if peer else None
        self.is_quiet = True
        self.answers: dict[int, InferAnswer | CapameshError | None] = {}
        """None: a change that was made."""
        self.goaways: list[str] = []
        self.closed: list[str] = []
        self.goaway, self.close = self.goaways.append, self.closed.append
        self.recheck: Callable[[], None] = lambda: None
        self._answered = asyncio.Event()

    def respond(self, stream: int, meta: bytes, body: Sequence[bytes]) -> bool:
        is_done = meta == encode_done()
        whole = memoryview(b"".join(body))
        return self._answer(stream, None if is_done else decode_answer(meta, whole, Limits()))

    def fail(self, stream: int, error: CapameshError) -> bool:
        return self._answer(stream, error)

    def _answer(self, stream: int, answer: InferAnswer | CapameshError | None) -> bool:
        assert stream not in self.answers
        self.answers[stream] = answer
        self._answered.set()
        return True

    async def refused(self, stream: int = 1) -> CapameshError:
        """Wait for the error on `stream`."""
        async with asyncio.timeout(LIMIT_S):
            while stream not in self.answers:
                self._answered.clear()
                await self._answered.wait()
        answer = self.answers[stream]
        assert isinstance(answer, CapameshError)
        return answer

    def infer(self, stream: int = 1) -> InferAnswer:
        answer = self.answers[stream]
        assert isinstance(answer, InferAnswer), answer
        return answer


class Rig:
    """A service with one model, `m` version 3, and one that is known but not ready."""

    def __init__(self, bulk_refused_s: float = 0.0, **batcher: Any) -> None:
        self.clock = FakeClock(50.0)
        self.models = ModelRegistry()
        self.models.say((ModelName("loading"), ModelVersion("3")), ModelState.LOADING)
        self.model, self.runner = self.host("m", "3", **batcher)
        self.asked: list[tuple[ControlCall, Changed]] = []
        self.control_error: CapameshError | None = None
        self.service = WorkerService(
            self.models,
            NetworkTrust(OWNER.ca_der),
            control=self._control,
            clock=self.clock,
            later=lambda *_: None,
            limits=Limits(),
            log=NullLog(),
            bulk_refused_s=bulk_refused_s,
        )
        self.link = self.add_link()

    def host(self, name: str, version: str, **batcher: Any) -> tuple[FakeModel, ModelRunner]:
        model = FakeModel()
        made = engine_of(model, **{"profile": LONG, **batcher})
        runner = ModelRunner(
            model,
            made,
            may_run_here=True,
            clock=self.clock,
            switch=FakeSwitch,
            marks=InFlightJournal(None),
            number=1,
            watchdog_s=60.0,
            on_stuck=pytest.fail,
        )
        measured = Measured(None, 12_345, is_batching=True)
        result = LoadResult(model, made.plan, measured)
        self.models.ready(HostedModel(source_of(name, version), result, runner))
        return model, runner

    def _control(self, asked: ControlCall, done: Changed) -> None:
        if self.control_error is not None:
            raise self.control_error
        self.asked.append((asked, done))

    def add_link(self, peer: str = "") -> FakeLink:
        link = FakeLink(peer)
        self.service.link_up(link)
        return link

    def ask(
        self, stream: int = 1, asked: InferCall | None = None, *, link: FakeLink | None = None
    ) -> None:
        meta, body = encode_call(asked or call(), None)
        self.receive(stream, meta, b"".join(body), link)

    def receive(
        self, stream: int, meta: bytes, body: bytes = b"", link: FakeLink | None = None
    ) -> None:
        to = link or self.link
        self.service.request_received(to, stream, meta, memoryview(body))
        # what is received in one turn of the loop stands for what came in one read
        asyncio.get_running_loop().call_soon(self.service.read_ended, to)

    def probe(self, model: str = "", version: str = "") -> LoadReport:
        meta = encode_probe(ModelName(model), ModelVersion(version)) if model else b""
        return decode_load(self.service.load(meta))

    async def hold(self, stream: int = 99) -> FakeLink:
        """Ask once on a link of its own, and wait until that runs."""
        self.model.gate.clear()
        link = self.add_link()
        self.ask(stream, link=link)
        await asyncio.to_thread(self.model.wait_started)
        return link

    async def idle(self) -> None:
        """Let everything run to its end."""
        self.open_gates()
        for hosted in self.models:
            async with asyncio.timeout(LIMIT_S):
                await hosted.runner.wait_idle()
        assert repr(self.service).endswith(", 0 requests)")

    async def answer(self, stream: int = 1, asked: InferCall | None = None) -> InferAnswer:
        """Ask, let everything run to its end, and return the answer, which is no error."""
        self.ask(stream, asked)
        await self.idle()
        return self.link.infer(stream)

    def open_gates(self) -> None:
        for hosted in self.models:
            assert isinstance(hosted.prepared.loaded, FakeModel)
            hosted.prepared.loaded.gate.set()

    def close(self) -> None:
        self.open_gates()
        for hosted in self.models:
            hosted.runner.close()
            for thread in hosted.runner._threads:
                thread.join(LIMIT_S)
                assert not thread.is_alive()


Make = Callable[..., Rig]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """A function that makes rigs, whose threads must all have ended when the test has."""
    rigs: list[Rig] = []

    def made(**batcher: Any) -> Rig:
        rigs.append(Rig(**batcher))
        return rigs[-1]

    yield made
    for rig in rigs:
        rig.close()


@pytest.fixture
async def rig(make: Make) -> Rig:
    return make()


# calls


async def test_call_is_answered_with_outputs_times_and_load(rig: Rig) -> None:
    assert rig.service.is_quiet
    link = await rig.hold()
    rig.ask(1)
    assert not rig.service.is_quiet
    rig.clock.now_s = 50.25
    rig.service.free_bytes = 77
    await rig.idle()
    # nobody waits on the queue: the run before it ended at the same time, and nobody had waited for that
    load = LoadReport(
        limit=64,
        limit_rows=64,
        run_us=8_122_500,  # 10 s as profiled, then a run of 0.25 and one of 0
        free_bytes=77,
        latency_us=250_000,
    )
    outputs = (fp32("y", [2.0, 4.0]),)
    assert rig.link.infer() == InferAnswer(ModelVersion("3"), outputs, 250_000, 0, load)
    before = link.infer(99).load  # each batch tells the load after it
    assert (before.in_flight, before.device_in_flight) == (1, 1)
    assert rig.service.is_quiet
    rig.link.is_quiet = False
    assert not rig.service.is_quiet


async def test_calls_of_one_read_have_come_at_one_time_and_run_together(make: Make) -> None:
    rig = make(profile=SHORT)

    def act(_: list[float]) -> None:
        rig.clock.now_s += 0.125

    rig.model.act = act
    for stream in (1, 2, 3):
        rig.ask(stream, call().replace(inputs=(fp32("x", [stream, 0]),)))
        rig.clock.now_s += 1
    await rig.idle()
    for stream in (1, 2, 3):
        answer = rig.link.infer(stream)
        assert answer.outputs == (fp32("y", [2 * stream, 0]),)
        assert (answer.queue_us, answer.run_us) == (3_000_000, 125_000)
        assert (answer.load.in_flight, answer.load.device_in_flight) == (0, 0)
    assert (rig.model.ran, rig.runner._threads) == ([[1, 2, 3]], [])


async def test_worker_takes_no_bulk_call_for_as_long_as_it_was_told(make: Make) -> None:
    rig = make(bulk_refused_s=30.0)
    rig.ask(1, call().replace(is_bulk=True))
    refusal = await rig.link.refused()
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_s == 30.0
    assert refusal.message == (
        "bulk requests have ended this node's worker again and again; it takes none for 30 s more"
    )
    await rig.answer(2)
    rig.clock.now_s += 30.0
    await rig.answer(3, call().replace(is_bulk=True))


async def test_priority_bulk_sequence_and_the_mark_to_run_alone_reach_the_engine(rig: Rig) -> None:
    await rig.hold()
    asked = [(200, False, False), (0, True, False), (7, True, True)]
    for stream, (priority, is_bulk, is_alone) in enumerate(asked):
        mark = SequenceMark(stream, is_start=True)
        fields = {"priority": priority, "is_bulk": is_bulk, "is_alone": is_alone}
        rig.ask(stream, call().replace(sequence=mark, **fields))
    requests = [request for _, request in rig.service._requests.values()][1:]
    assert [(each.priority, each.is_bulk, each.is_alone) for each in requests] == asked
    assert [each.sequence.id for each in requests] == [0, 1, 2]
    await rig.idle()
    assert sorted(map(len, rig.model.ran)) == [1, 1, 2]


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (call("x"), ModelUnavailable, "model 'x' version 'any' is not hosted on this node"),
        (call("loading"), ModelUnavailable, "'any' is not ready on this node, which has m/3"),
        (call("m", "", "z"), InvalidRequest, "the model takes x alone"),
        (b"", InvalidRequest, ""),
        (b"\xc1", InvalidRequest, ""),
        (b"\x80", InvalidRequest, ""),
        (b"\x81\xa1m" + b"\x91" * 1000, InvalidRequest, ""),
    ],
)
async def test_call_that_cannot_be_run_is_refused_at_once(
    rig: Rig, asked: InferCall | bytes, kind: type[CapameshError], message: str
) -> None:
    if isinstance(asked, bytes):
        rig.receive(1, asked)
    else:
        rig.ask(1, asked)
    refusal = rig.link.answers[1]
    assert type(refusal) is kind
    assert message in refusal.message
    await rig.idle()
    assert rig.model.ran == []


def fail(error: BaseException) -> Any:
    raise error


MANY_TEXTS = Tensor("y", Datatype.BYTES, (2**20 + 1,), bytes(4 * (2**20 + 1)))


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda _: [MANY_TEXTS], TooLarge, "'y'"),
        (lambda _: [Tensor("y", Datatype.FP32, (0, 20_000, 20_000), b"")], TooLarge, "'y'"),
        (lambda _: [object()], RunFailed, "the answer has no wire form"),
        (lambda _: fail(ValueError("odd")), RunFailed, "ValueError: odd"),
        (lambda _: fail(SystemExit(1)), RunFailed, "SystemExit: 1"),
    ],
    ids=["texts", "empty", "no tensor", "error", "exit"],
)
async def test_run_without_an_answer_is_reported_and_the_next_one_runs(
    rig: Rig, act: Callable[[list[float]], object], kind: type[CapameshError], message: str
) -> None:
    rig.model.act = act
    rig.ask(1)
    refusal = await rig.link.refused()
    assert type(refusal) is kind
    assert message in refusal.message
    rig.model.act = lambda _: None
    await rig.answer(2)


async def test_request_that_breaks_harms_no_link(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.model, "validate", lambda *_: fail(MemoryError("no room")))
        rig.ask(1)
    refusal = await rig.link.refused()
    assert type(refusal) is RunFailed
    assert refusal.message == "the request could not be taken in: MemoryError('no room')"
    await rig.answer(2)


# loads and changes


async def test_probe_tells_of_one_model_or_of_all(rig: Rig) -> None:
    rig.service.free_bytes = 1_000
    other, _ = rig.host("n", "1")
    other.gate.clear()
    await rig.hold()
    for stream, model in ((1, "m"), (2, "m"), (3, "n")):
        rig.ask(stream, call(model))
    await asyncio.to_thread(other.wait_started)
    of_m = rig.probe("m")
    assert (of_m.in_flight, of_m.queued, of_m.limit) == (3, 2, 64)
    assert (of_m.free_bytes, of_m.device_in_flight, of_m.run_us) == (1_000, 4, 10_000_000)
    # one run half through, and a batch of two after it
    assert of_m.queue_us == pytest.approx(10_158_730 * 1.5, abs=2)
    assert rig.probe("m", "3") == of_m
    of_n = rig.probe("n")
    assert (of_n.in_flight, of_n.queued, of_n.device_in_flight) == (1, 0, 4)
    of_all = LoadReport(in_flight=4, queued=2, free_bytes=1_000, device_in_flight=4)
    assert rig.probe() == rig.probe("unknown") == rig.probe("m", "4") == of_all
    await rig.idle()
    assert rig.probe().in_flight == rig.probe("m").in_flight == 0


async def test_change_is_passed_on_and_answered_when_it_is_done(rig: Rig) -> None:
    for stream, asked in ((1, LOAD), (2, UNLOAD)):
        rig.receive(stream, encode_control(asked))
    assert [asked for asked, _ in rig.asked] == [LOAD, UNLOAD]
    assert rig.link.answers == {}
    rig.asked[1][1](None)
    assert rig.link.answers == {2: None}
    error = ModelUnavailable("not in this node's folder")
    rig.asked[0][1](error)
    rig.control_error = InvalidRequest("the operator does not let routers")
    rig.receive(3, encode_control(LOAD))
    assert rig.link.answers == {1: error, 2: None, 3: rig.control_error}
    assert rig.model.ran == []


# the end


async def test_draining_asks_every_peer_and_still_answers(rig: Rig) -> None:
    rig.service.drain()
    late = rig.add_link()
    assert rig.link.goaways == late.goaways == ["draining"]
    await rig.answer()


async def test_everything_under_way_is_answered_before_a_process_ends(rig: Rig) -> None:
    rig.model.is_deaf = True
    link = await rig.hold(1)
    rig.ask(1)
    rig.ask(2)
    rig.service.fail_all("it is stuck")
    answers = [link.answers[1], *rig.link.answers.values()]
    assert [type(each) for each in answers] == [RunFailed, ModelUnavailable, ModelUnavailable]
    assert {each.message for each in answers} == {"it is stuck"}
    await rig.idle()
    assert rig.model.ran == [[1]]


async def test_recheck_ends_the_links_of_those_who_are_no_members_any_more(rig: Rig) -> None:
    other = rig.add_link()
    other.recheck = lambda: fail(NotMember("revoked peer"))
    rig.service.recheck_members()
    assert (rig.link.closed, other.closed) == ([], ["not_member: revoked peer"])
    rig.service.close("the node is stopping")
    assert rig.link.closed == ["the node is stopping"]


@pytest.mark.parametrize(
    ("role", "place", "refusal"),
    [
        (Role.ROUTER, 0, ""),
        (Role.ROUTER, 1, "not the one of the TLS connection"),
        (Role.NODE, 0, "role"),
    ],
)
async def test_only_routers_may_ask(rig: Rig, role: Role, place: int, refusal: str) -> None:
    token = OWNER.invite(role, expires_at=NOW + dt.timedelta(days=1), bootstrap=(), now=NOW)
    member = Membership.join(Identity.generate(), token, NOW)
    hello = Hello(member.network_id, member.chain, "test", 1, 1)
    if not refusal:
        assert rig.service.verify(hello, member.chain[place]).peer_id == member.identity.peer_id
        return
    with pytest.raises(NotMember, match=refusal):
        rig.service.verify(hello, member.chain[place])


async def test_links_of_one_router_are_limited(rig: Rig) -> None:
    kept = [rig.add_link("busy") for _ in range(MAX_LINKS_OF_PEER)]
    assert [link.closed for link in kept] == [[]] * MAX_LINKS_OF_PEER
    refusal = "16 links of this peer are open, the limit; close one first"
    assert rig.add_link("busy").closed == [refusal]
    assert rig.add_link("other").closed == []
    rig.service.link_down(kept[0], "gone")
    assert rig.add_link("busy").closed == []
