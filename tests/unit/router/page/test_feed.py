from __future__ import annotations

import asyncio
from typing import Any

from fleet_fakes import NullLog

from capamesh.protocol.steps import Steps
from capamesh.router.page.backlog import PIECE_BYTES, Backlog, Reader
from capamesh.router.page.feed import Feed, packed
from capamesh.router.page.overview import Overview


def steps() -> Steps[Overview]:
    yield
    return Overview({}, {"a": {"x": 0}}, {})


async def pack_here(content: bytes) -> bytes:
    return packed(content)


async def test_one_turn_serves_all_and_nothing_is_made_while_nobody_watches() -> None:
    clock = asyncio.get_running_loop().time
    log: Any = NullLog()
    feed = Feed(
        steps, boot="boot", log=log, clock=clock, work_clock=clock, most_viewers=2, pack=pack_here
    )
    with feed.following(), feed.following():
        await asyncio.sleep(5.1)
        turns = feed.turns
        assert turns == 11
    await asyncio.sleep(100)
    assert feed.turns == turns


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
    assert (reader.read(), reader.is_inside, reader.number) == (b"x" * PIECE_BYTES, True, 0)
    assert (reader.read(), reader.is_inside, reader.number) == (b"y", False, 1)


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
