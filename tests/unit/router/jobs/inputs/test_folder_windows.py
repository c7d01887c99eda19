"""Files of a folder come in windows of some bytes, each once, and those that cannot be read are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.router.jobs.inputs import folder
from capamesh.router.jobs.inputs.folder import FolderReader, LocalFiles
from capamesh.router.jobs.inputs.limits import ShardLimits


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
