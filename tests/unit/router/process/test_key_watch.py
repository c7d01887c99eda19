"""The watch over the file of keys: when a router asks for keys, and what it does while it cannot read them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.errors import CapameshError, ConfigError
from capamesh.router.access.engines.location import DatabaseLocation
from capamesh.router.access.key_store import KeyStore
from capamesh.router.access.keys import KeyRing, Scope
from capamesh.router.access.keys_made import MARK_FILE
from capamesh.router.access.quotas import Quotas
from capamesh.router.access.usage_batch import Amount, UsageBatch, UsageRow, WrittenUsage
from capamesh.router.process import key_watch
from capamesh.router.process.key_watch import KeyWatch


class Watched:
    """A file of keys, a ring, and the watch that joins them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = KeyStore(DatabaseLocation(path))
        self.ring = KeyRing()
        self.quotas = Quotas()
        self.now_s = 0.0
        self.log = NullLog()
        self.watch = KeyWatch(
            DatabaseLocation(path),
            path.parent,
            self.ring,
            self.quotas,
            clock=lambda: self.now_s,
            wall_clock=lambda: self.now_s,
            log=self.log,  # type: ignore[arg-type]
        )

    def make(self, expires_s: float | None = None) -> str:
        return self.store.create("lab", Scope(), self.now_s, expires_s)[1]

    def code_of(self, text: str) -> str:
        try:
            self.ring.find(text)
        except CapameshError as error:
            return error.code
        return "taken"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each look take its time, however slow the machine is."""
    monkeypatch.setattr(key_watch, "PATIENCE_S", 60.0)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "keys.db")


async def test_router_asks_for_keys_once_the_first_is_made(watched: Watched) -> None:
    watched.watch.load()
    await watched.watch.look()
    assert not watched.ring.is_required
    text = watched.make()
    await watched.watch.look()
    assert (watched.ring.is_required, watched.code_of(text)) == (True, "taken")


@pytest.mark.parametrize("left", [None, b""])
async def test_router_whose_keys_are_lost_does_not_start_again(
    watched: Watched, left: bytes | None
) -> None:
    watched.make()
    await watched.watch.look()
    watched.path.unlink()
    if left is not None:
        watched.path.write_bytes(left)
    again = Watched(watched.path)
    with pytest.raises(ConfigError, match=r"keys were made .* has none: put them back"):
        again.watch.load()
    (watched.path.parent / MARK_FILE).unlink()
    again.watch.load()
    assert not again.ring.is_required


async def test_router_does_not_start_where_nobody_can_tell_which_keys_there_are(
    tmp_path: Path,
) -> None:
    garbage = tmp_path / "keys.db"
    garbage.write_bytes(b"no database" * 100)
    out_of_reach = tmp_path / ("a" * 300) / "keys.db"  # as in a folder that may not be entered
    for place in (garbage, out_of_reach):
        with pytest.raises(ConfigError, match=r"keys\.db"):
            Watched(place).watch.load()


async def test_file_that_is_made_anew_never_opens_the_router(watched: Watched) -> None:
    text = watched.make()
    watched.watch.load()
    watched.path.unlink()
    watched.path.touch()
    await watched.watch.look()
    assert (watched.ring.is_required, watched.code_of(text)) == (True, "taken")
    assert watched.code_of("cm_unknown0_" + 32 * "0") == "keys_unavailable"
    other = watched.make()
    await watched.watch.look()
    assert (watched.code_of(text), watched.code_of(other)) == ("unauthenticated", "taken")


async def test_file_that_cannot_be_read_in_time_counts_as_out_of_reach(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, unknown = watched.make(), "cm_unknown0_" + 32 * "0"
    watched.watch.load()
    monkeypatch.setattr(key_watch, "PATIENCE_S", 0.0)
    go_on = threading.Event()
    stamp = KeyStore.stamp
    monkeypatch.setattr(KeyStore, "stamp", lambda self: go_on.wait() and stamp(self))
    await watched.watch.look()
    await watched.watch.look()  # the first is still waited for, and no second one is begun
    assert (watched.code_of(text), watched.code_of(unknown)) == ("taken", "keys_unavailable")
    go_on.set()
    monkeypatch.setattr(key_watch, "PATIENCE_S", 60.0)
    await watched.watch.look()
    assert watched.code_of(unknown) == "unauthenticated"


async def test_usage_of_a_time_without_the_file_is_written_once(
    watched: Watched,
) -> None:
    text = watched.make()
    watched.watch.load()
    aside = watched.path.rename(watched.path.with_suffix(".aside"))
    watched.quotas.admit(watched.ring.find(text), "m", 2, 10, 0.0).settle(5)
    for _ in "ab":
        await watched.watch.look()
    aside.rename(watched.path)
    for _ in "ab":
        await watched.watch.look()
    assert watched.store.usage(0, 1) == {UsageRow(0, "lab", "m"): Amount(1, 2, 15)}


async def test_usage_of_which_it_was_not_told_that_it_was_written_counts_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = watched.make()
    watched.watch.load()
    key = watched.ring.find(text)
    write = KeyStore.write

    def cut_off(self: KeyStore, batch: UsageBatch) -> WrittenUsage:
        write(self, batch)
        monkeypatch.setattr(KeyStore, "write", write)
        raise ConfigError("the connection was lost")

    monkeypatch.setattr(KeyStore, "write", cut_off)
    watched.quotas.admit(key, "m", 2, 10, 0.0).settle(5)
    await watched.watch.look()
    watched.quotas.admit(key, "m", 1, 0, 0.0).settle(0)
    await watched.watch.close()
    assert watched.store.usage(0, 1) == {UsageRow(0, "lab", "m"): Amount(2, 3, 15)}
    assert watched.quotas.unwritten().rows == {}
    events = watched.log.events
    assert events == ["keys_read", "usage_unwritten", "usage_written"]
