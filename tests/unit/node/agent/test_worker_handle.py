"""An agent's care of one worker: its start messages, its deaths, its counts. No process is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_fakes import NullLog

from capamesh.node.agent.settings import NodeSettings
from capamesh.node.agent.worker_handle import WorkerHandle, start_of
from capamesh.node.contract.messages import (
    Drain,
    Start,
    Stuck,
    Survived,
    ToWorker,
    worker_message,
)
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.devices.host import DeviceInfo
from capamesh.node.devices.in_flight_page import InFlightPage, Phase
from capamesh.protocol.bulk_deaths import MOST, WITHIN_S
from capamesh.protocol.channel.backoff import RestartPolicy

CPU = DeviceInfo(0, "cpu", "a CPU", 1000, 500, 4, driver_version="580.1")
OLD = "sha256-chunks:" + "00" * 32


class Care:
    """A worker that never runs: a test says when it starts and dies."""

    def __init__(self, folder: Path, settings: NodeSettings | None = None) -> None:
        self.log = NullLog()
        self.now_s = 0.0
        self.ups: list[int] = []
        self.downs: list[int] = []
        self.sent: list[ToWorker] = []
        settings = settings or NodeSettings(data_folder=folder, models_folder=folder)
        self.worker = WorkerHandle(
            3,
            CPU,
            start_of(settings, 3, CPU, "127.0.0.1"),
            on_message=lambda _, __: None,
            on_up=self.ups.append,
            on_down=self.downs.append,
            log=self.log,
            clock=lambda: self.now_s,
        )
        self.worker.send = lambda message: self.sent.append(message) is None

    def start(self) -> Start:
        start = worker_message(self.worker._opening())
        assert isinstance(start, Start)
        return start

    def die(self, *loading: str, phase: Phase = Phase.LOADING, request: bytes = b"") -> None:
        """Live once, and die while loading these models, or in another phase of them."""
        start = self.start()
        if start.running_page:
            page = InFlightPage.open(Path(start.running_page))
            for slot, name in enumerate(loading):
                page.name(slot, name, "1", OLD)
                page.begin(slot, slot, phase)
                if request:
                    page.tell(slot, request, 0)
            page.close()
        self.now_s += 1.0
        self.worker._down("killed by signal 11 (Segmentation fault)")


@pytest.fixture
def care(tmp_path: Path) -> Care:
    return Care(tmp_path)


def test_worker_is_reported_what_the_operator_set(tmp_path: Path) -> None:
    worker = WorkerSettings(threads=2, poll_s=7.0, is_controllable=True)
    start = Care(tmp_path, NodeSettings(tmp_path, tmp_path, port=5000, worker=worker)).start()
    assert (start.settings, start.port, start.driver) == (worker, 5003, "580.1")
    assert start.cache_folder == str(tmp_path / "cache")
    assert start.running_page == str(tmp_path / "worker-3.running")
    assert start.verdicts == ()


def test_model_that_ends_its_worker_thrice_is_held_back_at_the_next_start(care: Care) -> None:
    for _ in range(2):
        care.die("bad")
    assert care.start().verdicts == ()
    care.die("bad")
    (bad,) = care.start().verdicts
    assert (bad.name, bad.version, bad.digest) == ("bad", "1", OLD)
    assert bad.held_s == 15.0
    assert "ended its worker (killed by signal 11 (Segmentation fault), while" in bad.reason
    assert care.log.events.count("worker_died") == 3
    assert care.log.events.count("worker_guarded") == 1
    assert care.downs == [3, 3, 3]
    assert care.ups == [3, 3, 3, 3, 3]  # the two starts whose messages were looked at, too


def test_bulk_runs_end_so_many_workers_and_then_none_is_taken_for_a_while(care: Care) -> None:
    for _ in range(MOST):
        assert care.start().bulk_refused_s == 0.0
        care.worker._child._backoff.failed(1.0)
        care.die("bad", phase=Phase.BULK)
        assert care.worker._child._backoff.failed(1.0) == RestartPolicy().first_s
        care.worker._child._backoff.reset()
    start = care.start()
    assert (start.verdicts, start.bulk_refused_s) == ((), WITHIN_S - (MOST - 1))
    assert care.log.events.count("bulk_refused") == 1
    for _ in range(3):
        care.die("bad", "other", phase=Phase.LOADING)
    assert {one.name for one in care.start().verdicts} == {"bad", "other"}
    care.now_s = WITHIN_S + 1.0
    assert care.start().bulk_refused_s == 0.0


def test_worker_that_ended_itself_says_why(care: Care) -> None:
    for _ in range(3):
        care.worker.heard(Stuck("loading bad/1 has taken more than 9 s"))
        care.die("bad")
    why = "killed by signal 11 (Segmentation fault): loading bad/1 has taken more than 9 s"
    assert care.worker.last_down == why
    assert f"({why}, while" in care.start().verdicts[0].reason
    care.die()
    assert care.worker.last_down == "killed by signal 11 (Segmentation fault)"


def test_end_of_a_worker_that_was_asked_to_leave_is_no_crash(care: Care) -> None:
    care.die("bad")
    care.die("bad")
    assert care.worker.drain()
    care.die("bad")
    assert care.start().verdicts == ()
    assert care.sent == [Drain()]


def test_request_that_ends_well_is_suspected_no_more(care: Care) -> None:
    care.die("bad", phase=Phase.RUNNING, request=b"12345678")
    (bad,) = care.start().verdicts
    assert bad.suspects == (b"12345678".hex(),)
    care.worker.heard(Survived("bad", "1", (b"12345678".hex(),), 0))
    (bad,) = care.start().verdicts
    assert bad.suspects == ()


def test_worker_without_a_page_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the data folder")
    care = Care(tmp_path, NodeSettings(tmp_path / "file" / "data", tmp_path))
    assert care.start().running_page == ""
    care.die("bad")
    assert care.log.events == ["no_running_page", "no_running_page"]
    assert care.downs == [3]
