"""A worker without its links: what it tells its agent."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import NullLog
from worker_fakes import LIMIT_S, source_of

from capamesh.node.agent.settings import NodeSettings
from capamesh.node.agent.worker_handle import start_of
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.devices.host import DeviceInfo
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.models import shortage
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.worker import process
from capamesh.node.worker.opening import open_and_close
from capamesh.node.worker.process import Worker
from capamesh.protocol.channel.framing import Message
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import Membership, NetworkOwner, Role

CPU = DeviceInfo(0, "cpu", "a CPU", 1_000, 500, 1)


class Channel:
    """Takes what a worker sends."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._news = asyncio.Event()

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        self._news.set()
        return True

    async def has(self, kind: str) -> Message:
        """Wait for the first message of this kind."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for message in self.sent:
                    if message["type"] == kind:
                        return message
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def channel() -> Channel:
    return Channel()


@pytest.fixture
async def worker(channel: Channel, tmp_path: Path) -> Worker:
    now = dt.datetime.now(dt.UTC)
    token = NetworkOwner.create("home", now).invite(
        Role.NODE, expires_at=now + dt.timedelta(days=1), bootstrap=(), now=now
    )
    Membership.join(Identity.generate(), token, now).save(tmp_path)
    settings = NodeSettings(
        data_folder=tmp_path, models_folder=tmp_path, worker=WorkerSettings(is_sandboxed=False)
    )
    start = replace(start_of(settings, 0, CPU, "127.0.0.1"), running_page="")
    opened = open_and_close(start, NullLog())
    return Worker(start, opened, channel, NullLog())


def free_bytes(offer: Message) -> int:
    free: int = offer["device"]["memory_free_bytes"]
    return free


@pytest.mark.parametrize(("seen", "reported"), [(300, 300), (2_000, 1_000)])
async def test_offer_says_how_much_memory_is_free_now(
    worker: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch, seen: int, reported: int
) -> None:
    worker._tell()
    assert free_bytes(channel.sent.pop()) == 500
    monkeypatch.setattr(worker._backend, "free_bytes", lambda: seen)
    observing = asyncio.create_task(worker._observe())
    metrics = await channel.has("metrics")
    assert metrics["models"] == []
    assert set(metrics["loop"]) == {"delay_s", "busy_s"}
    observing.cancel()
    worker._tell()
    assert free_bytes(channel.sent[-1]) == reported  # never more than there is in all
    assert worker._service.free_bytes == seen


async def test_worker_that_has_lost_its_device_leaves_the_marks_and_ends_itself_once(
    worker: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(process, "FLUSH_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    page = InFlightPage.create(tmp_path / "page")
    worker._marks._page = page
    number = worker._marks.number("m", "1", "")
    slot = worker._marks.begin(number, Phase.RUNNING)

    def run() -> None:  # as a run in its thread: the error, then the end of its mark
        worker._backend._on_lost("CUDA failure 700: an illegal memory access was encountered")
        worker._marks.end(slot)

    await asyncio.gather(asyncio.to_thread(run), asyncio.to_thread(run))
    async with asyncio.timeout(LIMIT_S):
        while not ended:
            await asyncio.sleep(0)
    assert ended == [process.STUCK_STATUS]
    loss = "CUDA failure 700: an illegal memory access was encountered"
    assert channel.sent == [
        {"type": "stuck", "reason": f"the device answers nothing any more: {loss}"}
    ]
    assert page.marked() == [Marked("m", "1", Phase.RUNNING)]


class Idle:
    """A model that nobody asks, and how often it and its stream were made to give back."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        loaded = SimpleNamespace(give_back=give_back)
        stream = SimpleNamespace(give_back=give_back)
        plan: Any = None
        self.batcher = SimpleNamespace(is_idle=True)
        self.hosted = HostedModel(
            source_of("m"),
            LoadResult(loaded, plan, Measured(None, 0, is_batching=False), (), stream),
            SimpleNamespace(scheduler=self.batcher, last_used_s=0.0),
        )


async def test_idle_models_give_back_with_their_streams_and_are_not_asked_again_in_vain(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [900]
    asked: list[int] = []
    idle = Idle(lambda: asked.append(used[0]))
    worker._budget.limit_bytes = 1_000
    monkeypatch.setattr(worker._backend, "used_bytes", lambda: used[0])
    monkeypatch.setattr(worker._idle_memory, "_models", [idle.hosted])
    await worker._idle_memory.give_back()
    assert asked == [900, 900]
    await worker._idle_memory.give_back()
    assert len(asked) == 2  # it has not run since
    idle.hosted.runner.last_used_s = time.monotonic()
    await worker._idle_memory.give_back()
    assert len(asked) == 2  # what is there did not come back
    used[0] = 1_200
    await worker._idle_memory.give_back()
    assert len(asked) == 4


class Dialing:
    """Has no memory the first times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.seen: list[object] = []

    def update(self, routers: object) -> None:
        if self.times:
            self.times -= 1
            raise MemoryError("unable to allocate")
        self.seen.append(routers)


@pytest.mark.parametrize("times", [1, shortage.TRIES])
async def test_no_message_of_the_agent_is_lost_for_want_of_memory_or_the_worker_ends(
    worker: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    async def messages() -> AsyncIterator[Message]:
        for name in ("r1", "r2"):
            yield {"type": "routers", "routers": {name: ["h:1"]}}
        yield {"type": "stop"}
        raise AssertionError("read on")

    monkeypatch.setattr(shortage, "PAUSE_S", 0.0)
    monkeypatch.setattr(channel, "messages", messages, raising=False)
    ended: list[str] = []
    monkeypatch.setattr(worker, "_stuck", ended.append)
    dialing = Dialing(times)
    await worker._listen_to_agent(dialing, lambda: None)
    is_lost = times == shortage.TRIES
    assert dialing.seen == [{name: ("h:1",)} for name in (["r2"] if is_lost else ["r1", "r2"])]
    assert [reason[:26] for reason in ended] == ["no memory to obey 'routers"] * is_lost


async def test_worker_that_may_not_read_the_folder_that_lies_there_now_says_goodbye_and_ends_itself(
    worker: Worker, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(process, "QUIET_S", 0.0)
    monkeypatch.setattr(process, "FLUSH_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.set_result)
    worker._moved()
    worker._moved()
    async with asyncio.timeout(LIMIT_S):
        assert await ended == process.STUCK_STATUS
    assert worker._service._is_draining
    (reported,) = channel.sent
    assert reported["reason"].startswith("another folder lies where the models' did")
