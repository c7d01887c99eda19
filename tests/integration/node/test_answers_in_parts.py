"""A worker that answers in parts over TLS links, also a model in a loop: what a reader gets, and what ends when it reads or waits no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from fleet_fakes import NullLog, call, fp32
from link_sockets import HOST, Members, Side
from parts_reader import Reader
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
from capamesh.protocol.errors import DeadlineExceeded, PeerError
from capamesh.protocol.links.calls import encode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits, Tensor

PARTS = 3
BIG = 3 * 1024 * 1024
"""More than the peer may send of one message before it is granted more."""


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


STEPS = 100


@dataclass
class LoopTown:
    service: WorkerService
    batcher: DynamicBatcher
    link: Link

    def ask(self, reader: Reader) -> None:
        """Ask for a one that is doubled `STEPS` times."""
        asked = call().replace(inputs=(fp32("x", [1, 1]),), takes_parts=True)
        reader.stream = self.link.ask(*encode_call(asked, 60_000), reader)


@pytest.fixture
async def loop_town(tmp_path: Path) -> AsyncIterator[LoopTown]:
    """A worker with a model that doubles, and a link of a router to it."""
    model = FakeModel()
    plan = BatchPlan(model.inputs, model.outputs, is_batching=True, batch_rows=8, looped=("y",))
    rules = Rules(loop=LoopRules((("x", "y"),), STEPS))
    batcher = DynamicBatcher(plan, rules, SHORT, max_in_flight=100)
    journal = InFlightJournal(None)
    runner = ModelRunner(
        model,
        batcher,
        may_run_here=True,
        clock=time.monotonic,
        switch=FakeSwitch,
        marks=journal,
        number=journal.number("m", "1", ""),
        watchdog_s=60,
        on_stuck=lambda _: None,
    )
    hosted = HostedModel(
        source_of(), LoadResult(model, plan, Measured(SHORT, 0, is_batching=True)), runner
    )
    limits = LinkLimits(part_window_bytes=8000)
    async with linked(tmp_path, hosted, time.monotonic, limits) as (service, link):
        yield LoopTown(service, batcher, link)
    runner.close()


class SlowReader(Reader):
    """Keeps what it was given, until it is told to go on."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.held: list[Answer] = []

    def part_answered(self, part: Answer) -> None:
        self.is_releasing = False
        self.held.append(part)
        super().part_answered(part)

    def go_on(self) -> None:
        held, self.held = self.held, []
        for part in held:
            self.link.release(self.stream, part)


async def test_reader_that_stalls_stops_itself_alone_and_goes_on_where_it_was(
    loop_town: LoopTown,
) -> None:
    slow, quick = SlowReader(loop_town.link), Reader(loop_town.link)
    loop_town.ask(slow)
    loop_town.ask(quick)
    await quick.until(STEPS - 1, is_over=True)
    assert quick.parts[:3] == [2, 4, 8]
    held = len(slow.held)
    assert 10 <= held < 20  # a window of 8,000 bytes, of which each part takes some 600
    assert (loop_town.batcher.in_flight, loop_town.batcher.queued) == (1, 0)
    while slow.end is None:
        slow.go_on()
        count = len(slow.parts)
        await slow.until(min(count + 1, STEPS - 1), is_over=count >= STEPS - 1)
    assert slow.parts == quick.parts
    assert slow.end == quick.end
    assert loop_town.batcher.is_idle


async def test_reader_that_withdraws_frees_the_node_also_while_it_is_held(
    loop_town: LoopTown,
) -> None:
    for reader in (SlowReader(loop_town.link), Reader(loop_town.link)):
        loop_town.ask(reader)
        await reader.until(10)
        loop_town.link.withdraw(reader.stream)
        await eventually(lambda: loop_town.service.is_quiet, "a request is under way")
        assert loop_town.batcher.is_idle
