"""Values that stand for others become these, a piece at a time, and lead nowhere else."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from job_files import write_jsonl

from capamesh.router.jobs.inputs import encoded
from capamesh.router.jobs.inputs import folder as folders
from capamesh.router.jobs.inputs.encoded import EncodedReader
from capamesh.router.jobs.inputs.folder import LocalFiles
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import Encoding


def reader_of(folder: Path, rows: list[dict[str, Any]], **encodings: Encoding) -> EncodedReader:
    path = write_jsonl(folder / "in.jsonl", rows)
    return EncodedReader(JsonlReader(LocalFile(path)), encodings, LocalFiles(folder))


def read(
    reader: EncodedReader, *columns: str
) -> tuple[list[tuple[int, list[Any]]], list[tuple[int, str]]]:
    (planned,) = reader.ranges(ShardLimits(1000))
    windows = list(reader.windows(planned, columns))
    rows = [
        (number, list(values))
        for raw in windows
        for number, *values in zip(
            raw.numbers, *(raw.columns[name] for name in columns), strict=True
        )
    ]
    return rows, [(bad.row, bad.text) for raw in windows for bad in raw.bad]


def test_base64_becomes_bytes(tmp_path: Path) -> None:
    rows = [{"x": base64.b64encode(bytes([at] * at)).decode(), "id": at} for at in range(5)]
    rows[2]["x"] = "no base64!"
    rows[3]["x"] = 7
    found, bad = read(reader_of(tmp_path, rows, x=Encoding.BASE64), "x", "id")
    assert found == [(at, [bytes([at] * at), at]) for at in (0, 1, 4)]
    assert bad == [(2, "'no base64!' is no base64"), (3, "7 is no base64")]


def test_paths_become_the_bytes_of_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(b"picture a")
    (tmp_path / "é b.png").write_bytes(b"picture b")
    rows = [{"f": "deep/a.png"}, {"f": "é b.png"}, {"f": "none.png"}, {"f": "deep"}]
    found, bad = read(reader_of(tmp_path, rows, f=Encoding.PATH), "f")
    assert found == [(0, [b"picture a"]), (1, [b"picture b"])]
    assert [row for row, _ in bad] == [2, 3]
    assert "No such file" in bad[0][1]
    assert "not a plain file" in bad[1][1]


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "",
        ".",
        "a//b",
        "x\0y",
        "..\\secret",
        7,
        None,
        ["a"],
    ],
)
def test_path_that_could_lead_out_is_a_bad_row(tmp_path: Path, path: object) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    inner = tmp_path / "inner"
    inner.mkdir()
    found, bad = read(reader_of(inner, [{"f": path}], f=Encoding.PATH), "f")
    assert found == []
    assert "is no path from the input's folder on" in bad[0][1]


def test_link_that_leads_out_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link").symlink_to("../secret")
    (inner / "up").symlink_to("..")
    (inner / "round").symlink_to("round")
    os.mkfifo(inner / "pipe")
    rows = [{"f": name} for name in ("link", "up/secret", "round", "pipe")]
    found, bad = read(reader_of(inner, rows, f=Encoding.PATH), "f")
    assert found == []
    assert [row for row, _ in bad] == [0, 1, 2, 3]
    assert "leads out of the input's folder" in bad[0][1]
    assert "leads out of the input's folder" in bad[1][1]


def test_large_file_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_SHARD_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 11)
    found, bad = read(reader_of(tmp_path, [{"f": "a"}, {"f": "b"}], f=Encoding.PATH), "f")
    assert found == [(0, [b"x" * 10])]
    assert "has 11 bytes, the limit is 10" in bad[0][1]


def test_window_is_given_on_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "WINDOW_BYTES", 25)
    monkeypatch.setattr(encoded, "PIECE_ROWS", 3)
    for at in range(10):
        (tmp_path / str(at)).write_bytes(b"%d" % at * 10)
    rows = [{"f": str(at), "n": at} for at in range(10)]
    reader = reader_of(tmp_path, rows, f=Encoding.PATH)
    (planned,) = reader.ranges(ShardLimits(1000))
    windows = list(reader.windows(planned, ["f", "n"]))
    assert [list(each.numbers) for each in windows] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert len({each.sha256 for each in windows}) == 1
    assert [value for each in windows for value in each.columns["n"]] == list(range(10))
