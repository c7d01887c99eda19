"""The file of the last fleet: what is read of it, and how often it is written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import in_virtual_time
from fleet_members import EventLog
from signed_adverts import FakeClocks

from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.clocks import Clocks
from capamesh.router.fleet.last_fleet import LastFleet
from capamesh.router.fleet.last_fleet_file import LAST_FLEET_FILE, LastFleetFile, WritePace


class Kept:
    """A last fleet of one node, and its file."""

    def __init__(self, folder: Path, clocks: Clocks | None = None) -> None:
        self.log = EventLog()
        self.fleet = LastFleet()
        self.fleet.heard(PeerId("A"), b"advert", is_news=True)
        self.path = folder / LAST_FLEET_FILE
        log: Any = self.log
        self.file = LastFleetFile(folder, self.fleet, clocks or FakeClocks(), log)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.mark.parametrize("damage", ["junk", "cut"])
def test_file_that_is_damaged_is_a_warning_and_no_more(kept: Kept, damage: str) -> None:
    kept.file.write()
    whole = kept.path.read_bytes()
    kept.path.write_bytes(b"junk" if damage == "junk" else whole[:-1])
    assert kept.file.read() is None
    (warning,) = kept.log.of("last_fleet_not_used")
    assert warning["file"] == str(kept.path)


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


@in_virtual_time
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
    assert kept.file.read() == [b"advert"]
