from __future__ import annotations

import asyncio
import json

import pytest
from fleet_fakes import NullLog, in_virtual_time

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.steps import Steps
from capamesh.router.page.backlog import KEPT_FRAMES, PIECE_BYTES, Backlog, Reader
from capamesh.router.page.feed import Feed, packed
from capamesh.router.page.overview import Overview


async def pack_here(content: bytes) -> bytes:
    return packed(content)


class Source:
    """Overviews of one node, whose number is `value`; each takes `cost_s` of the processor."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.value: int | str = 0
        self.cost_s = cost_s
        self.work_s = 0.0
        self.is_broken = False
        self.log = NullLog()

    def steps(self) -> Steps[Overview]:
        yield
        self.work_s += self.cost_s
        if self.is_broken:
            raise ValueError("a bug")
        return Overview({}, {"a": {"x": self.value}}, {})

    def feed(self, most_viewers: int = 2, backlog: Backlog | None = None) -> Feed:
        return Feed(
            self.steps,
            boot="boot",
            log=self.log,  # type: ignore[arg-type]
            clock=asyncio.get_running_loop().time,
            work_clock=lambda: self.work_s,
            most_viewers=most_viewers,
            pack=pack_here,
            backlog=backlog,
        )


def values(reader: Reader | None) -> list[int]:
    """Return the values that a reader has not read yet."""
    found: list[int] = []
    assert reader is not None
    while frame := reader.read():
        found.append(json.loads(frame.split(b"data: ")[1])["nodes"]["a"]["x"])
    assert frame == b""
    return found


@in_virtual_time
async def test_viewer_gets_what_changed_since_its_snapshot() -> None:
    source = Source()
    feed = source.feed()
    await feed.snapshot(is_packed=False)
    revision = feed.revision
    with feed.following():
        reader = feed.reader(revision)
        assert values(reader) == []
        source.value = 5
        assert reader is not None
        await feed.wait(reader, 10.0)
        assert values(reader) == [5]
        assert values(feed.reader(revision)) == [5]
        assert values(feed.reader(feed.revision)) == []


@in_virtual_time
async def test_one_turn_serves_all_and_nothing_is_made_while_nobody_watches() -> None:
    feed = Source().feed()
    with feed.following(), feed.following():
        await asyncio.sleep(5.1)
        turns = feed.turns
        assert turns == 11
    await asyncio.sleep(100)
    assert feed.turns == turns


@in_virtual_time
async def test_viewer_who_is_too_far_behind_begins_anew() -> None:
    source = Source()
    feed = source.feed()
    await feed.snapshot(is_packed=False)
    behind = feed.revision
    with feed.following():
        await asyncio.sleep(0.7)  # between two turns
        for value in range(1, KEPT_FRAMES + 1):
            source.value = value
            await asyncio.sleep(0.5)
        assert len(values(feed.reader(behind))) == KEPT_FRAMES
        source.value = -1
        await asyncio.sleep(0.5)
        assert feed.reader(behind) is None


@pytest.mark.parametrize(
    "revision",
    ["", "boot-", "other-1", "boot-2", "boot--1", "boot-x", "boot-²", "boot-" + "9" * 5000],
)
@in_virtual_time
async def test_revision_that_never_was_begins_anew(revision: str) -> None:
    feed = Source().feed()
    await feed.snapshot(is_packed=False)
    assert feed.reader(revision) is None


@in_virtual_time
async def test_too_many_viewers_are_turned_away_until_one_leaves() -> None:
    feed = Source().feed(most_viewers=1)
    with feed.following():
        with pytest.raises(Overloaded, match="1 pages follow"), feed.following():
            pass
        assert feed.viewers == 1
    with feed.following():
        assert feed.viewers == 1


def read_all(reader: Reader) -> list[bytes]:
    """Return the pieces that a reader gets until there is none, which it must be told."""
    pieces: list[bytes] = []
    while piece := reader.read():
        pieces.append(piece)
    assert piece == b""
    return pieces


def test_reader_gets_each_frame_after_its_own_once() -> None:
    backlog = Backlog()
    backlog.add(b"one")
    reader = Reader(backlog, 1)
    assert reader.read() == b""
    backlog.add(b"two")
    backlog.add(b"three")
    assert read_all(reader) == [b"two", b"three"]
    assert reader.number == 3
    assert read_all(Reader(backlog, 0)) == [b"one", b"two", b"three"]
    assert repr(reader) == "Reader(has 3 of 3)"
    assert repr(backlog) == "Backlog(3 frames, 11 bytes)"


def test_long_frame_is_read_in_pieces() -> None:
    backlog = Backlog()
    reader = Reader(backlog, 0)
    backlog.add(b"x" * PIECE_BYTES + b"y")
    assert reader.read() == b"x" * PIECE_BYTES
    assert reader.is_inside
    assert reader.number == 0
    assert reader.read() == b"y"
    assert not reader.is_inside
    assert reader.number == 1


def test_bytes_of_all_frames_are_bounded_however_large_each_is() -> None:
    backlog = Backlog(most_bytes=100)
    for size in (40, 60, 41, 100, 101, 1000):
        backlog.add(b"x" * size)
        assert backlog.kept_bytes <= 100
    assert backlog.kept_bytes == 0
    assert Reader(backlog, 5).read() is None
    backlog.add(b"small")
    assert read_all(Reader(backlog, 6)) == [b"small"]


def test_skipped_frame_sends_every_reader_back_to_the_beginning() -> None:
    backlog = Backlog()
    backlog.add(b"one")
    reader = Reader(backlog, 0)
    assert backlog.keeps_newest()
    backlog.skip()
    assert not backlog.keeps_newest()
    assert reader.read() is None
    assert read_all(Reader(backlog, 2)) == []
