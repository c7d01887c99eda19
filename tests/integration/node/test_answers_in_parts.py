"""A worker that answers in parts over TLS links: what a reader gets, and what ends when it reads or waits no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from fleet_fakes import NullLog, call, fp32
from link_sockets import HOST, Members, Side
from parts_reader import Reader
from patience import eventually
from worker_fakes import FakeModel, engine_of, source_of

from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.scheduling import Batch, PendingRequest
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.errors import DeadlineExceeded, PeerError
from capamesh.protocol.links.calls import encode_call
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits, Tensor

pytestmark = pytest.mark.pure

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


@pytest.fixture
async def town(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    """A worker and a link of a router to it; `indirect` gives the router's limits."""
    members = Members(tmp_path)
    models = ModelRegistry()
    model = FakeModel()
    runner = PartsRunner(model)
    prepared = LoadResult(model, runner.scheduler.plan, Measured(None, 0, is_batching=True))
    models.ready(HostedModel(source_of(), prepared, cast(Any, runner)))
    service = WorkerService(
        models,
        members.trust(),
        control=lambda *_: None,
        clock=lambda: runner.now_s,
        later=asyncio.get_running_loop().call_later,
        limits=Limits(),
        log=NullLog(),  # type: ignore[arg-type]
    )
    transport = members.transport(members.join(Role.NODE), None, None)
    server = await transport.listen(HOST, 0, lambda: service)
    limits = getattr(request, "param", None)
    asking = members.transport(members.join(Role.ROUTER), limits, None)
    port = server.sockets[0].getsockname()[1]
    link = await asking.dial(f"{HOST}:{port}", Side(members.trust(), Role.NODE))
    yield Town(service, runner, link)
    link.close("the test is over")
    service.close("the test is over")
    server.close()


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


async def test_caller_that_takes_one_answer_is_not_sent_parts(town: Town) -> None:
    reader = await town.ask(takes_parts=False)
    for _ in range(PARTS):
        town.runner.step()
    await reader.until(0, is_over=True)
    assert (reader.parts, reader.end) == ([], 3)
    assert town.runner.wanted == [False, False]


async def test_large_parts_flow_by_the_credit_of_their_reader(town: Town) -> None:
    reader = await town.ask(rows=BIG // 8)
    for _ in range(PARTS):
        town.runner.step()
    await reader.until(2, is_over=True)
    assert (reader.parts, reader.end) == ([1, 2], 3)
    await town.until_quiet()


async def test_reader_that_withdraws_ends_the_run(town: Town) -> None:
    reader = await town.ask()
    town.runner.step()
    await reader.until(1)
    reader.link.withdraw(reader.stream)
    await town.until_quiet()
    assert town.runner.scheduler.in_flight == 0
    town.runner.step()
    assert town.runner.wanted == [True, False]


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
