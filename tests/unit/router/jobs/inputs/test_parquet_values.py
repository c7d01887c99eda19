"""Values of a dictionary that stand for many rows take no more memory than a router plans to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs import parquet_values
from capamesh.router.jobs.inputs.arrow_files import ParquetReader
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES, ShardLimits
from capamesh.router.jobs.inputs.parquet_values import bounded, dictionary_columns, rows_at_once
from capamesh.router.jobs.inputs.source import LocalFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
MEGABYTE = "a" * 2**20


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd", **options)
    return path


def windows(path: Path, *columns: str) -> list[dict[str, Any]]:
    reader = ParquetReader(LocalFile(path))
    return [
        window.columns
        for each in reader.ranges(ShardLimits(100_000))
        for window in reader.windows(each, columns)
    ]


@pytest.mark.full
def test_one_large_value_for_all_rows_is_put_in_place_some_rows_at_a_time(tmp_path: Path) -> None:
    rows = 200
    path = written(tmp_path / "in.parquet", {"text": [MEGABYTE] * rows, "n": list(range(rows))})
    assert path.stat().st_size < 10_000
    found = windows(path, "text", "n")
    most = max(len(window["text"]) for window in found)
    assert most * len(MEGABYTE) <= MAX_SHARD_BYTES
    assert [value for window in found for value in window["n"]] == list(range(rows))
    assert all(value == MEGABYTE for window in found for value in window["text"])


def test_row_that_is_too_large_by_itself_is_refused() -> None:
    lists = pa.array([[0] * 3]).cast(pa.list_(pa.int32()))
    texts = pa.DictionaryArray.from_arrays(lists.flatten(), pa.array([MEGABYTE]))
    batch = pa.record_batch({"texts": pa.ListArray.from_arrays(lists.offsets, texts)})
    with pytest.raises(InputInvalid, match=r"a row of in.parquet has 3145728 bytes .* limit is 2"):
        list(bounded(batch, "in.parquet", 2 * 2**20))
    assert sum(part.num_rows for part in bounded(batch, "in.parquet", 3 * 2**20)) == 1


def test_values_are_what_they_are_without_dictionaries(tmp_path: Path) -> None:
    columns = {
        "text": ["a", None, "b", "a"] * 50,
        "bytes": [b"x", b"yy", None, b""] * 50,
        "texts": [["a", "b"], [], None, ["a"]] * 50,
        "number": [1.5, 2.5, 1.5, 0.0] * 50,
    }
    names = tuple(columns)
    plain = written(tmp_path / "plain.parquet", columns, use_dictionary=False)
    packed = written(tmp_path / "packed.parquet", columns, use_dictionary=True)

    def values(path: Path) -> dict[str, list[Any]]:
        found = windows(path, *names)
        return {name: [each for window in found for each in window[name]] for name in names}

    assert values(packed) == values(plain) == columns
    metadata = pq.ParquetFile(packed).metadata
    assert dictionary_columns(metadata, [0]) == ["text", "bytes", "texts.list.element"]
    assert dictionary_columns(pq.ParquetFile(plain).metadata, [0]) == []


def test_fewer_rows_are_decoded_at_a_time_where_they_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_values, "MAX_SHARD_BYTES", 64 * 1000)
    fixed = pa.array([b"z" * 1000] * 100, pa.binary(1000))
    long = written(tmp_path / "long.parquet", {"x": fixed})
    assert rows_at_once(pq.ParquetFile(long).metadata, [0], 8192) == 64
    short = written(tmp_path / "short.parquet", {"x": list(range(100))}, use_dictionary=False)
    assert rows_at_once(pq.ParquetFile(short).metadata, [0], 100) == 100
