"""What a worker's deaths are blamed on, what is refused or held back for it, and how it is started again."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_fakes import NullLog
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.agent.quarantine import (
    ALONE_S,
    GOOD_LIFE_S,
    HOLD_S,
    LONGEST_HOLD_S,
    LONGEST_REST_S,
    MAX_MODELS,
    MAX_REQUESTS,
    REFUSED_S,
    REST_S,
    SIZE_REST_S,
    CrashRecord,
)
from capamesh.node.agent.settings import NodeSettings
from capamesh.node.agent.worker_handle import WorkerHandle, start_of
from capamesh.node.contract.messages import Drain, Start, Stuck, Survived, ToWorker, worker_message
from capamesh.node.contract.settings import WorkerSettings
from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.host import DeviceInfo
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.protocol.bulk_deaths import MOST, WITHIN_S
from capamesh.protocol.channel.backoff import RestartPolicy

ABORTED = "killed by signal 6 (Aborted)"
OLD, NEW = "sha256-chunks:" + "00" * 32, "sha256-chunks:" + "11" * 32
A, B, C, D = (letter * 16 for letter in "abcd")
"""Requests."""


def running(request: str = "", name: str = "bad", *, large: int = 0, files: str = OLD) -> Marked:
    return Marked(name, "1", Phase.RUNNING, files, request, large)


def loading(name: str = "bad", files: str = OLD) -> Marked:
    return Marked(name, "1", Phase.LOADING, files)


def bulk(request: str = "", name: str = "bad") -> Marked:
    return Marked(name, "1", Phase.BULK, OLD, request)


NONE = Verdict("", "", "", "")


class Record:
    """A record, and a clock that goes on by a second before each death."""

    def __init__(self) -> None:
        self.record = CrashRecord()
        self.now_s = 0.0

    def die(self, *marked: Marked, lived_s: float = 1.0) -> tuple[str, ...]:
        self.now_s += 1.0
        return self.record.died(marked, ABORTED, lived_s, self.now_s)

    def verdict(self, name: str = "bad") -> Verdict | None:
        found = [one for one in self.record.verdicts(self.now_s) if one.name == name]
        return found[0] if found else None

    def held_s(self) -> float:
        return (self.verdict() or NONE).held_s

    def size(self) -> tuple[int, float]:
        """Return the size that is refused, and for how long."""
        verdict = self.verdict() or NONE
        return verdict.refused_bytes, verdict.refused_s if verdict.refused_bytes else 0.0

    def refused(self, name: str = "bad") -> dict[str, float]:
        return dict((self.verdict(name) or NONE).refused)


# requests


def test_request_that_ended_two_processes_is_not_run_again_and_its_model_goes_on() -> None:
    record = Record()
    assert record.die(running(A)) == ()
    assert record.refused() == {}
    assert record.die(running(A)) == (
        "bad/1 ended its worker (killed by signal 6 (Aborted), while running), 2 times by the same request;"
        " it is not run again for 3600 s",
    )
    assert record.refused() == {A: REFUSED_S}
    assert record.held_s() == 0
    record.now_s += REFUSED_S
    assert record.refused() == {}


def test_requests_run_alone_for_a_while_after_a_death_so_that_the_next_tells_which_it_was() -> None:
    record = Record()
    record.die(running())  # several together
    verdict = record.verdict()
    assert (verdict.alone_s, verdict.suspects, verdict.digest) == (ALONE_S, (), OLD)
    record.now_s += ALONE_S
    assert record.verdict() is None


def test_request_that_was_only_there_is_cleared_when_it_ends_well() -> None:
    record = Record()
    record.die(running(A), running(B, "good"))
    suspects = {one.name: one.suspects for one in record.record.verdicts(record.now_s)}
    assert suspects == {"bad": (A,), "good": (B,)}
    record.record.survived("good", "1", B)
    record.record.survived("unknown", "1", B)
    record.die(running(A), running(B, "good"))
    assert (record.refused("good"), set(record.refused())) == ({}, {A})


def test_requests_that_are_suspected_of_a_model_are_bounded() -> None:
    record = Record()
    requests = [f"{number:016x}" for number in range(MAX_REQUESTS + 10)]
    for request in requests:
        record.die(running(request, large=1))
    assert {*record.verdict().suspects} == {*requests[10:]}


def test_models_that_are_remembered_are_bounded() -> None:
    record = Record()
    for number in range(MAX_MODELS + 1):
        record.die(running(A, f"m{number}"))
    assert len(record.record.verdicts(record.now_s)) == MAX_MODELS
    assert record.verdict("m0") is None


# sizes


def test_size_of_which_two_different_requests_killed_is_refused_for_longer_each_time() -> None:
    record = Record()
    record.die(running(A, large=5_000))
    (reason,) = record.die(running(A, large=5_000))
    assert reason.endswith("2 times by the same request; it is not run again for 3600 s")
    assert record.size() == (0, 0.0)
    assert record.die(running(B, large=4_000)) == (
        "bad/1 ended its worker (killed by signal 6 (Aborted), while running), by different requests of 5000 bytes"
        " or less; the next as large is tried after 0.5 s",
    )
    assert record.size() == (5_000, SIZE_REST_S)
    record.die(running(C, large=9_000))  # the trial
    assert record.size() == (5_000, 2 * SIZE_REST_S)
    for _ in range(12):
        record.die(running(D, large=9_000))
    assert record.size() == (5_000, LONGEST_REST_S)


def test_size_is_refused_though_some_requests_end_well_in_between() -> None:
    record = Record()
    rests: list[float] = []
    for number in range(10):
        record.die(running(f"{number:016x}", large=5_000))
        rests.append(record.size()[1])
        record.record.survived_size("bad", "1", 5_000)
    assert rests == [0.0, 0.5, 0.0, 1.0, 0.0, 2.0, 0.0, 4.0, 0.0, 8.0]
    record.die(running(A, large=5_000), lived_s=GOOD_LIFE_S)
    record.die(running(B, large=5_000))
    assert record.size() == (5_000, SIZE_REST_S)


# models


def test_three_deaths_by_different_usual_requests_make_a_model_rest_for_longer_each_time() -> None:
    record = Record()
    assert record.die(running(A)) == record.die(running(B)) == ()
    reason = (
        "bad/1 ended its worker (killed by signal 6 (Aborted), while running), by 3 different requests;"
        " it is tried again after 1 s"
    )
    assert record.die(running(C)) == (reason,)
    verdict = record.verdict()
    assert (verdict.held_s, verdict.reason) == (REST_S, reason)
    record.now_s += REST_S
    assert record.held_s() == 0
    record.die(running(D))
    assert record.held_s() == 2 * REST_S
    for _ in range(10):
        record.die(running(D))
    assert record.held_s() == LONGEST_REST_S


def test_model_that_ends_its_worker_by_loading_is_held_back_for_longer_each_time() -> None:
    record = Record()
    assert record.die(loading()) == record.die(loading()) == ()
    assert record.die(loading()) == (
        "bad/1 ended its worker (killed by signal 6 (Aborted), while loading), 3 times in a row while it was loaded;"
        " it is tried again after 15 s",
    )
    assert record.held_s() == HOLD_S
    record.now_s += HOLD_S
    record.die(loading())
    assert record.held_s() == 2 * HOLD_S
    for _ in range(10):
        record.die(loading())
    assert record.held_s() == LONGEST_HOLD_S


@pytest.mark.parametrize(("lived_s", "held_s"), [(GOOD_LIFE_S - 1, HOLD_S), (GOOD_LIFE_S, 0)])
def test_good_life_ends_the_row(lived_s: float, held_s: float) -> None:
    record = Record()
    record.die(loading())
    record.die(loading())
    record.die(loading(), lived_s=lived_s)
    assert record.held_s() == held_s


def test_other_files_are_not_to_blame_for_what_the_earlier_ones_did() -> None:
    record = Record()
    for _ in range(3):
        record.die(loading())
    assert not record.record.offered("bad", "1", "")
    assert not record.record.offered("bad", "1", OLD)
    assert not record.record.offered("bad", "2", NEW)
    assert record.held_s() == HOLD_S
    assert record.record.offered("bad", "1", NEW)
    assert record.verdict() is None
    assert not record.record.offered("bad", "1", NEW)
    record.die(loading(files=NEW))
    record.die(loading(files=OLD))  # put back: anew
    record.die(loading(files=OLD))
    assert record.held_s() == 0


@given(st.lists(st.sets(st.sampled_from([A, B, C, D]), max_size=3), max_size=12))
def test_model_rests_after_three_deaths_and_no_request_before_two(deaths: list[set[str]]) -> None:
    record = Record()
    seen: dict[str, int] = {}
    count = 0
    for requests in deaths:
        count += bool(requests)
        for request in requests:
            seen[request] = seen.get(request, 0) + 1
        record.die(*(running(request) for request in sorted(requests)))
        assert all(seen[request] >= 2 for request in record.refused())
        if record.held_s():
            assert count >= 3
            assert len(seen) >= 3


# bulk requests


def test_death_that_is_put_down_to_bulk_requests_says_nothing_of_anything_else() -> None:
    record = Record()
    for number in range(50):
        marked = (bulk(f"{number:016x}"), running(A), running(B, "good"), loading("other"))
        record.now_s += 1.0
        (reason,) = record.record.died_in_bulk(marked, ABORTED, record.now_s)
        assert reason.endswith(", by a bulk request; it is not run again for 3600 s")
    (verdict,) = record.record.verdicts(record.now_s)
    assert (verdict.name, verdict.digest, verdict.held_s) == ("bad", OLD, 0.0)
    assert (verdict.suspects, verdict.refused_bytes, verdict.alone_s) == ((), 0, 0.0)
    assert verdict.refused[f"{49:016x}"] == REFUSED_S
    assert A not in verdict.refused
    record.die(running(A))
    record.die(running(B))
    assert record.held_s() == 0.0  # two deaths in a row are not fifty-two


def test_bulk_requests_that_are_refused_are_bounded_and_end_with_their_time_and_files() -> None:
    record = Record()
    requests = [f"{number:016x}" for number in range(MAX_REQUESTS + 10)]
    for request in requests:
        record.record.died_in_bulk([bulk(request)], ABORTED, 1.0)
    record.now_s = 1.0
    assert record.refused().keys() == {*requests[10:]}
    record.record.offered("bad", "1", NEW)
    assert record.record.verdicts(1.0) == ()
    record.record.died_in_bulk([bulk(A)], ABORTED, 2.0)
    assert record.record.verdicts(2.0 + REFUSED_S) == ()


CPU = DeviceInfo(0, "cpu", "a CPU", 1000, 500, 4, driver_version="580.1")


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
