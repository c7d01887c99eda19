"""The owners at work: by which clock they judge, and when what they know is written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog, advert, offer

from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.fleet.ownership_keeper import PIN_FILE, SAVE_EVERY_S, OwnerKeeper, load_pins
from capamesh.router.fleet.view import FleetView
from capamesh.router.rules.model_rules import NO_RULES

M, V1 = ModelName("m"), ModelVersion("1")


class Kept:
    """A keeper, and nodes that come and go."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.log = NullLog()
        log: Any = self.log
        self.keeper = OwnerKeeper(
            folder,
            rules=NO_RULES,
            publishers=(),
            invite_of=lambda peer: f"invite of {peer}",
            log=log,
            clock=clock,
        )
        self.keeper.fleet = FleetView(
            on_new=lambda _: None, on_gone=lambda _: None, owners=self.keeper.owners
        )

    def joins(self, peer: str, letter: str) -> None:
        offered = replace(offer(), digest="sha256-chunks:" + letter * 64)
        self.keeper.take([Joined(advert(peer, models=[offered]))])

    def serves(self, letter: str) -> bool:
        return self.keeper.owners.admits(M, V1, "sha256-chunks:" + letter * 64)


@pytest.fixture(autouse=True)
async def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write at once what a thread would write."""
    loop = asyncio.get_running_loop()

    def run(_: object, function: Any, *given: Any) -> asyncio.Future[None]:
        done: asyncio.Future[None] = loop.create_future()
        done.set_result(function(*given))
        return done

    monkeypatch.setattr(loop, "run_in_executor", run)


async def test_clock_that_is_set_gives_no_model_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Kept(tmp_path)
    first.joins("A", "a")
    first.keeper.close()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a machine without a clock of its own starts
    kept = Kept(tmp_path)
    kept.joins("A", "a")
    kept.keeper.take([Left(PeerId("A"), LeftReason.EXPIRED)])
    monkeypatch.setattr(time, "time", lambda: 1.7e9)  # and is told the time
    kept.joins("X", "e")
    kept.keeper.tick()
    assert (kept.serves("a"), kept.serves("e")) == (True, False)


async def test_pins_that_the_disk_refused_are_written_when_it_takes_them(
    tmp_path: Path,
) -> None:
    kept = Kept(tmp_path, clock=asyncio.get_running_loop().time)
    (tmp_path / PIN_FILE).mkdir()
    kept.joins("A", "a")
    for _ in range(3):
        kept.keeper.tick()
        await asyncio.sleep(SAVE_EVERY_S)
    assert kept.log.events == ["model_pins_not_kept"]
    (tmp_path / PIN_FILE).rmdir()
    kept.keeper.tick()
    await asyncio.sleep(0)
    assert [pin.model for pin in load_pins(tmp_path)] == [M]
