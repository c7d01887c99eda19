"""A worker without its links: what it tells its agent, and what its runs may take of the machine's memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_fakes import NullLog
from patience import LIMIT_S

from capamesh.node.agent.settings import NodeSettings
from capamesh.node.agent.worker_handle import start_of
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.devices.host import DeviceInfo
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.worker import process
from capamesh.node.worker.memory_limit import MIB, budget_bytes, hold_to, messages_bytes
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


GIB = 1024 * MIB
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts RLIMIT_DATA so")


@pytest.mark.parametrize(
    ("total", "free", "limit"),
    [
        (20 * GIB, 17 * GIB, 12 * GIB),  # a tenth and a fifth of the rest are left
        (1000 * MIB, 928 * MIB, 640 * MIB),  # what its agent needs
        (20 * GIB, GIB, int(GIB / 2 / 1.25)),  # half of little free memory
        (0, 0, 0),  # it is not known
    ],
)
def test_part_of_the_machine_is_for_models_and_runs(total: int, free: int, limit: int) -> None:
    assert budget_bytes(is_gpu=False, total_bytes=total, free_bytes=free) == limit


def test_link_s_messages_may_take_a_quarter_of_it() -> None:
    assert messages_bytes(1024 * MIB) == 256 * MIB
    assert messages_bytes(100 * MIB) == 64 * MIB
    assert messages_bytes(100 * GIB) == messages_bytes(0) == 512 * MIB


def test_most_of_a_gpu_is_for_models_and_runs() -> None:
    assert budget_bytes(is_gpu=True, total_bytes=80 * GIB, free_bytes=79 * GIB) == 72 * GIB


def test_system_that_does_not_say_what_a_process_has_gets_no_limit(tmp_path: Path) -> None:
    assert hold_to(0) == hold_to(GIB, proc=tmp_path) == 0


HELD = """
from capamesh.node.worker.memory_limit import MIB, hold_to
assert hold_to(100 * MIB) > 356 * MIB
kept = bytearray(200 * MIB)
try:
    bytearray(200 * MIB)
except MemoryError:
    print("refused", len(bytearray(20 * MIB)) // MIB)
"""
LOWER = """
import resource
from capamesh.node.worker.memory_limit import MIB, hold_to
resource.setrlimit(resource.RLIMIT_DATA, (300 * MIB, 400 * MIB))
print(hold_to(900 * MIB) // MIB)
print(resource.getrlimit(resource.RLIMIT_DATA) == (300 * MIB, 400 * MIB))
"""


@LINUX_ONLY
@pytest.mark.parametrize(
    ("code", "says"),
    [(HELD, "refused 20"), (LOWER, "300\nTrue")],
    ids=["it gets no more memory and goes on", "a limit that is there and lower stays"],
)
def test_process_is_held_to_the_lower_limit(code: str, says: str) -> None:
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, check=True, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == says
