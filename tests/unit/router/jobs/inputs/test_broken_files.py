"""Files that lie of themselves are refused, before what they say is believed."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.arrays import ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.parquet_values import bounded, dictionary_columns
from capamesh.router.jobs.inputs.source import LocalFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def npy_head(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy_head((10**18, 4)) + b"\0" * 64, "cut off"),
        (npy_head((10**18,), "|S0"), "no bytes"),
        (npy_head((10**18, 0)), "no bytes"),
        (npy_head((4, -1)) + b"\0" * 64, "no bytes"),
        (npy_head((-5,)) + b"\0" * 64, "cut off"),
        (npy_head((4, 4))[:40], "cannot read"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{" * 2**21, "a header of it has more"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "cannot read"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 100, "not known"),
    ],
)
def test_array_that_lies_of_its_length_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "in.npy"
    path.write_bytes(data)
    with pytest.raises(InputInvalid, match=words):
        ArrayReader(LocalFile(path), is_archive=False).columns()


def test_list_of_an_archive_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for at in range(12_000):
            archive.writestr(f"{at:060d}.npy", b"")
    with pytest.raises(InputInvalid, match="a header of it has more than"):
        ArrayReader(LocalFile(path), is_archive=True).columns()


def parquet_bytes(**options: Any) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"v": np.arange(4000, dtype=np.int64)})
    pq.write_table(
        table, buffer, row_group_size=1000, compression="none", use_dictionary=False, **options
    )
    return buffer.getvalue()


def test_broken_page_costs_the_shards_of_its_group_alone(tmp_path: Path) -> None:
    data = bytearray(parquet_bytes(write_page_checksum=True))
    place = data.index(np.arange(2400, 2410, dtype=np.int64).tobytes())
    data[place] ^= 1
    path = tmp_path / "in.parquet"
    path.write_bytes(data)
    reader = ParquetReader(LocalFile(path))
    planned = list(reader.ranges(ShardLimits(500)))
    assert len(planned) == 8
    broken: list[int] = []
    found: list[int] = []
    for each in planned:
        try:
            for window in reader.windows(each, ["v"]):
                found += list(window.columns["v"])
        except InputInvalid:
            broken.append(each.first_row)
    assert broken == [2000, 2500]
    assert found == [*range(2000), *range(3000, 4000)]


@pytest.mark.parametrize("kept", [0, 3, 12, 2000, -1, -4, -9])
def test_parquet_that_is_cut_off_is_refused_when_it_is_planned(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(parquet_bytes()[:kept])
    with pytest.raises(InputInvalid, match="cannot read"):
        list(ParquetReader(LocalFile(path)).ranges(ShardLimits(100)))


def arrow_file(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    table = pa.table(columns)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, **options)
    return path


@pytest.mark.parametrize("cut", [1, 20, 2000])
def test_arrow_file_that_is_cut_off_is_refused_when_it_is_planned(tmp_path: Path, cut: int) -> None:
    path = arrow_file(tmp_path / "in.arrow", {"v": np.arange(4000)}, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputInvalid, match="cannot read"):
        list(ArrowReader(LocalFile(path)).ranges(ShardLimits(100)))


def test_arrow_file_whose_texts_lead_out_of_it_is_refused(tmp_path: Path) -> None:
    """An offset that is not checked reads what else the process has in its memory."""
    path = arrow_file(tmp_path / "in.arrow", {"t": ["a" * 10] * 4})
    offsets = struct.pack("<5i", 0, 10, 20, 30, 40)
    data = path.read_bytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<5i", 0, 10, 20, 30, 2**30)))
    with pytest.raises(InputInvalid, match="cannot read"):
        list(ArrowReader(LocalFile(path)).ranges(ShardLimits(100)))


def test_row_that_is_too_large_by_itself_is_refused() -> None:
    lists = pa.array([[0] * 3]).cast(pa.list_(pa.int32()))
    texts = pa.DictionaryArray.from_arrays(lists.flatten(), pa.array(["a" * 2**20]))
    batch = pa.record_batch({"texts": pa.ListArray.from_arrays(lists.offsets, texts)})
    with pytest.raises(InputInvalid, match=r"a row of in.parquet has 3145728 bytes .* limit is 2"):
        list(bounded(batch, "in.parquet", 2 * 2**20))
    assert sum(part.num_rows for part in bounded(batch, "in.parquet", 3 * 2**20)) == 1


def test_values_are_what_they_are_without_dictionaries(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "text": ["a", None, "b", "a"] * 50,
        "bytes": [b"x", b"yy", None, b""] * 50,
        "texts": [["a", "b"], [], None, ["a"]] * 50,
        "number": [1.5, 2.5, 1.5, 0.0] * 50,
    }
    for name, packed in (("plain", []), ("packed", ["text", "bytes", "texts.list.element"])):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=bool(packed))
        assert dictionary_columns(pq.ParquetFile(path).metadata, [0]) == packed
        reader = ParquetReader(LocalFile(path))
        (rows,) = reader.ranges(ShardLimits(100_000))
        windows = list(reader.windows(rows, tuple(columns)))
        found = {
            each: [one for window in windows for one in window.columns[each]] for each in columns
        }
        assert found == columns
