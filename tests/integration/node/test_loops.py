"""A model in a loop behind TLS links: its steps are sent as parts, as its readers take them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet_fakes import NullLog, call, fp32
from link_sockets import HOST, Members, Side
from parts_reader import Reader
from patience import eventually
from worker_fakes import SHORT, FakeModel, FakeSwitch, source_of

from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.repository.rules import LoopRules, Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.links.calls import encode_call
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.link import Link
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Limits

STEPS = 100


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


@dataclass
class Town:
    service: WorkerService
    batcher: DynamicBatcher
    link: Link

    def ask(self, reader: Reader) -> None:
        """Ask for a one that is doubled `STEPS` times."""
        asked = call().replace(inputs=(fp32("x", [1, 1]),), takes_parts=True)
        reader.stream = self.link.ask(*encode_call(asked, 60_000), reader)


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """A worker with a model that doubles, and a link of a router to it."""
    members = Members(tmp_path)
    model, models = FakeModel(), ModelRegistry()
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
    prepared = LoadResult(model, plan, Measured(SHORT, 0, is_batching=True))
    models.ready(HostedModel(source_of(), prepared, runner))
    service = WorkerService(
        models,
        members.trust(),
        control=lambda *_: None,
        clock=time.monotonic,
        later=asyncio.get_running_loop().call_later,
        limits=Limits(),
        log=NullLog(),  # type: ignore[arg-type]
    )
    transport = members.transport(members.join(Role.NODE), None, None)
    server = await transport.listen(HOST, 0, lambda: service)
    asking = members.transport(members.join(Role.ROUTER), LinkLimits(part_window_bytes=8000), None)
    port = server.sockets[0].getsockname()[1]
    link = await asking.dial(f"{HOST}:{port}", Side(members.trust(), Role.NODE))
    yield Town(service, batcher, link)
    link.close("the test is over")
    service.close("the test is over")
    runner.close()
    server.close()


async def test_reader_that_stalls_stops_itself_alone_and_goes_on_where_it_was(town: Town) -> None:
    slow, quick = SlowReader(town.link), Reader(town.link)
    town.ask(slow)
    town.ask(quick)
    await quick.until(STEPS - 1, is_over=True)
    assert quick.parts[:3] == [2, 4, 8]
    held = len(slow.held)
    assert 10 <= held < 20  # a window of 8,000 bytes, of which each part takes some 600
    assert (town.batcher.in_flight, town.batcher.queued) == (1, 0)
    while slow.end is None:
        slow.go_on()
        count = len(slow.parts)
        await slow.until(min(count + 1, STEPS - 1), is_over=count >= STEPS - 1)
    assert slow.parts == quick.parts
    assert slow.end == quick.end
    assert town.batcher.is_idle


async def test_reader_that_withdraws_frees_the_node_also_while_it_is_held(town: Town) -> None:
    for reader in (SlowReader(town.link), Reader(town.link)):
        town.ask(reader)
        await reader.until(10)
        town.link.withdraw(reader.stream)
        await eventually(lambda: town.service.is_quiet, "a request is under way")
        assert town.batcher.is_idle
