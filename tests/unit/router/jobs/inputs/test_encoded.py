"""Values that stand for others become these and lead nowhere else; casts lose nothing, or the row is named."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import write_jsonl

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.inputs import encoded
from capamesh.router.jobs.inputs import folder as folders
from capamesh.router.jobs.inputs.casts import cast_column
from capamesh.router.jobs.inputs.encoded import EncodedReader
from capamesh.router.jobs.inputs.folder import LocalFiles
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import Encoding


def reader_of(folder: Path, rows: list[dict[str, Any]], **encodings: Encoding) -> EncodedReader:
    path = write_jsonl(folder / "in.jsonl", rows)
    return EncodedReader(JsonlReader(LocalFile(path)), encodings, LocalFiles(folder))


def read(reader: EncodedReader, *columns: str) -> tuple[list[Any], list[tuple[int, str]]]:
    (planned,) = reader.ranges(ShardLimits(1000))
    windows = list(reader.windows(planned, columns))
    rows = [
        row
        for raw in windows
        for row in zip(raw.numbers, *(raw.columns[name] for name in columns), strict=True)
    ]
    return rows, [(bad.row, bad.text) for raw in windows for bad in raw.bad]


def test_base64_becomes_bytes(tmp_path: Path) -> None:
    rows = [{"x": base64.b64encode(bytes([at] * at)).decode(), "id": at} for at in range(5)]
    rows[2]["x"] = "no base64!"
    rows[3]["x"] = 7
    found, bad = read(reader_of(tmp_path, rows, x=Encoding.BASE64), "x", "id")
    assert found == [(at, bytes([at] * at), at) for at in (0, 1, 4)]
    assert bad == [(2, "'no base64!' is no base64"), (3, "7 is no base64")]


def test_paths_become_the_bytes_of_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(b"picture a")
    (tmp_path / "é b.png").write_bytes(b"picture b")
    rows = [{"f": "deep/a.png"}, {"f": "é b.png"}, {"f": "none.png"}, {"f": "deep"}]
    found, bad = read(reader_of(tmp_path, rows, f=Encoding.PATH), "f")
    assert found == [(0, b"picture a"), (1, b"picture b")]
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
    found, ((_, text),) = read(reader_of(inner, [{"f": path}], f=Encoding.PATH), "f")
    assert found == []
    assert "is no path from the input's folder on" in text


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
    assert (found, [row for row, _ in bad]) == ([], [0, 1, 2, 3])
    assert all("leads out of the input's folder" in text for _, text in bad[:2])


def test_large_file_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_SHARD_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 11)
    found, bad = read(reader_of(tmp_path, [{"f": "a"}, {"f": "b"}], f=Encoding.PATH), "f")
    assert found == [(0, b"x" * 10)]
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


def cast_to(values: Any, datatype: Datatype, *row_shape: int) -> tuple[Any, dict[int, str]]:
    return cast_column(values, TensorSpec("x", datatype, (-1, *row_shape)))


def refused(value: Any, datatype: Datatype) -> str:
    """Return what is said of a value that stands between two that fit."""
    good: Any = {"O": "a", "b": True}.get(datatype.numpy_dtype.kind, 1)
    rows, wrong = cast_to([good, value, good], datatype)
    assert set(wrong) == {1}
    assert rows[1] is None
    assert rows[0] is not None
    assert rows[0].tolist() == rows[2].tolist()
    return wrong[1]


@pytest.mark.parametrize(
    ("value", "datatype", "words"),
    [
        (300, Datatype.UINT8, "300 does not fit UINT8, which takes whole numbers from 0 to 255"),
        (-1, Datatype.UINT64, "-1 does not fit UINT64"),
        (1.5, Datatype.INT64, "1.5 does not fit INT64"),
        (1e300, Datatype.INT64, "1e+300 does not fit"),
        (float("nan"), Datatype.INT64, "nan does not fit"),
        (2.0**53, Datatype.INT64, "does not fit INT64"),
        (2**64, Datatype.INT64, "18446744073709551616 does not fit"),
        (2**24 + 1, Datatype.FP32, "16777217 does not fit FP32"),
        (2**53 + 1, Datatype.FP64, "9007199254740993 does not fit FP64"),
        (2049, Datatype.FP16, "2049 does not fit FP16"),
        (1e39, Datatype.FP32, "1e+39 does not fit FP32"),
        (70000.0, Datatype.FP16, "70000.0 does not fit FP16"),
        (257, Datatype.BF16, "257 does not fit BF16"),
        (None, Datatype.FP32, "None does not fit FP32"),
        ("one", Datatype.FP32, "'one' does not fit FP32"),
        ("", Datatype.INT32, "'' does not fit INT32"),
        (1, Datatype.BOOL, "1 does not fit BOOL, which takes true and false"),
        (1, Datatype.BYTES, "1 does not fit BYTES, which takes texts"),
        ({"a": 1}, Datatype.FP32, "does not fit FP32"),
        ([1, 2], Datatype.FP32, "it has shape [2], the model takes []"),
    ],
)
def test_value_that_would_be_lost_is_refused_and_the_others_are_not(
    value: Any, datatype: Datatype, words: str
) -> None:
    assert words in refused(value, datatype)


def test_whole_number_beside_fractions_is_not_rounded() -> None:
    rows, wrong = cast_to([0.5, 2049, 2.0**60, 2049.0], Datatype.FP16)
    assert set(wrong) == {1, 2}
    assert [float(rows[at]) for at in (0, 3)] == [0.5, 2048.0]
    _, wrong = cast_to([[0.5, 2**53 + 1]], Datatype.FP64, 2)
    assert set(wrong) == {0}


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_array_that_would_be_lost_is_refused_row_by_row(dtype: type) -> None:
    rows, wrong = cast_to(np.array([[1, 2], [3, 256]], dtype), Datatype.UINT8, 2)
    assert (rows[0].tolist(), set(wrong)) == ([1, 2], {1})
    assert "256" in wrong[1]


@pytest.mark.parametrize(
    ("value", "shape"),
    [([1, 2, 3], (2, 2)), ([[1, 2, 3], [4, 5, 6]], (3, 2)), ([[1], [2, 3]], (3,)), ([], (1,))],
)
def test_row_of_another_shape_is_refused(value: Any, shape: tuple[int, ...]) -> None:
    _, wrong = cast_to([value], Datatype.FP32, *shape)
    assert set(wrong) == {0}


def test_texts_and_bytes_become_bytes() -> None:
    rows, wrong = cast_to(["ä", b"\xff", ["a", "b"]], Datatype.BYTES)
    assert [each and each.item() for each in rows[:2]] == ["ä".encode(), b"\xff"]
    assert set(wrong) == {2}
    rows, _ = cast_to([["a", "b"]], Datatype.BYTES, 2)
    assert rows[0].tolist() == [b"a", b"b"]
    rows, _ = cast_to(["a"], Datatype.BYTES, 1)
    assert rows[0].tolist() == [b"a"]


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(allow_nan=False),
    st.floats(-300, 300).map(round).map(float),
)


@given(
    st.lists(NUMBERS, min_size=1, max_size=8),
    st.sampled_from(
        [each for each in Datatype if each.numpy_dtype.kind in "iuf" and each != "BF16"]
    ),
)
def test_value_that_is_cast_is_what_was_there(values: list[Any], datatype: Datatype) -> None:
    rows, wrong = cast_to(values, datatype)
    info: Any = np.finfo if datatype.numpy_dtype.kind == "f" else np.iinfo
    limits = info(datatype.numpy_dtype)
    for place, value in enumerate(values):
        if place in wrong:
            assert rows[place] is None
            continue
        found = rows[place].item()
        if isinstance(value, int) or datatype.numpy_dtype.kind != "f" or np.isinf(value):
            assert found == value
        else:
            assert np.isfinite(found)
            assert found == pytest.approx(value, rel=float(limits.eps), abs=float(limits.tiny))
