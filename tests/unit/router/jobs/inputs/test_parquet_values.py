"""Values of a dictionary that stand for many rows take no more memory than a router plans to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.arrow_files import ParquetReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.parquet_values import bounded, dictionary_columns
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
