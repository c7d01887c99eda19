"""A part is whole or has no name, whatever step is a router's last."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from capamesh.router.jobs.errors import OutputFailed
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.values import JobId

JOB = JobId("job-1")
DATA = b"one\ntwo\n"
NAME = "part-000003-2.jsonl"
STEPS = ("_make_folder", "_write_all", "_sync", "_rename", "_sync_folder")


class Breaking(LocalSink):
    """A folder at one of whose steps a router ends, before or after it, or the disk fails."""

    def __init__(self, folder: Path, step: str, error: BaseException, *, is_after: bool) -> None:
        super().__init__(folder, JOB)
        whole = getattr(self, step)

        def broken(*words: object) -> None:
            if is_after:
                whole(*words)
            raise error

        setattr(self, step, broken)


def files(folder: Path) -> list[str]:
    found = folder / JOB
    return sorted(each.name for each in found.iterdir()) if found.exists() else []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_after", [False, True])
def test_router_that_ends_at_a_step_leaves_no_part_or_a_whole_one(
    tmp_path: Path, step: str, *, is_after: bool
) -> None:
    sink = Breaking(tmp_path, step, SystemExit(), is_after=is_after)
    with pytest.raises(SystemExit):
        sink.write(NAME, [DATA])
    again = LocalSink(tmp_path, JOB)
    if NAME in files(tmp_path):
        assert (tmp_path / JOB / NAME).read_bytes() == DATA
    # no manifest names it: another lease writes its own, and the rest is collected
    mine = again.write("part-000003-3.jsonl", [DATA])
    again.collect({mine.name})
    assert files(tmp_path) == [mine.name]


@pytest.mark.parametrize("step", STEPS)
def test_disk_that_fails_at_a_step_is_told_and_leaves_no_garbage(tmp_path: Path, step: str) -> None:
    (tmp_path / JOB).mkdir()
    sink = Breaking(tmp_path, step, OSError(errno.ENOSPC, "No space left"), is_after=False)
    with pytest.raises(OutputFailed, match=f"cannot write {tmp_path}.*: No space left"):
        sink.write(NAME, [DATA])
    is_named = step == "_sync_folder"  # it may be there after the power fails, or not
    assert files(tmp_path) == ([NAME] if is_named else [])


def test_place_is_asked_for_room_without_a_trace(tmp_path: Path) -> None:
    sink = LocalSink(tmp_path, JOB)
    sink.check_room(2**20)
    assert list(sink.folder.iterdir()) == []
    sink.folder.rmdir()
    sink.folder.write_bytes(b"")
    with pytest.raises(OutputFailed, match="cannot write 7 bytes to"):
        sink.check_room(7)


def test_name_is_written_once(tmp_path: Path) -> None:
    sink = LocalSink(tmp_path, JOB)
    part = sink.write(NAME, [DATA])
    with pytest.raises(OutputFailed, match="is there already"):
        sink.write(NAME, [b"other"])
    assert sink.read(part) == DATA
    assert files(tmp_path) == [NAME]


def test_part_that_is_not_what_was_written_is_not_given(tmp_path: Path) -> None:
    sink = LocalSink(tmp_path, JOB)
    part = sink.write(NAME, [DATA])
    for data in (DATA[:-1], DATA + b"x", b"X" + DATA[1:]):
        (tmp_path / JOB / NAME).write_bytes(data)
        with pytest.raises(OutputFailed, match="not what was written"):
            sink.read(part)
    (tmp_path / JOB / NAME).unlink()
    with pytest.raises(OutputFailed, match="No such file"):
        sink.read(part)


def test_files_that_are_ours_and_unnamed_are_collected(tmp_path: Path) -> None:
    sink = LocalSink(tmp_path, JOB)
    assert sink.collect(()) == 0
    kept = sink.write(NAME, [DATA])
    garbage = ["part-000003-1.jsonl", "bad-000000-7.jsonl", ".part-000001-1.npz.tmp"]
    others = ["notes.txt", "part-of-mine.jsonl", "part-000003-1.jsonl.bak", ".hidden"]
    for name in (*garbage, *others):
        (tmp_path / JOB / name).touch()
    (tmp_path / "job-2").mkdir()
    (tmp_path / "job-2" / garbage[0]).touch()
    assert sink.collect({kept.name}) == 3
    assert files(tmp_path) == sorted([NAME, *others])
    assert (tmp_path / "job-2" / garbage[0]).exists()
