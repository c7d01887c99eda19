"""The page in which a worker marks what it executes, and threads that give way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.devices.idle_thread import be_nice, give_way
from capamesh.node.devices.in_flight_journal import NO_SLOT, InFlightJournal
from capamesh.node.devices.in_flight_page import (
    MAX_NAME_BYTES,
    PAGE_BYTES,
    SLOT_BYTES,
    SLOTS,
    InFlightPage,
    Marked,
    Phase,
)
from capamesh.node.devices.request_digest import request_digest
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.tensors import Tensor

DIGEST = "sha256-chunks:" + "0a" * 32
BREAKS = """
import os, signal, sys
from pathlib import Path
from capamesh.node.devices.in_flight_page import Phase, InFlightPage
page = InFlightPage.open(Path(sys.argv[1]))
page.name(7, "digits", "12", sys.argv[2])
page.name(8, "iris", "1")
page.begin(0, 8, Phase.RUNNING)
page.begin(63, 7, Phase.RUNNING)
page.begin(5, 8, Phase.LOADING)
page.end(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_marks_of_a_killed_process_are_still_there(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.running"
    page = InFlightPage.create(path)
    ended = subprocess.run([sys.executable, "-c", BREAKS, str(path), DIGEST], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert page.marked() == [
        Marked("iris", "1", Phase.LOADING),
        Marked("digits", "12", Phase.RUNNING, DIGEST),
    ]
    page.close()


def test_creating_again_leaves_an_earlier_writer_with_a_page_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "page"
    earlier = InFlightPage.create(path)
    earlier.name(1, "iris", "1")
    later = InFlightPage.create(path)
    earlier.begin(0, 1, Phase.RUNNING)
    assert later.marked() == []
    assert earlier.marked() == [Marked("iris", "1", Phase.RUNNING)]
    earlier.close()
    later.close()


def test_request_is_reported_with_its_slot_until_that_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "page"
    page = InFlightPage.create(path)
    page.name(1, "iris", "1", DIGEST)
    page.begin(0, 1, Phase.RUNNING)
    page.tell(0, bytes(range(8)), 2**40)
    whole = Marked("iris", "1", Phase.RUNNING, DIGEST, "0001020304050607", 2**40)
    bare = Marked("iris", "1", Phase.RUNNING, DIGEST)
    assert page.marked() == [whole]
    last = path.read_bytes()[SLOT_BYTES - 1]
    with path.open("r+b", buffering=0) as file:
        for byte, seen in ((last ^ 1, bare), (last, whole)):  # cut off while it was written, or not
            os.pwrite(file.fileno(), bytes([byte]), SLOT_BYTES - 1)
            assert page.marked() == [seen]
    page.begin(0, 1, Phase.RUNNING)
    assert page.marked() == [bare]
    page.close()


def test_name_that_does_not_fit_is_refused_and_the_longest_fits(tmp_path: Path) -> None:
    page = InFlightPage.create(tmp_path / "page")
    name, version = "n" * MAX_NAME_BYTES, "9" * 20
    page.name(1, name, version, DIGEST)
    page.begin(SLOTS - 1, 1, Phase.RUNNING)
    assert page.marked() == [Marked(name, version, Phase.RUNNING, DIGEST)]
    with pytest.raises(ValueError, match=r"has 257 bytes; at most 256"):
        page.name(1, name + "n", version)
    page.close()


def test_invalid_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot open the running page .*No such file"):
        InFlightPage.open(tmp_path / "page")
    (tmp_path / "page").write_bytes(bytes(PAGE_BYTES - 1))
    with pytest.raises(ConfigError, match=f"cannot map {PAGE_BYTES} bytes of the running page"):
        InFlightPage.open(tmp_path / "page")


def test_record_with_any_of_its_bytes_changed_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "page"
    page = InFlightPage.create(path)
    page.name(1, "iris", "12", DIGEST)
    page.begin(0, 1, Phase.RUNNING)
    record_bytes = 9 + len("iris") + len("12") + len(DIGEST)
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at in range(record_bytes):
            os.pwrite(file.fileno(), bytes([whole[at] ^ 1]), at)
            assert page.marked() == []
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert len(page.marked()) == 1
    page.close()


@given(junk=st.binary(max_size=3 * SLOT_BYTES), at=st.integers(0, 3 * SLOT_BYTES))
def test_junk_never_raises_and_only_whole_records_are_read(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("junk") / "page"
    page = InFlightPage.create(path)
    page.name(1, "iris", "1")
    for slot in range(3):
        page.begin(slot, 1, Phase.RUNNING)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(junk)
    whole = Marked("iris", "1", Phase.RUNNING)
    assert set(page.marked()) <= {whole}
    untouched = sum(
        at + len(junk) <= slot * SLOT_BYTES or at >= (slot + 1) * SLOT_BYTES for slot in range(3)
    )
    assert len(page.marked()) >= untouched
    page.close()


@pytest.fixture
def page(tmp_path: Path) -> InFlightPage:
    return InFlightPage.create(tmp_path / "page")


def test_model_that_is_not_loaded_any_more_is_forgotten(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    kept = marks.number("n", "1", "")
    for digest in "abc":
        number = marks.number("m", "1", digest)
        assert marks.number("m", "1", digest) == number
        marks.release(number)
        marks.end(marks.begin(number, Phase.RUNNING))  # another still has it
        marks.release(number)
    assert set(page._records) == {kept}
    assert (len(marks._known), len(marks._users)) == (1, 1)
    assert marks.number("m", "1", "a") not in {kept, number}


def test_marks_at_the_loss_of_the_device_stay(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    m, n = marks.number("m", "1", "sha256-chunks:a"), marks.number("n", "1", "")
    ended, running = marks.begin(n, Phase.RUNNING), marks.begin(m, Phase.RUNNING)
    marks.end(ended)
    marks.settle()
    marks.end(running)
    assert marks.begin(n, Phase.RUNNING) == NO_SLOT
    marks.blame(n, Phase.LOADING)  # whatever takes too long now waits for the device
    assert page.marked() == [Marked("m", "1", Phase.RUNNING, "sha256-chunks:a")]


@pytest.mark.parametrize("running", [3, SLOTS])
def test_model_that_ends_the_process_alone_stays_marked(page: InFlightPage, running: int) -> None:
    marks = InFlightJournal(page)
    others, bad = marks.number("m", "1", ""), marks.number("bad", "1", "sha256-chunks:a")
    slots = [marks.begin(others, Phase.RUNNING) for _ in range(running)]
    loading = marks.begin(bad, Phase.LOADING)
    marks.blame(bad, Phase.LOADING)
    for slot in (*slots, loading):
        marks.end(slot)
    assert marks.begin(others, Phase.RUNNING) == NO_SLOT
    marks.blame(others, Phase.RUNNING)  # the first is what everything waits for
    assert page.marked() == [Marked("bad", "1", Phase.LOADING, "sha256-chunks:a")]


def test_run_that_begins_while_another_is_convicted_is_not_marked(
    page: InFlightPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = InFlightJournal(page)
    other, bad = marks.number("m", "1", ""), marks.number("bad", "1", "")
    begin = page.begin

    def begin_late(slot: int, number: int, phase: Phase) -> None:
        monkeypatch.setattr(page, "begin", begin)
        marks.blame(bad, Phase.RUNNING)
        begin(slot, number, phase)

    monkeypatch.setattr(page, "begin", begin_late)
    marks.begin(other, Phase.RUNNING)
    assert page.marked() == [Marked("bad", "1", Phase.RUNNING)]


def test_threads_never_share_a_slot(page: InFlightPage) -> None:
    marks = InFlightJournal(page)
    number = marks.number("m", "1", "")
    in_use: set[int] = set()

    def mark(_: int) -> None:
        slot = marks.begin(number, Phase.RUNNING)
        assert slot not in in_use
        in_use.add(slot)
        in_use.remove(slot)
        marks.end(slot)

    with ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(mark, range(2_000)):
            assert outcome is None
    assert page.marked() == []
    assert len(marks._free) == SLOTS


def x(array: object, name: str = "x") -> Tensor:
    return Tensor.from_numpy(name, np.array(array, np.float32))


def test_values_shapes_and_the_number_of_tensors_are_reported_apart() -> None:
    requests = [[x([[1, 2]])], [x([[1, 3]])], [x([[1], [2]])], [x([1]), x([2])], [x([1, 2])]]
    assert len({request_digest(request) for request in requests}) == len(requests)


def test_large_tensors_are_reported_apart_by_their_length_and_by_what_is_spread_over_them() -> None:
    zeros = np.zeros(1_000_000, np.float32)
    halves = zeros.copy()
    halves[500_000:] = 1.7
    digests = {request_digest([x(array)]) for array in (zeros, halves, zeros[:-1])}
    assert len(digests) == 3


def test_large_tensors_of_small_whole_numbers_are_reported_apart() -> None:
    rows = [np.full((1, 8192), value) for value in range(1, 8)]
    assert len({request_digest([x(row)]) for row in rows}) == len(rows)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such threads")
def test_thread_gives_way_and_no_other_does() -> None:
    kinds: list[int] = []

    def work() -> None:
        assert give_way()
        kinds.append(os.sched_getscheduler(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert kinds == [os.SCHED_IDLE]
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_nice_thread_leaves_the_priority_of_all_others() -> None:
    def nice(by: int) -> int:
        be_nice(by)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(nice, 7).result() == min(before + 7, 19)
        assert pool.submit(nice, 0).result() == min(before + 7, 19)  # nobody may go back
        # it is less than those have who began as low
        assert pool.submit(nice, 5).result() == min(before + 12, 19)
        assert pool.submit(nice, 19).result() == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
