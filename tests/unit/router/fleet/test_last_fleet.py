"""The last fleet and its file: what is kept, what is read of it, and how often it is written."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog
from hypothesis import given
from hypothesis import strategies as st
from signed_adverts import FakeClocks

from capamesh.protocol.ids import PeerId
from capamesh.protocol.msgpack_codec import pack
from capamesh.router.fleet.clocks import Clocks
from capamesh.router.fleet.last_fleet import MAX_AGE_MS, MAX_BYTES, MAX_NODES, LastFleet, decode
from capamesh.router.fleet.last_fleet_file import LAST_FLEET_FILE, LastFleetFile, WritePace
from capamesh.router.fleet.lost_nodes import LostNodes


def test_nodes_and_bytes_are_bounded() -> None:
    kept = LastFleet()
    for at in range(MAX_NODES + 5):
        kept.heard(PeerId(str(at)), b"x", is_news=True)
    assert len(kept) == MAX_NODES
    kept.heard(PeerId("0"), b"x" * (MAX_BYTES - MAX_NODES + 1), is_news=True)
    assert repr(kept) == f"LastFleet({MAX_NODES} nodes, {MAX_BYTES} bytes)"
    kept.heard(PeerId("1"), b"xx", is_news=True)
    assert repr(kept) == f"LastFleet({MAX_NODES} nodes, {MAX_BYTES} bytes)"


@pytest.mark.parametrize(
    ("file", "reported"),
    [
        (b"", None),
        (b"\x93", None),
        (pack({"a": 1}), "no fleet of this version"),
        (pack([2, 1000, []]), "no fleet of this version"),
        (pack([1, 1000 - MAX_AGE_MS - 1, []]), "written 3600 s ago"),
        (pack([1, 1001 + MAX_AGE_MS, []]), "written -3600 s ago"),
        (b"x" * (MAX_BYTES * 2), "too many"),
    ],
)
def test_file_that_is_damaged_old_or_from_the_future_is_refused(
    file: bytes, reported: str | None
) -> None:
    with pytest.raises(ValueError, match=reported):
        decode(file, 1000)


@given(st.binary(max_size=200))
def test_no_junk_is_more_than_an_error_of_value(junk: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(junk, 1000)


class Kept:
    """A last fleet of one node, and its file."""

    def __init__(self, folder: Path, clocks: Clocks | None = None) -> None:
        self.log = NullLog()
        self.fleet = LastFleet()
        self.fleet.heard(PeerId("A"), b"advert", is_news=True)
        self.path = folder / LAST_FLEET_FILE
        log: Any = self.log
        self.file = LastFleetFile(folder, self.fleet, LostNodes(), clocks or FakeClocks(), log)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_file_that_is_damaged_is_a_warning_and_no_more(kept: Kept) -> None:
    kept.file.write()
    for damaged in (b"junk", kept.path.read_bytes()[:-1]):
        kept.path.write_bytes(damaged)
        assert kept.file.read() is None
    warned = [warning["file"] for warning in kept.log.of("last_fleet_not_used")]
    assert warned == [str(kept.path)] * 2


def test_disk_that_refuses_the_last_fleet_is_told_of_once_until_it_has_taken_one(
    kept: Kept,
) -> None:
    kept.path.mkdir()
    for _ in range(3):
        kept.file.write()
    assert len(kept.log.of("last_fleet_not_kept")) == 1
    kept.path.rmdir()
    kept.file.write()
    kept.path.unlink()
    kept.path.mkdir()
    kept.file.write()
    assert len(kept.log.of("last_fleet_not_kept")) == 2


def test_fleet_that_does_not_change_is_written_every_five_minutes() -> None:
    pace = WritePace(0.0)
    written_s = [now_s for now_s in range(1, 700) if pace.is_due(now_s, is_changed=False)]
    assert written_s == [300, 600]


async def test_changed_fleet_is_written_after_a_second_and_once_more_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    kept = Kept(tmp_path, Clocks(wall_ns=lambda: 0, steady_s=loop.time))

    async def at_once(function: Any, *arguments: Any) -> None:  # no thread waits for virtual time
        function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    keeping = asyncio.create_task(kept.file.keep())
    await asyncio.sleep(0.9)
    assert not kept.path.exists()
    await asyncio.sleep(0.2)
    assert kept.path.exists()
    kept.path.unlink()
    await asyncio.sleep(5)
    assert not kept.path.exists()  # it has not changed
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert kept.file.read() == ([b"advert"], [])
