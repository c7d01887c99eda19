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
