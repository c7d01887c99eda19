"""A file that is read by ranges gives its bytes, and asks for no more than a window ahead."""

from __future__ import annotations

import io
import os
import random
import threading

import pytest

from capamesh.router.jobs.inputs import ranges
from capamesh.router.jobs.inputs.ranges import RangeFile


class Far:
    """Bytes far away, and what was asked of them."""

    def __init__(self, size_bytes: int) -> None:
        self.data = random.Random(size_bytes).randbytes(size_bytes)
        self.asked: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> bytes:
        with self._lock:
            self.asked.append((start, end))
        return self.data[start:end]

    def opened(self) -> RangeFile:
        return RangeFile(self.read, len(self.data))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "WINDOW_BYTES", 100)
    monkeypatch.setattr(ranges, "LEAST_BYTES", 8)


def test_file_behaves_as_one_in_memory() -> None:
    far = Far(1234)
    chance = random.Random(7)
    near, file = io.BytesIO(far.data), far.opened()
    for _ in range(2000):
        match chance.randrange(4):
            case 0:
                place = chance.randrange(1300)
                assert file.seek(place) == near.seek(place)
            case 1:
                assert file.seek(-chance.randrange(1234), os.SEEK_END) == near.seek(
                    file.tell(), os.SEEK_SET
                )
            case 2:
                size = chance.choice([0, 1, 7, 50, 100, 101, 350, -1])
                assert file.read(size) == near.read(size)
            case _:
                into, into_near = bytearray(40), bytearray(40)
                assert file.readinto(into) == near.readinto(into_near)
                assert into == into_near
        assert file.tell() == near.tell()


def test_one_who_reads_on_has_one_window_ahead() -> None:
    far = Far(1000)
    file = far.opened()
    pieces = [file.read(30) for _ in range(5)]  # the first is a jump, to the beginning
    assert b"".join(pieces) == far.data[:150]
    file._ahead.result()  # type: ignore[union-attr]
    assert sorted(far.asked) == [(0, 30), (30, 90), (90, 190), (190, 290)]
    assert b"".join(iter(lambda: file.read(30), b"")) == far.data[150:]
    assert max(far.asked) == (990, 1000)
    # each byte came once
    assert sum(end - start for start, end in far.asked) == 1000


def test_file_that_reads_nothing_ahead_asks_for_what_is_wanted_in_windows() -> None:
    far = Far(1000)
    file = RangeFile(far.read, 1000, reads_ahead=False)
    assert b"".join(iter(lambda: file.read(30), b"")) == far.data
    assert far.asked == [
        (0, 30),
        (30, 90),
        *[(at, at + 100) for at in range(90, 990, 100)],
        (990, 1000),
    ]
    assert file._ahead is None


def test_one_who_jumps_gets_little_more_than_was_asked_for() -> None:
    far = Far(1000)
    file = far.opened()
    for place, size in ((992, 8), (500, 3), (400, 20), (0, 4)):
        file.seek(place)
        assert file.read(size) == far.data[place : place + size]
    assert far.asked == [(992, 1000), (500, 508), (400, 420), (0, 8)]


def test_long_range_comes_in_windows_and_ends_where_it_ends() -> None:
    far = Far(1000)
    file = far.opened()
    file.seek(50)
    assert file.read(450) == far.data[50:500]
    assert sorted(far.asked) == [(50, 150), (150, 250), (250, 350), (350, 450), (450, 500)]


def test_fault_ahead_is_told_to_who_reads_on_and_not_before() -> None:
    far = Far(1000)

    def read(start: int, end: int) -> bytes:
        if end > 150:
            raise ValueError("the place broke off")
        return far.read(start, end)

    file = RangeFile(read, 1000)
    for at in (0, 50, 100):
        assert file.read(50) == far.data[at : at + 50]
    with pytest.raises(ValueError, match="broke off"):
        file.read(1)
    # the place of who reads is where it was
    assert file.tell() == 150


def test_short_answer_is_no_end_of_the_file() -> None:
    with pytest.raises(OSError, match="3 bytes came where 8"):
        RangeFile(lambda _start, _end: b"abc", 1000).read(5)


def test_place_before_the_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="before the file's beginning"):
        Far(10).opened().seek(-1)
