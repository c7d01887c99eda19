"""A worker that answers in parts, a model in a loop: what a reader gets, and what ends when it reads or waits no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from fleet_fakes import NullLog, call, fp32
from link_sockets import HOST, Members, Side, within
from patience import eventually
from worker_fakes import SHORT, FakeModel, FakeSwitch, engine_of, source_of

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.repository.rules import LoopRules, Rules
from capamesh.node.scheduling import Batch, BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, PeerError
from capamesh.protocol.links.calls import decode_answer, encode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits, Tensor

PARTS = 3
BIG = 3 * 1024 * 1024
"""More than the peer may send of one message before it is granted more."""


class Reader(PartsHandler):
    """Keeps the outputs of every part as numbers."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stream = 0
        self.is_releasing = True
        self.parts: list[Any] = []
        self.end: object = None
        self._news = asyncio.Event()

    def part_answered(self, part: Answer) -> None:
        self.parts.append(value_of(part))
        if self.is_releasing:
            self.link.release(self.stream, part)
        self._news.set()

    def answered(self, answer: Answer) -> None:
        self.end = value_of(answer)
        self._news.set()

    def failed(self, error: CapameshError) -> None:
        self.end = error
        self._news.set()

    async def until(self, parts: int, *, is_over: bool = False) -> None:
        async def come() -> None:
            while len(self.parts) < parts or (is_over and self.end is None):
                self._news.clear()
                await self._news.wait()

        await within(come())


def value_of(answer: Answer) -> float:
    (output,) = decode_answer(answer.meta, answer.body, Limits()).outputs
    return float(output.to_numpy()[0, 0])


class PartsRunner:
    """Answers each request in three parts, one whenever a test lets it: `x` times 1, 2 and 3."""

    def __init__(self, model: FakeModel) -> None:
        self.scheduler = engine_of(model)
        self.now_s = 0.0
        self.wanted: list[bool] = []
        """Of each part, whether somebody still waited after it."""
        self._batch: Batch | None = None
        self._step = 0

    def submit(self, request: PendingRequest, *, is_pumped: bool) -> None:
        del is_pumped
        self.scheduler.submit(request, request.arrived_s)

    def pump(self) -> None:
        if self._batch is None:
            self._batch = self.scheduler.take(self.now_s)

    def cancel(self, request: PendingRequest) -> None:
        self.scheduler.cancel(request, self.now_s)

    def resume(self, request: PendingRequest) -> None:
        self.scheduler.resume(request)

    def step(self) -> None:
        """Answer one part more, the last as the result."""
        assert self._batch is not None
        self._step += 1
        (request,) = self._batch.requests
        (x,) = request.inputs
        outputs = [Tensor.from_numpy("y", x.to_numpy() * self._step)]
        if self._step < PARTS:
            self.wanted.append(request.part(outputs))
            return
        self.scheduler.finished(self._batch, [outputs], self.now_s, run_s=0.1)


@dataclass
class Town:
    service: WorkerService
    runner: PartsRunner
    link: Link
    cancelled: list[int] = field(default_factory=list)

    async def ask(self, *, takes_parts: bool = True, rows: int = 1) -> Reader:
        """Ask with `rows` rows of ones, and wait until that runs."""
        x = fp32("x", *[[1, 2]] * rows)
        asked = call().replace(inputs=(x,), takes_parts=takes_parts)
        reader = Reader(self.link)
        reader.stream = self.link.ask(*encode_call(asked, 60_000), reader)
        await self.running()
        return reader

    async def running(self) -> None:
        await eventually(lambda: self.runner._batch is not None, "nothing runs")

    async def until_quiet(self) -> None:
        await eventually(lambda: self.service.is_quiet, "a request is under way")


@asynccontextmanager
async def linked(
    folder: Path, hosted: HostedModel, clock: Callable[[], float], limits: LinkLimits | None
) -> AsyncIterator[tuple[WorkerService, Link]]:
    """Yield a worker with a model, and a link of a router with these limits to it."""
    members, models = Members(folder), ModelRegistry()
    models.ready(hosted)
    service = WorkerService(
        models,
        members.trust(),
        control=lambda *_: None,
        clock=clock,
        later=asyncio.get_running_loop().call_later,
        limits=Limits(),
        log=NullLog(),  # type: ignore[arg-type]
    )
    transport = members.transport(members.join(Role.NODE), None, None)
    server = await transport.listen(HOST, 0, lambda: service)
    asking = members.transport(members.join(Role.ROUTER), limits, None)
    port = server.sockets[0].getsockname()[1]
    link = await asking.dial(f"{HOST}:{port}", Side(members.trust(), Role.NODE))
    yield service, link
    link.close("the test is over")
    service.close("the test is over")
    server.close()


@pytest.fixture
async def town(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    """A worker that answers when a test says so; `indirect` gives the router's limits."""
    model = FakeModel()
    runner = PartsRunner(model)
    prepared = LoadResult(model, runner.scheduler.plan, Measured(None, 0, is_batching=True))
    hosted = HostedModel(source_of(), prepared, cast(Any, runner))
    limits = getattr(request, "param", None)
    async with linked(tmp_path, hosted, lambda: runner.now_s, limits) as (service, link):
        yield Town(service, runner, link)


@pytest.mark.pure
async def test_each_part_is_with_the_reader_before_the_next_one_is_made(town: Town) -> None:
    reader = await town.ask()
    for count in (1, 2):
        town.runner.step()
        await reader.until(count)
        assert (reader.parts, reader.end) == ([1, 2][:count], None)
    town.runner.step()
    await reader.until(2, is_over=True)
    assert (reader.parts, reader.end) == ([1, 2], 3)
    assert town.runner.wanted == [True, True]
    assert town.runner.scheduler.is_idle
    await town.until_quiet()


@pytest.mark.pure
async def test_caller_that_takes_one_answer_is_not_sent_parts(town: Town) -> None:
    reader = await town.ask(takes_parts=False)
    for _ in range(PARTS):
        town.runner.step()
    await reader.until(0, is_over=True)
    assert (reader.parts, reader.end) == ([], 3)
    assert town.runner.wanted == [False, False]


@pytest.mark.pure
async def test_large_parts_flow_by_the_credit_of_their_reader(town: Town) -> None:
    reader = await town.ask(rows=BIG // 8)
    for _ in range(PARTS):
        town.runner.step()
    await reader.until(2, is_over=True)
    assert (reader.parts, reader.end) == ([1, 2], 3)
    await town.until_quiet()


@pytest.mark.pure
async def test_reader_that_withdraws_ends_the_run(town: Town) -> None:
    reader = await town.ask()
    town.runner.step()
    await reader.until(1)
    reader.link.withdraw(reader.stream)
    await town.until_quiet()
    assert town.runner.scheduler.in_flight == 0
    town.runner.step()
    assert town.runner.wanted == [True, False]


@pytest.mark.pure
async def test_deadline_after_the_first_part_is_the_end_of_the_answer(town: Town) -> None:
    reader = await town.ask()
    town.runner.step()
    town.runner.now_s = 60.0
    town.runner.scheduler.expire(60.0)
    await reader.until(1, is_over=True)
    assert isinstance(reader.end, DeadlineExceeded)
    town.runner.step()
    assert town.runner.wanted == [True, False]


@pytest.mark.parametrize("town", [LinkLimits(part_window_bytes=2000)], indirect=True)
@pytest.mark.parametrize("is_releasing", [True, False])
@pytest.mark.pure
async def test_parts_that_a_reader_holds_are_bounded(town: Town, is_releasing: bool) -> None:
    reader = await town.ask(rows=50)  # 400 bytes, as each part is
    reader.is_releasing = is_releasing
    (request,) = town.runner.scheduler._requests.live
    part = [Tensor.from_numpy("y", request.inputs[0].to_numpy())]
    for count in range(1, 6):
        request.part(part)
        if is_releasing:
            await reader.until(count)
    if is_releasing:
        assert reader.end is None
        return
    await reader.until(1, is_over=True)
    assert isinstance(reader.end, PeerError)
    assert "were not released" in reader.end.message
    await town.until_quiet()
    assert not request.part(part)

if TYPE_CHECKING:
    from conftest import Town

STEPS = 100
WINDOW = LinkLimits(part_window_bytes=8000)
"""Each part takes some 600 bytes of it."""


@pytest.fixture
async def doubling(town: Town) -> Town:
    """Return a town with a model whose answer is its input doubled, and that doubled, `STEPS` times."""
    model = model_of(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [value_of("x", TensorProto.FLOAT, ["N", 2])],
        [value_of("y", TensorProto.FLOAT, ["N", 2])],
    )
    town.put("double", model, f'[loop]\nfeedback = {{x = "y"}}\nmax_steps = {STEPS}\n')
    await town.until_ready("double")
    return town


class SlowReader(Reader):
    """Keeps what it was given, until it is told to go on."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.held: list[Answer] = []
        self.is_releasing = False

    def part_answered(self, part: Answer) -> None:
        self.held.append(part)
        super().part_answered(part)

    def go_on(self) -> None:
        held, self.held = self.held, []
        for part in held:
            self.link.release(self.stream, part)


def ask(
    reader: Reader, *, rows: int = 1, takes_parts: bool = True, budget_ms: int = 60_000
) -> None:
    x = Tensor.from_numpy("x", np.ones((rows, 2), np.float32))
    call = InferCall(ModelName("double"), ModelVersion(""), (x,), takes_parts=takes_parts)
    reader.stream = reader.link.ask(*encode_call(call, budget_ms), reader)


async def test_reader_that_stalls_stops_itself_alone_and_goes_on_where_it_was(
    doubling: Town,
) -> None:
    link, scheduler = await doubling.link(WINDOW), doubling.hosted("double").runner.scheduler
    slow, quick, whole = SlowReader(link), Reader(link), Reader(link)
    ask(slow)
    ask(quick)
    ask(whole, takes_parts=False)
    await quick.until(STEPS - 1, is_over=True)
    await whole.until(0, is_over=True)
    assert (quick.parts, quick.end) == ([2.0**step for step in range(1, STEPS)], 2.0**STEPS)
    assert (whole.parts, whole.end) == ([], 2.0**STEPS)
    assert 10 <= len(slow.held) < 20
    assert (scheduler.in_flight, scheduler.queued) == (1, 0)
    while slow.end is None:
        slow.go_on()
        count = len(slow.parts)
        await slow.until(min(count + 1, STEPS - 1), is_over=count >= STEPS - 1)
    assert (slow.parts, slow.end) == (quick.parts, quick.end)


async def test_large_parts_flow_by_the_credit_of_their_reader(doubling: Town) -> None:
    reader = Reader(await doubling.link(LinkLimits(initial_credit_bytes=2000)))
    ask(reader, rows=2000)
    await reader.until(STEPS - 1, is_over=True)
    assert (len(reader.parts), reader.end) == (STEPS - 1, 2.0**STEPS)


@pytest.mark.parametrize("kind", [SlowReader, Reader])
async def test_reader_that_withdraws_frees_the_node_also_while_it_is_held(
    doubling: Town, kind: type[Reader]
) -> None:
    reader = kind(await doubling.link(WINDOW))
    ask(reader)
    await reader.until(10)
    reader.link.withdraw(reader.stream)
    await within(doubling.hosted("double").runner.wait_idle())
    assert doubling.service.is_quiet


async def test_deadline_after_the_first_part_is_the_end_of_the_answer(doubling: Town) -> None:
    reader = SlowReader(await doubling.link(WINDOW))
    ask(reader, budget_ms=500)
    await reader.until(1, is_over=True)
    assert isinstance(reader.end, DeadlineExceeded)
    assert len(reader.parts) < 20
