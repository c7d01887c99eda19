from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.router.telemetry import line_file
from capamesh.router.telemetry.line_file import LineFile


def made(path: Path, **options: Any) -> LineFile:
    return LineFile(str(path), NullLog(), **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    file = made(tmp_path / "a.log", most_waiting=3)
    for number in range(5):
        file.put({"n": number})
    file.write()
    assert [line["n"] for line in lines(tmp_path / "a.log")] == [0, 1, 2]
    assert file.dropped == 2


def test_full_disk_loses_lines_and_the_next_begins_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, room = tmp_path / "a.log", os.write, [12]

    def limited(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    file = made(path)
    monkeypatch.setattr(os, "write", limited)
    for number in range(3):
        file.put({"n": number})
    file.write()  # a line and a half
    assert (file.written, file.lost) == (1, 2)
    room[0] = 1000
    file.put({"n": 3})
    file.write()
    assert path.read_text() == '{"n":0}\n{"n"\n{"n":3}\n'
    assert (file.written, file.lost) == (2, 2)


def test_thread_writes_what_waits_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "CLOSE_S", 60.0)  # it ends when the thread does
    file = made(tmp_path / "a.log")
    file.start()
    file.put({"n": 1})
    file.close()
    assert lines(tmp_path / "a.log") == [{"n": 1}]
