from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import SPEC, NullLog, call, fp32
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
from capamesh.node.repository.task_rules import FileRules
from capamesh.node.runtime.tasks.contents import FileTask
from capamesh.node.scheduling import DynamicBatcher
from capamesh.node.scheduling.runner import STOP_GRACE_S, ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
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
    TELL_S,
    ControlAction,
    ControlCall,
    InferAnswer,
    InferCall,
    LoadReport,
    decode_answer,
    decode_load,
    decode_told_load,
    encode_call,
    encode_control,
    encode_done,
    encode_probe,
)
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.links.transport import MAX_LINKS_OF_PEER
from capamesh.protocol.network import Member, Membership, NetworkOwner, NetworkTrust, Role
from capamesh.protocol.tensors import MAX_CLASSES, Datatype, Limits, Tensor, join_elements

pytestmark = pytest.mark.pure

NOW = dt.datetime.now(dt.UTC)
OWNER = NetworkOwner.create("test", NOW)
WATCHDOG_S = 60.0
LOAD = ControlCall(ControlAction.LOAD, ModelName("m"), ModelVersion("3"))
UNLOAD = ControlCall(ControlAction.UNLOAD, ModelName("m"), ModelVersion(""))


class FakeLink:
    """A router's link as the service sees it. As the core does, it forgets a stream once answered."""

    def __init__(self) -> None:
        self.member = None
        self.is_quiet = True
        self.answers: dict[int, InferAnswer | CapameshError | None] = {}
        """None: a change that was made."""
        self.goaways: list[str] = []
        self.told: list[bytes] = []
        self.closed: list[str] = []
        self.membership_error: NotMember | None = None
        self._answered = asyncio.Event()

    def respond(self, stream: int, meta: bytes, body: Sequence[bytes]) -> bool:
        assert stream not in self.answers
        is_done = meta == encode_done()
        whole = memoryview(b"".join(body))
        self.answers[stream] = None if is_done else decode_answer(meta, whole, Limits())
        self._answered.set()
        return True

    def fail(self, stream: int, error: CapameshError) -> bool:
        assert stream not in self.answers
        self.answers[stream] = error
        self._answered.set()
        return True

    def tell_load(self, meta: bytes) -> None:
        self.told.append(meta)

    def goaway(self, reason: str) -> None:
        self.goaways.append(reason)

    def close(self, reason: str) -> None:
        self.closed.append(reason)

    def recheck(self) -> None:
        if self.membership_error is not None:
            raise self.membership_error

    async def answer(self, stream: int = 1) -> InferAnswer | CapameshError | None:
        """Wait for the answer on `stream`."""
        async with asyncio.timeout(LIMIT_S):
            while stream not in self.answers:
                self._answered.clear()
                await self._answered.wait()
        return self.answers[stream]

    def refusal(self, stream: int = 1) -> CapameshError:
        answer = self.answers[stream]
        assert isinstance(answer, CapameshError)
        return answer

    def load(self, stream: int) -> LoadReport:
        answer = self.answers[stream]
        assert isinstance(answer, InferAnswer)
        return answer.load


class Rig:
    """A service with one model, `m` version 3, and one that is known but not ready."""

    def __init__(self, bulk_refused_s: float = 0.0, **batcher: Any) -> None:
        self.clock = FakeClock(50.0)
        self.stuck: list[str] = []
        self.models = ModelRegistry()
        self.models.say((ModelName("loading"), ModelVersion("3")), ModelState.LOADING)
        self.hosted, self.model = self.host("m", "3", **batcher)
        self.log = NullLog()
        self.asked: list[tuple[ControlCall, Changed]] = []
        self.control_error: CapameshError | None = None
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.service = WorkerService(
            self.models,
            NetworkTrust(OWNER.ca_der),
            control=self._control,
            clock=self.clock,
            later=lambda *what: self.later.append(what),
            limits=Limits(),
            log=self.log,  # type: ignore[arg-type]
            bulk_refused_s=bulk_refused_s,
        )
        self.link = self.add_link()

    def host(self, name: str, version: str, **batcher: Any) -> tuple[HostedModel, FakeModel]:
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
            watchdog_s=WATCHDOG_S,
            on_stuck=self.stuck.append,
        )
        measured = Measured(None, 12_345, is_batching=True)
        hosted = HostedModel(
            source_of(name, version), LoadResult(model, made.plan, measured), runner
        )
        self.models.ready(hosted)
        return hosted, model

    def _control(self, asked: ControlCall, done: Changed) -> None:
        if self.control_error is not None:
            raise self.control_error
        self.asked.append((asked, done))

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
        to = link or self.link
        self.service.request_received(to, stream, meta, memoryview(body))  # type: ignore[arg-type]
        # what is received in one turn of the loop stands for what came in one read
        asyncio.get_running_loop().call_soon(self.service.read_ended, to)

    def cancel(self, stream: int) -> None:
        self.service.request_cancelled(self.link, stream)  # type: ignore[arg-type]

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
        for hosted in self.models:
            assert isinstance(hosted.prepared.loaded, FakeModel)
            hosted.prepared.loaded.gate.set()
            async with asyncio.timeout(LIMIT_S):
                await hosted.runner.wait_idle()
        assert repr(self.service).endswith(", 0 requests)")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, turn of the loop by turn, for what timers of the service's own bring about."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0)

    def close(self) -> None:
        for hosted in self.models:
            assert isinstance(hosted.prepared.loaded, FakeModel)
            hosted.prepared.loaded.gate.set()
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
    await rig.hold()
    rig.ask(1)
    assert not rig.service.is_quiet
    rig.clock.now_s = 50.25
    rig.service.free_bytes = 77
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert answer.version == "3"
    assert answer.outputs == (fp32("y", [2.0, 4.0]),)
    assert (answer.queue_us, answer.run_us) == (250_000, 0)
    assert (
        answer.load
        == LoadReport(
            in_flight=0,
            queued=0,
            limit=64,
            queue_us=0,
            run_us=answer.load.run_us,
            free_bytes=77,
            latency_us=250_000,
            device_in_flight=0,
            online_queue_us=0,  # the run before it ended at the same time, and nobody had waited for that
            limit_rows=64,
        )
    )
    assert answer.load.run_us == 8_122_500  # 10 s as profiled, then a run of 0.25 and one of 0
    assert rig.service.is_quiet


async def test_worker_takes_no_bulk_call_for_as_long_as_it_was_told(make: Make) -> None:
    rig = make(bulk_refused_s=30.0)
    rig.ask(1, call().replace(is_bulk=True))
    refusal = rig.link.refusal(1)
    assert isinstance(refusal, Overloaded)
    assert refusal.retry_after_s == 30.0
    assert refusal.message == (
        "bulk requests have ended this node's worker again and again; it takes none for 30 s more"
    )
    rig.ask(2)
    await rig.until(lambda: 2 in rig.link.answers)
    rig.clock.now_s += 30.0
    rig.ask(3, call().replace(is_bulk=True))
    await rig.until(lambda: 3 in rig.link.answers)
    assert isinstance(rig.link.answers[3], InferAnswer)


async def test_mark_to_run_alone_reaches_the_engine(rig: Rig) -> None:
    link = await rig.hold()
    for stream in (1, 2, 3):
        rig.ask(stream, call().replace(is_bulk=True, is_alone=stream == 2))
    await rig.idle()
    assert sorted(map(len, rig.model.ran)) == [1, 1, 2]
    assert len(link.answers) == 1


async def test_traced_call_is_a_line_in_the_log_and_others_are_none(rig: Rig) -> None:
    rig.ask(1)
    await rig.until(lambda: 1 in rig.link.answers)
    assert "request_traced" not in rig.log.events
    for stream, model in ((2, "m"), (3, "none")):
        trace = f"00-{'0a' * 16}-{'0b' * 8}-01"
        rig.ask(stream, call().replace(model=ModelName(model), trace=trace))
        await rig.until(lambda of=stream: of in rig.link.answers)
    assert rig.log.events.count("request_traced") == 1  # a model that is not there runs none
    assert isinstance(rig.link.answers[2], InferAnswer)


async def test_largest_scores_are_answered_with_their_labels(rig: Rig) -> None:
    rig.hosted.prepared = replace(rig.hosted.prepared, labels={"y": ("cat", "dog")})
    rig.ask(1, call("m", "", "y").replace(classes=(1,)))
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert answer.outputs == (
        Tensor("y", Datatype.BYTES, (1, 1), join_elements([b"4.000000:1:dog"])),
    )


async def test_classes_of_an_answer_in_parts_are_refused(rig: Rig) -> None:
    rig.ask(1, call("m", "", "y").replace(classes=(1,), takes_parts=True))
    error = rig.link.answers[1]
    assert isinstance(error, InvalidRequest)
    assert error.message == "an answer in parts is not classified: ask for it as it is"


async def test_too_many_classes_fail_their_request_alone(rig: Rig) -> None:
    rows = fp32("x", *[[1, 2]] * (MAX_CLASSES + 1))
    rig.ask(1, call("m", "", "y").replace(inputs=(rows,), classes=(1,)))
    await rig.idle()
    rig.ask(2)
    await rig.idle()
    assert isinstance(rig.link.answers[1], TooLarge)
    assert isinstance(rig.link.answers[2], InferAnswer)


async def test_short_model_s_calls_are_answered_without_a_thread(make: Make) -> None:
    rig = make(profile=SHORT)
    for stream in (1, 2, 3):
        rig.ask(stream, call().replace(inputs=(fp32("x", [stream, 0]),)))
    await rig.idle()
    for stream in (1, 2, 3):
        answer = rig.link.answers[stream]
        assert isinstance(answer, InferAnswer)
        assert answer.outputs == (fp32("y", [2 * stream, 0]),)
    assert rig.model.ran == [[1, 2, 3]]
    assert rig.hosted.runner._threads == []


async def test_run_s_time_is_reported(make: Make) -> None:
    rig = make(profile=SHORT)

    def act(_: list[float]) -> None:
        rig.clock.now_s += 0.125

    rig.model.act = act
    rig.ask(1)
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert (answer.queue_us, answer.run_us, answer.load.latency_us) == (0, 125_000, 125_000)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (call("x"), ModelUnavailable, "model 'x' version 'any' is not hosted on this node"),
        (call("m", "4"), ModelUnavailable, "model 'm' version '4' is not hosted on this node"),
        (call("loading"), ModelUnavailable, "'any' is not ready on this node, which has m/3"),
        (call("m", "", "z"), InvalidRequest, "the model takes x alone"),
    ],
)
async def test_call_that_cannot_be_run_is_refused_at_once(
    rig: Rig, asked: InferCall, kind: type[CapameshError], message: str
) -> None:
    rig.ask(1, asked)
    refusal = rig.link.refusal()
    assert type(refusal) is kind
    assert message in refusal.message
    await rig.idle()
    assert rig.model.ran == []


@pytest.mark.parametrize("meta", [b"", b"\xc1", b"\x90", b"\x80", b"\x81\xa1m" + b"\x91" * 1000])
async def test_junk_is_an_invalid_request(rig: Rig, meta: bytes) -> None:
    rig.receive(1, meta)
    assert type(rig.link.refusal()) is InvalidRequest


@pytest.mark.parametrize(
    "output",
    [
        Tensor("y", Datatype.BYTES, (2**20 + 1,), bytes(4 * (2**20 + 1))),
        Tensor("y", Datatype.FP32, (0, 20_000, 20_000), b""),
    ],
    ids=["texts", "empty"],
)
async def test_answer_over_a_limit_is_too_large_and_no_fault_of_the_link(
    rig: Rig, output: Tensor
) -> None:
    rig.model.act = lambda _: [output]
    rig.ask(1)
    refusal = await rig.link.answer()
    assert type(refusal) is TooLarge
    assert "'y'" in refusal.message


async def test_request_that_breaks_the_service_costs_its_link_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(rig.model, "validate", break_down)
        rig.ask(1)
    refusal = rig.link.refusal()
    assert type(refusal) is RunFailed
    assert refusal.message == "the request could not be taken in: MemoryError('no room')"
    rig.ask(2)
    await rig.idle()
    assert isinstance(rig.link.answers[2], InferAnswer)


async def test_priority_bulk_and_sequence_reach_the_engine(rig: Rig) -> None:
    await rig.hold()
    for stream, priority, is_bulk in ((1, 200, False), (2, 0, True), (3, 7, False)):
        x = (fp32("x", [stream, 0]),)
        mark = SequenceMark(stream, is_start=True)
        asked = InferCall(ModelName("m"), ModelVersion(""), x, (), priority, is_bulk, mark)
        rig.ask(stream, asked)
    requests = [request for _, request in rig.service._requests.values()]
    assert [(request.priority, request.is_bulk, request.sequence) for request in requests[1:]] == [
        (200, False, SequenceMark(1, is_start=True)),
        (0, True, SequenceMark(2, is_start=True)),
        (7, False, SequenceMark(3, is_start=True)),
    ]
    await rig.idle()
    assert rig.model.ran == [[1], [2, 3, 1]]  # the bulk one was owed its share


async def test_refused_call_is_counted_and_leaves_nothing_behind(make: Make) -> None:
    rig = make(max_in_flight=2)
    await rig.hold()
    rig.ask(1)
    rig.ask(2)
    refusal = rig.link.refusal(2)
    assert type(refusal) is Overloaded
    assert refusal.retry_after_s > 0
    load = refusal.load
    assert isinstance(load, LoadReport)
    assert (load.in_flight, load.limit, load.device_in_flight) == (2, 2, 2)
    assert rig.hosted.runner.scheduler.in_flight == 2
    await rig.idle()
    assert isinstance(rig.link.answers[1], InferAnswer)
    rig.ask(3)
    await rig.idle()
    assert isinstance(rig.link.answers[3], InferAnswer)


@pytest.mark.parametrize("result", [ValueError("odd"), SystemExit(1), MemoryError()])
async def test_run_that_fails_is_reported_and_the_next_one_runs(
    rig: Rig, result: BaseException
) -> None:
    def act(_: list[float]) -> None:
        raise result

    rig.model.act = act
    rig.ask(1)
    await rig.idle()
    assert type(rig.link.refusal()) is RunFailed
    rig.model.act = lambda _: None
    rig.ask(2)
    await rig.idle()
    assert isinstance(rig.link.answers[2], InferAnswer)


async def test_answer_that_has_no_wire_form_is_an_error_and_not_silence(rig: Rig) -> None:
    rig.model.act = lambda _: [object()]
    rig.ask(1)
    await rig.idle()
    refusal = rig.link.refusal()
    assert isinstance(refusal, RunFailed)
    assert refusal.message.startswith("the answer has no wire form")


# deadlines


@pytest.mark.parametrize("budget_ms", [0, -5, -(2**63)])
async def test_call_that_comes_too_late_is_not_queued(rig: Rig, budget_ms: int) -> None:
    rig.ask(1, budget_ms=budget_ms)
    assert type(rig.link.refusal()) is DeadlineExceeded
    await rig.idle()
    assert rig.model.ran == []


async def test_call_that_becomes_too_late_while_it_waits_is_not_run(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1, budget_ms=1000)
    rig.ask(2, budget_ms=20_000)
    rig.ask(3, budget_ms=2**64 - 1)
    rig.clock.now_s = 51.0
    rig.hosted.runner._tick()
    await rig.idle()
    assert type(rig.link.refusal(1)) is DeadlineExceeded
    assert isinstance(rig.link.answers[2], InferAnswer)
    assert isinstance(rig.link.answers[3], InferAnswer)
    assert rig.model.ran == [[1], [1, 1]]


async def test_deadline_is_answered_while_a_run_goes_on(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1, budget_ms=1000)
    rig.clock.now_s = 51.0
    rig.hosted.runner._tick()
    refusal = await rig.link.answer(1)  # the gate is shut: nothing but a timer can tell
    assert type(refusal) is DeadlineExceeded
    await rig.idle()
    assert rig.model.ran == [[1]]


async def test_deadline_of_what_runs_is_answered_before_the_run_ends(rig: Rig) -> None:
    rig.model.is_deaf = True
    rig.model.gate.clear()
    rig.ask(1, budget_ms=1000)
    await asyncio.to_thread(rig.model.wait_started)
    rig.clock.now_s = 51.0
    rig.hosted.runner._tick()
    refusal = await rig.link.answer(1)
    assert isinstance(refusal, DeadlineExceeded)
    assert refusal.message == "the deadline passed while it ran"
    assert rig.service.is_quiet
    await rig.idle()


# the watchdog


async def test_run_that_takes_too_long_is_answered_and_reported_once_if_it_does_not_stop(
    rig: Rig,
) -> None:
    rig.model.is_deaf = True
    link = await rig.hold(1)
    rig.clock.now_s += WATCHDOG_S + 1
    rig.hosted.runner._tick()
    answer = await link.answer(1)
    assert isinstance(answer, RunFailed)
    assert answer.message == "the run took more than the 60 s that this node allows one"
    assert rig.stuck == []
    rig.clock.now_s += STOP_GRACE_S + 1
    rig.hosted.runner._tick()
    await rig.until(lambda: rig.stuck)
    rig.hosted.runner._tick()
    rig.hosted.runner._tick()
    assert rig.stuck == ["a run has taken 64.0 s and does not stop; the limit is 60 s"]
    await rig.idle()


async def test_no_timer_is_left_when_nothing_is_under_way(rig: Rig) -> None:
    for _ in range(2):
        await rig.hold()
        assert rig.hosted.runner._timer is not None
        rig.service.tidy()
        assert list(rig.service._active) == [rig.hosted.runner]
        await rig.idle()
        rig.hosted.runner._tick()
        assert rig.hosted.runner._timer is None
        rig.service.tidy()
        assert not rig.service._active


async def test_timer_is_set_for_what_is_due_first(rig: Rig) -> None:
    await rig.hold(1)  # without a deadline: the watchdog's
    assert rig.hosted.runner._timer_due_s == rig.clock.now_s + WATCHDOG_S
    rig.ask(2, budget_ms=5000)
    rig.ask(3, budget_ms=9000)
    await asyncio.sleep(0)  # the read ends
    assert rig.hosted.runner._timer_due_s == rig.clock.now_s + 5
    rig.clock.now_s += 5
    rig.hosted.runner._tick()
    assert rig.hosted.runner._timer_due_s == rig.clock.now_s + 4
    rig.model.gate.set()
    await rig.idle()


# who has left


async def test_cancelled_call_is_neither_run_nor_answered(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1, call().replace(inputs=(fp32("x", [5, 0]),)))
    rig.ask(2)
    rig.cancel(1)
    rig.cancel(1)
    rig.cancel(77)
    await rig.idle()
    assert list(rig.link.answers) == [2]
    assert rig.model.ran == [[1], [1]]


async def test_routers_are_told_of_what_was_withdrawn_all_at_once_and_each_of_them(
    rig: Rig,
) -> None:
    other = await rig.hold()
    for stream in range(1, 9):
        rig.ask(stream)
    assert rig.probe("m").in_flight == 9
    for stream in range(1, 9):
        rig.cancel(stream)
    ((delay_s, tell),) = rig.later
    assert delay_s == TELL_S
    assert rig.link.told == []
    tell()
    ((model, version, load),) = map(decode_told_load, rig.link.told)
    assert (model, version, load.in_flight, load.queued) == ("m", "3", 1, 0)
    assert other.told == rig.link.told
    rig.ask(9)
    rig.cancel(9)
    assert len(rig.later) == 2
    await rig.idle()


async def test_withdrawal_is_told_once_the_model_counts_it_no_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.hold()
    rig.ask(1)
    rig.cancel(1)
    monkeypatch.setattr(DynamicBatcher, "is_report_current", False)
    rig.later.pop()[1]()
    assert rig.link.told == []
    monkeypatch.undo()
    rig.later.pop()[1]()
    assert len(rig.link.told) == 1
    assert rig.later == []
    await rig.idle()


async def test_cancelled_run_is_stopped(rig: Rig) -> None:
    rig.model.gate.clear()
    rig.ask(1)
    await asyncio.to_thread(rig.model.wait_started)
    rig.cancel(1)
    async with asyncio.timeout(LIMIT_S):
        await rig.hosted.runner.wait_idle()
    assert rig.link.answers == {}


async def test_stream_used_again_after_a_cancel_gets_its_own_answer(rig: Rig) -> None:
    await rig.hold()
    rig.ask(1, call().replace(inputs=(fp32("x", [5, 0]),)))
    rig.cancel(1)
    rig.ask(1, call().replace(inputs=(fp32("x", [6, 0]),)))
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert answer.outputs == (fp32("y", [12, 0]),)
    assert rig.model.ran == [[1], [6]]


async def test_stream_used_again_while_its_cancelled_run_goes_on_gets_its_own_answer(
    rig: Rig,
) -> None:
    rig.model.is_deaf = True
    rig.model.gate.clear()
    rig.ask(1, call().replace(inputs=(fp32("x", [5, 0]),)))
    await asyncio.to_thread(rig.model.wait_started)
    rig.cancel(1)
    rig.ask(1, call().replace(inputs=(fp32("x", [6, 0]),)))
    await rig.idle()
    answer = rig.link.answers[1]
    assert isinstance(answer, InferAnswer)
    assert answer.outputs == (fp32("y", [12, 0]),)


async def test_requests_of_a_lost_link_are_dropped_and_other_links_go_on(rig: Rig) -> None:
    await rig.hold()
    other = rig.add_link()
    for stream in (1, 2, 3):
        rig.ask(stream, call().replace(inputs=(fp32("x", [5, 0]),)))
    rig.ask(1, link=other)
    rig.service.link_down(rig.link, "gone")  # type: ignore[arg-type]
    assert repr(rig.service) == "WorkerService(2 links, 2 requests)"
    await rig.idle()
    assert rig.link.answers == {}
    assert isinstance(other.answers[1], InferAnswer)
    assert rig.model.ran == [[1], [1]]


# tasks


def file_call(*files: bytes, **more: Any) -> InferCall:
    raw = Tensor("file", Datatype.BYTES, (len(files),), join_elements(files))
    return call().replace(inputs=(raw,), **more)


@pytest.fixture
def file_rig(rig: Rig) -> Rig:
    """A rig whose model is for files, of which it takes the first two bytes."""
    task = FileTask(SPEC[0], FileRules(begin_bytes=2, end_bytes=0))
    rig.hosted.prepared = replace(rig.hosted.prepared, task=task)
    return rig


async def test_call_of_a_task_is_run_with_what_its_files_become(file_rig: Rig) -> None:
    rig = file_rig
    rig.ask(1, file_call(b"ab", b"c"))
    assert not rig.service.is_quiet
    answer = await rig.link.answer(1)
    assert isinstance(answer, InferAnswer)
    (output,) = answer.outputs
    assert output.to_numpy().tolist() == [[194, 196], [198, 512]]
    await rig.idle()
    assert rig.service.is_quiet
    rig.ask(2)
    assert isinstance(await rig.link.answer(2), InferAnswer)  # its tensors are taken as before


async def test_classes_of_a_task_are_told(file_rig: Rig) -> None:
    file_rig.ask(1, file_call(b"ab", outputs=("y",), classes=(1,)))
    answer = await file_rig.link.answer(1)
    assert isinstance(answer, InferAnswer)
    assert answer.outputs[0].to_numpy().tolist() == [[b"196.000000:1"]]


async def test_call_of_a_task_that_is_refused_is_told_so(file_rig: Rig) -> None:
    file_rig.ask(1, file_call(b""))
    refused = await file_rig.link.answer(1)
    assert isinstance(refused, InvalidRequest)
    assert refused.message == "file 0 is empty; a type is of what a file has"
    assert refused.load is not None
    file_rig.ask(2, file_call(b"a", outputs=("z",)))  # refused once its inputs are made
    assert isinstance(await file_rig.link.answer(2), InvalidRequest)
    await file_rig.idle()


async def test_call_of_a_task_is_taken_back_wherever_it_is(file_rig: Rig) -> None:
    rig = file_rig
    rig.ask(1, file_call(b"ab"))
    rig.cancel(1)
    rig.ask(2, file_call(b"ab"))
    rig.service.link_down(rig.link, "gone")  # type: ignore[arg-type]
    kept = rig.add_link()
    rig.ask(3, file_call(b"cd"), link=kept)
    assert isinstance(await kept.answer(3), InferAnswer)
    await rig.idle()
    assert rig.link.answers == {}
    assert rig.model.ran == [[99]]


async def test_call_of_a_task_is_told_that_its_worker_ends(file_rig: Rig) -> None:
    file_rig.ask(1, file_call(b"ab"))
    file_rig.service.fail_all("stuck")
    assert isinstance(file_rig.link.answers[1], ModelUnavailable)
    await file_rig.idle()


async def test_model_without_a_task_takes_no_files(rig: Rig) -> None:
    rig.ask(1, file_call(b"ab"))
    assert isinstance(rig.link.answers[1], InvalidRequest)


# loads and counts


async def test_probe_tells_of_one_model_or_of_all(rig: Rig) -> None:
    rig.service.free_bytes = 1_000
    _, other = rig.host("n", "1")
    other.gate.clear()
    await rig.hold()
    rig.ask(1)
    rig.ask(2)
    rig.ask(3, call("n"))
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


async def test_load_in_an_answer_counts_none_of_those_that_ran_with_it(rig: Rig) -> None:
    await rig.hold()
    for stream in (1, 2, 3):
        rig.ask(stream)
    await rig.idle()
    loads = [rig.link.load(stream) for stream in (1, 2, 3)]
    assert [(load.in_flight, load.device_in_flight) for load in loads] == [(0, 0)] * 3


async def test_requests_of_one_read_have_come_at_one_time(rig: Rig) -> None:
    await rig.hold()
    for stream in (1, 2):
        rig.ask(stream)
        rig.clock.now_s += 1
    await asyncio.sleep(0)
    rig.clock.now_s += 1
    rig.ask(3)
    await rig.idle()
    answers = [rig.link.answers[stream] for stream in (1, 2, 3)]
    assert [answer.queue_us for answer in answers if isinstance(answer, InferAnswer)] == [
        3_000_000,
        3_000_000,
        0,
    ]


async def test_each_batch_tells_the_load_after_it(rig: Rig) -> None:
    link = await rig.hold()
    rig.ask(1)
    await rig.idle()
    assert (link.load(99).in_flight, link.load(99).device_in_flight) == (1, 1)
    assert (rig.link.load(1).in_flight, rig.link.load(1).device_in_flight) == (0, 0)


# changes that routers ask for


async def test_change_is_passed_on_and_answered_when_it_is_done(rig: Rig) -> None:
    for stream, asked in ((1, LOAD), (2, UNLOAD)):
        rig.receive(stream, encode_control(asked))
    assert [asked for asked, _ in rig.asked] == [LOAD, UNLOAD]
    assert rig.link.answers == {}
    rig.asked[1][1](None)
    assert rig.link.answers == {2: None}
    error = ModelUnavailable("not in this node's folder")
    rig.asked[0][1](error)
    assert rig.link.refusal(1) is error
    assert rig.model.ran == []


async def test_change_that_is_not_allowed_is_refused_at_once(rig: Rig) -> None:
    rig.control_error = InvalidRequest("the operator does not let routers")
    rig.receive(1, encode_control(LOAD))
    assert rig.link.refusal(1) is rig.control_error


# the end


async def test_draining_asks_every_peer_those_that_come_later_too_and_still_answers(
    rig: Rig,
) -> None:
    rig.service.drain()
    late = rig.add_link()
    assert rig.link.goaways == late.goaways == ["draining"]
    rig.ask(1)
    await rig.idle()
    assert isinstance(rig.link.answers[1], InferAnswer)


async def test_quiet_means_no_request_and_every_link_quiet(rig: Rig) -> None:
    assert rig.service.is_quiet
    rig.link.is_quiet = False
    assert not rig.service.is_quiet
    rig.link.is_quiet = True
    rig.ask(1)
    assert not rig.service.is_quiet
    await rig.idle()
    assert rig.service.is_quiet


async def test_everything_under_way_is_answered_before_a_process_ends(rig: Rig) -> None:
    rig.model.is_deaf = True
    link = await rig.hold(1)
    rig.ask(1)
    rig.ask(2)
    rig.service.fail_all("it is stuck")
    running, waiting = link.answers[1], rig.link.answers[2]
    assert isinstance(running, RunFailed)
    assert isinstance(waiting, ModelUnavailable)
    assert running.message == waiting.message == "it is stuck"
    assert list(rig.link.answers) == [1, 2]
    await rig.idle()
    assert rig.model.ran == [[1]]


async def test_recheck_ends_the_links_of_those_who_are_no_members_any_more(rig: Rig) -> None:
    other = rig.add_link()
    other.membership_error = NotMember("revoked peer")
    rig.service.recheck_members()
    assert rig.link.closed == []
    assert other.closed == ["not_member: revoked peer"]
    rig.service.close("the node is stopping")
    assert rig.link.closed == ["the node is stopping"]


@pytest.mark.parametrize("role", [Role.ROUTER, Role.NODE])
async def test_members_that_are_no_routers_may_not_ask(rig: Rig, role: Role) -> None:
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


async def test_router_has_a_limited_number_of_links_and_another_router_is_not_affected(
    rig: Rig,
) -> None:
    def of(peer: str) -> FakeLink:
        link = FakeLink()
        link.member = Member(PeerId(peer), Role.ROUTER, "0" * 40, NOW, NOW)  # type: ignore[assignment]
        rig.service.link_up(link)  # type: ignore[arg-type]
        return link

    kept = [of("busy") for _ in range(MAX_LINKS_OF_PEER)]
    assert [link.closed for link in kept] == [[]] * MAX_LINKS_OF_PEER
    assert of("busy").closed == ["16 links of this peer are open, the limit; close one first"]
    assert of("other").closed == []
    rig.service.link_down(kept[0], "gone")  # type: ignore[arg-type]
    assert of("busy").closed == []
