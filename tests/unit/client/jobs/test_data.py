"""What callers give as data, and the bytes that it becomes."""

from __future__ import annotations

import io
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from capamesh.client.jobs import data as data_module
from capamesh.client.jobs.data import source_of, url_of
from capamesh.client.jobs.submission import deadline_of
from capamesh.client.jobs.values import FileInfo
from capamesh.protocol.errors import ConfigError, InvalidRequest


def bytes_of(data: Any) -> tuple[bytes, str]:
    source = source_of(data)
    try:
        source.check()
        return source.read(0, source.size_bytes), source.form
    finally:
        source.close()


def lines_of(rows: Any) -> list[Any]:
    written, form = bytes_of(rows)
    assert form == "jsonl"
    return [json.loads(line) for line in written.splitlines()]


def test_urls_are_the_routers() -> None:
    assert url_of("s3://bucket/x") == "s3://bucket/x"
    assert url_of("upload:file-1") == "upload:file-1"
    assert url_of(FileInfo("file-2", "a", 1, "user_data")) == "upload:file-2"
    assert [url_of(each) for each in ("a.csv", "/a/b.csv", Path("x"), [{}])] == ["", "", "", ""]


def test_rows_are_lines_whatever_numbers_they_have() -> None:
    rows: list[dict[str, Any]] = [
        {"a": np.float32(0.5), "b": np.arange(3), "c": "ü", "d": b"text", "e": None},
        {"a": float("nan"), "b": [float("inf"), {"x": float("-inf")}], "c": (1, 2)},
        {"a": np.array([np.nan, 1])},
    ]
    assert lines_of(iter(rows)) == [
        {"a": 0.5, "b": [0, 1, 2], "c": "ü", "d": "text", "e": None},
        {"a": "NaN", "b": ["Infinity", {"x": "-Infinity"}], "c": [1, 2]},
        {"a": ["NaN", 1.0]},
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 2]], "row 0 of the data is [1, 2]; a dict of columns is expected"),
        ([{"a": 1}, {"a": object()}], "row 1 of the data cannot be sent: it has a value of object"),
        ([{(1, 2): 1}], "row 0 of the data cannot be sent"),
        (42, "the data is int; give a path, a URL"),
        (b"bytes", "the data is bytes"),
        (np.array([object()]), "Python objects"),
        (np.array(1), "the array is one value"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "other numbers of rows"),
        ({"a": [[1], [2, 3]]}, "not of one shape"),
    ],
)
def test_object_that_is_no_data_is_told(rows: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        source_of(rows)
    assert said in caught.value.message


def test_arrays_are_files_of_numpy() -> None:
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    written, form = bytes_of(array)
    read = np.load(io.BytesIO(written), allow_pickle=False)
    assert (form, read.tolist(), read.flags.c_contiguous) == ("npy", array.tolist(), True)
    written, form = bytes_of({"X": array, "file": ["a", "b", "c"]})
    with np.load(io.BytesIO(written), allow_pickle=False) as archive:
        assert form == "npz"
        assert archive["X"].tolist() == array.tolist()
        assert archive["file"].tolist() == ["a", "b", "c"]


class Stream:
    """A table of a library that nobody knows, by Arrow's protocol."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_table_is_sent_by_arrows_protocol() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    for given in (Stream(table), table, pyarrow.RecordBatchReader.from_stream(table)):
        written, form = bytes_of(given)
        assert form == "parquet"
        assert parquet.read_table(io.BytesIO(written)).equals(table)


class WritesParquet:
    """A table as Polars has it, which needs no pyarrow."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise AssertionError("pyarrow is not there")

    def write_parquet(self, file: IO[bytes]) -> None:
        file.write(b"PAR1")


class ToParquet:
    """A table as pandas has it, whose library for Parquet is missing."""

    def to_parquet(self, _: IO[bytes]) -> None:
        raise ImportError("Unable to find a usable engine")


def test_table_needs_no_pyarrow_where_it_writes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert bytes_of(WritesParquet()) == (b"PAR1", "parquet")
    with pytest.raises(ConfigError, match="pip install pyarrow, or give rows as dicts"):
        source_of(ToParquet())
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        source_of(Stream(None))


def test_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, file: IO[bytes]) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(data_module, "_line", lambda row: full(row, io.BytesIO()))
    with pytest.raises(ConfigError, match="No space left on device; set TMPDIR"):
        source_of([{"a": 1}])


def test_file_that_was_cut_off_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"0123456789")
    source = source_of(file)
    file.write_bytes(b"01")
    with pytest.raises(InvalidRequest, match="was changed while it was uploaded"):
        source.read(0, 10)
    with pytest.raises(InvalidRequest, match="was changed while it was uploaded"):
        source.check()
    source.close()


def test_deadline_is_a_time_or_seconds_from_now() -> None:
    assert deadline_of(90.0, 1000.0) == 1090.0
    assert deadline_of(timedelta(hours=1), 1000.0) == 4600.0
    assert deadline_of(datetime(2026, 12, 1, tzinfo=UTC), 1000.0) == 1796083200.0
    for wrong in (0, -1.0, float("nan"), True, "2h", 1796083200.0 * 10):
        with pytest.raises(InvalidRequest, match="how many seconds from now"):
            deadline_of(wrong, 1000.0)  # type: ignore[arg-type]


def test_file_is_its_bytes_and_its_name_tells_the_form(tmp_path: Path) -> None:
    forms = {"csv": "csv", "JSONL": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
    for ending, form in {**forms, "feather": "arrow", "npz": "npz", "txt": ""}.items():
        file = tmp_path / f"a.{ending}"
        file.write_bytes(b"0123")
        for given in (file, str(file)):
            assert bytes_of(given) == (b"0123", form)
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.csv: No such file"):
        source_of(tmp_path / "absent.csv")
    with pytest.raises(InvalidRequest, match="is a folder, which only the router can read"):
        source_of(tmp_path)
