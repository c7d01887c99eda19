"""One worker as the main process sees it, and its own seat: what it is sent now, later or never, and what is left when it dies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.router.process.workers import worker
from capamesh.router.process.workers.handle import WorkerHandle
from capamesh.router.process.workers.messages import (
    Ask,
    Counts,
    Forget,
    Heard,
    MeshState,
    Start,
    Status,
    ToMain,
    ToWorker,
    Whole,
    from_wire,
    to_wire,
)
from capamesh.router.process.workers.worker import Colleagues, WorkerHome

A, B = PeerId("a"), PeerId("b")


class Process:
    """A process that reads what it is sent, or not."""

    pid: int | None = 7
    starts = 1

    def __init__(self) -> None:
        self.is_reading = True
        self.sent: list[ToWorker | ToMain] = []

    def send(self, message: dict[str, Any]) -> bool:
        if self.is_reading and self.pid is not None:
            self.sent.append(from_wire(message))
        return self.is_reading and self.pid is not None


class Made:
    """A worker whose process is a fake one."""

    def __init__(self) -> None:
        self.told: list[ToMain] = []
        self.counted: list[bytes] = []
        log: Any = NullLog()
        self.worker = WorkerHandle(
            1,
            lambda: Start(1, {}),
            [3],
            [4],
            on_message=lambda _, message: self.told.append(message),
            on_down=lambda worker: self.counted.append(worker.counts),
            drain_s=1.0,
            log=log,
        )
        self.process = Process()
        self.worker._child = self.process  # type: ignore[assignment]

    def says(self, message: ToMain | ToWorker) -> None:
        self.worker._received(to_wire(message))


def test_worker_that_does_not_read_is_sent_the_newest_of_each_later() -> None:
    made = Made()
    made.process.is_reading = False
    for envelope in (b"1", b"2"):
        made.worker.hear(A, envelope)
    made.worker.tell(MeshState(("x",)))
    made.worker.tell(MeshState(()))
    assert not made.worker.ask(Ask(1, "nodes"))
    made.worker.flush()
    made.process.is_reading = True
    made.worker.hear(B, b"3")
    assert made.process.sent == []  # what came before goes before
    made.worker.flush()
    made.worker.flush()
    assert made.process.sent == [Heard(b"2"), MeshState(()), Heard(b"3")]


def test_worker_that_does_not_read_is_told_later_of_each_node_to_forget() -> None:
    made = Made()
    made.process.is_reading = False
    for peer in ("a", "b", "a"):
        made.worker.tell(Forget(peer))
    made.process.is_reading = True
    made.worker.flush()
    assert made.process.sent == [Forget("a"), Forget("b")]


def test_worker_that_is_down_is_owed_nothing() -> None:
    made = Made()
    made.process.pid = None
    made.worker.hear(A, b"1")
    made.process.pid = 8
    made.worker.flush()
    assert made.process.sent == []


def test_counts_of_a_worker_are_there_for_who_is_told_of_its_end_and_gone_after() -> None:
    made = Made()
    made.says(Counts(b"x 1.0", {"now": [0, 0, 0]}))
    made.says(Status({"state": "ready", "link_address": "h:1"}))
    made.process.pid = None
    made.worker._lost("killed")
    assert made.counted == [b"x 1.0"]
    assert (made.worker.counts, made.worker.history, made.worker.link_address) == (b"", {}, "")
    assert (made.worker.row["state"], made.worker.last_down) == ("down", "killed")


def test_message_that_only_a_main_process_sends_is_refused() -> None:
    made = Made()
    with pytest.raises(ProtocolViolation):
        made.says(MeshState(()))
    assert made.told == []


async def test_page_is_the_own_part_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Colleagues(lambda _: False).whole("nodes", b"own") == b"own"
    monkeypatch.setattr(worker, "GATHER_S", 0.0)
    colleagues = Colleagues(lambda _: True)
    assert await colleagues.whole("nodes", b"own") == b"own"
    colleagues.answered(Whole(1, b"too late"))


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
