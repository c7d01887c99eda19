"""The seat of a worker: its data folder, and its questions to the main process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.fleet.overrides import Hold
from capamesh.router.process.workers import worker
from capamesh.router.process.workers.messages import ToMain, Whole, held_of
from capamesh.router.process.workers.worker import Colleagues, WorkerHome
from capamesh.router.resilience.health import CircuitState

HOLD = Hold(PeerId("p"), ModelName("m"), ModelVersion(""), CircuitState.FORCED_OPEN)


class Main:
    """A main process that is reached, or not, and answers when it is told to."""

    def __init__(self, *, is_reached: bool = True) -> None:
        self.is_reached = is_reached
        self.asked: list[ToMain] = []
        self.colleagues = Colleagues(self._send)

    def _send(self, message: ToMain) -> bool:
        self.asked.append(message)
        return self.is_reached


async def test_page_is_the_own_part_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Main(is_reached=False).colleagues.whole("nodes", b"own") == b"own"
    monkeypatch.setattr(worker, "GATHER_S", 0.0)
    main = Main()
    assert await main.colleagues.whole("nodes", b"own") == b"own"
    main.colleagues.answered(Whole(1, b"too late"))


async def test_operators_word_has_been_taken_by_all_when_the_wait_ends() -> None:
    main = Main()
    task = asyncio.create_task(main.colleagues.hold(HOLD))
    await asyncio.sleep(0)
    assert main.asked == [held_of(HOLD, 1)]
    assert not task.done()
    main.colleagues.answered(Whole(1, b""))
    await task


def test_worker_reports_its_status_and_writes_neither_that_nor_the_boot_time(
    tmp_path: Path,
) -> None:
    reported: list[Mapping[str, Any]] = []
    log: Any = NullLog()
    home = WorkerHome(tmp_path, log, reported.append)
    home.lock()
    assert home.write_status({"state": "ready"})
    assert home.next_boot_ns(7) == 7
    assert reported == [{"state": "ready"}]
    assert list(tmp_path.iterdir()) == []
    assert home.keep("drains.bin", json.dumps({}).encode())
    assert [file.name for file in tmp_path.iterdir()] == ["drains.bin"]
