"""The page in which a worker marks what it executes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.devices.in_flight_page import (
    MAX_NAME_BYTES,
    PAGE_BYTES,
    SLOT_BYTES,
    SLOTS,
    InFlightPage,
    Marked,
    Phase,
)
from capamesh.protocol.errors import ConfigError

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


def test_slot_is_overwritten_and_cleared_and_the_others_stay(tmp_path: Path) -> None:
    page = InFlightPage.create(tmp_path / "page")
    page.name(1, "a-longer-name", "1")
    page.name(2, "b", "22")
    page.begin(0, 1, Phase.LOADING)
    page.begin(1, 1, Phase.RUNNING)
    page.begin(0, 2, Phase.RUNNING)
    assert page.marked() == [
        Marked("b", "22", Phase.RUNNING),
        Marked("a-longer-name", "1", Phase.RUNNING),
    ]
    page.end(0)
    page.end(0)
    assert page.marked() == [Marked("a-longer-name", "1", Phase.RUNNING)]
    page.close()


def test_request_that_runs_is_reported_with_its_slot_until_that_is_used_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "page"
    page = InFlightPage.create(path)
    page.name(1, "iris", "1", DIGEST)
    page.begin(0, 1, Phase.RUNNING)
    page.tell(0, bytes(range(8)), 2**40)
    whole = Marked("iris", "1", Phase.RUNNING, DIGEST, "0001020304050607", 2**40)
    bare = Marked("iris", "1", Phase.RUNNING, DIGEST)
    assert page.marked() == [whole]
    record = path.read_bytes()
    with path.open("r+b", buffering=0) as file:  # cut off while it was written
        os.pwrite(file.fileno(), bytes([record[SLOT_BYTES - 1] ^ 1]), SLOT_BYTES - 1)
        assert page.marked() == [bare]
        os.pwrite(file.fileno(), record[SLOT_BYTES - 1 : SLOT_BYTES], SLOT_BYTES - 1)
    assert page.marked() == [whole]
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
