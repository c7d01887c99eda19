"""Files of a folder come in windows of some bytes, each once, and those that cannot be read are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.router.jobs.inputs import folder
from capamesh.router.jobs.inputs.folder import FolderReader, LocalFiles
from capamesh.router.jobs.inputs.limits import ShardLimits


def test_windows_end_once_they_have_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "WINDOW_BYTES", 100)
    sizes = [60, 60, 10, 10, 300, 0, 100]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * size)
    reader = FolderReader(LocalFiles(tmp_path))
    (shard,) = reader.ranges(ShardLimits(1000))
    windows = list(reader.windows(shard, ("content", "path")))
    assert [list(each.numbers) for each in windows] == [[0, 1], [2, 3, 4], [5, 6], []]
    contents = [content for each in windows for content in each.columns["content"]]
    assert contents == [bytes([number]) * size for number, size in enumerate(sizes)]
    assert reader.row_names(windows[1]) == ["2.bin", "3.bin", "4.bin"]


def test_file_that_cannot_be_read_is_a_bad_row_of_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "WINDOW_BYTES", 5)
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(b"12345")
    reader = FolderReader(LocalFiles(tmp_path))
    (shard,) = reader.ranges(ShardLimits(1000))
    (tmp_path / "1.bin").unlink()
    windows = list(reader.windows(shard, ("content",)))
    assert [list(each.numbers) for each in windows] == [[0], [2], []]
    assert [bad.row for each in windows for bad in each.bad] == [1]
