"""Pages that would take too much memory are refused before the library reads them."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs import parquet_pages
from capamesh.router.jobs.inputs.arrow_files import ParquetReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.parquet_pages import CheckedPages, Chunk, chunks_of, page_sizes
from capamesh.router.jobs.inputs.source import LocalFile

BOMB = "a" * 1_000_000
"""A value of a megabyte, of which some hundred bytes are in the file."""


def written(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", **options)
    return path


def read(path: Path, columns: tuple[str, ...]) -> int:
    reader = ParquetReader(LocalFile(path))
    planned = list(reader.ranges(ShardLimits(1000)))
    windows = (window for each in planned for window in reader.windows(each, columns))
    return sum(len(window.numbers) for window in windows)


@pytest.mark.parametrize("use_dictionary", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_page_that_unpacks_to_too_much_is_refused_by_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, use_dictionary: bool
) -> None:
    rows = [{"small": at, "text": BOMB if at > 5 else "b"} for at in range(10)]
    options = {"use_dictionary": use_dictionary, "data_page_version": version}
    path = written(tmp_path / "in.parquet", rows, row_group_size=5, **options)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", len(BOMB) // 2)
    with pytest.raises(InputInvalid, match=r"column 'text' of group 1 of .*has \d+ bytes, the lim"):
        read(path, ("small", "text"))
    assert read(path, ("small",)) == 10  # who does not read it does not pay for it
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 10 * len(BOMB))
    assert read(path, ("small", "text")) == 10


HEAD = bytes([0x15, 0, 0x15, 20, 0x15, 10, 0x2C, 0x15, 4, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0])
"""The head of a data page of 10 bytes unpacked and 5 in the file, with its struct of four numbers."""


def test_page_that_says_that_it_has_two_gigabytes_is_refused() -> None:
    assert list(page_sizes(memoryview(HEAD + b"12345" + HEAD + b"67890"))) == [(10, 5), (10, 5)]
    most = b"\xfe\xff\xff\xff\x0f"  # 2**31 - 1
    data = HEAD + b"12345" + HEAD[:3] + most + HEAD[4:] + b"67890"
    pages = CheckedPages(io.BytesIO(data), "in.parquet", [Chunk(0, len(data), "v", 3)])
    with pytest.raises(InputInvalid, match=r"group 3 of in\.parquet has 2147483647 b"):
        pages.read()


@pytest.mark.parametrize(
    "data",
    [
        HEAD[:9],
        HEAD + b"1234",
        HEAD[:2] + b"\0",
        HEAD[:3] + b"\xff" * 12,
        b"\x1c" * 100,
        b"\x19\xf8\xff\xff\xff\xff\x0f" + b"\x01" * 50,
        b"\x1b" + HEAD,
    ],
)
def test_head_that_is_broken_is_refused(data: bytes) -> None:
    pages = CheckedPages(io.BytesIO(data), "in.parquet", [Chunk(0, len(data), "v", 3)])
    with pytest.raises(InputInvalid, match="the head of a page is broken"):
        pages.read()


def test_pages_are_as_many_and_as_large_as_the_library_says(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"a": at, "b": {"c": [str(at)] * (at % 3)}, "d": None} for at in range(30_000)]
    path = written(tmp_path / "in.parquet", rows, row_group_size=10_000, data_page_size=4096)
    metadata = pq.ParquetFile(path).metadata
    data = memoryview(path.read_bytes())
    chunks = chunks_of(metadata, range(3))
    assert {chunk.column for chunk in chunks} == {"a", "b.c.list.element", "d"}
    for chunk in chunks:
        sizes = list(page_sizes(data[chunk.start : chunk.start + chunk.size_bytes]))
        column = metadata.row_group(chunk.group).column(0)
        assert sum(packed for _, packed in sizes) < chunk.size_bytes
        if chunk.column == "a":
            assert len(sizes) > 5
            # what the footer says of the whole has the heads in it
            assert (
                0
                < column.total_uncompressed_size - sum(each for each, _ in sizes)
                < 100 * len(sizes)
            )
    assert read(path, ("a",)) == 30_000


@pytest.mark.parametrize("piece", [1, 100, 5000, 10**9])
def test_chunk_is_looked_at_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = written(tmp_path / "in.parquet", [{"v": BOMB}] * 3)
    chunks = chunks_of(pq.ParquetFile(path).metadata, [0])
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", len(BOMB))
    with path.open("rb") as file:
        pages = CheckedPages(file, "in.parquet", chunks)
        pages.seek(chunks[0].start + chunks[0].size_bytes // 2)
        with pytest.raises(InputInvalid, match="a page of column 'v'"):
            pages.read(piece)
        pages.seek(0)
        assert pages.read(4) == b"PAR1"  # what is no page is read as it is
        assert pages.tell() == 4


@pytest.mark.parametrize("seed", range(10))
def test_heads_with_mistakes_are_sizes_or_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        made = bytearray(HEAD + rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(4)):
            made[rng.randrange(len(HEAD))] = rng.randrange(256)
        try:
            found = list(page_sizes(memoryview(bytes(made))))
        except (IndexError, ValueError):
            continue
        assert all(unpacked >= 0 and 0 <= packed <= len(made) for unpacked, packed in found)
