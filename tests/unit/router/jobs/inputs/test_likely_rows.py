"""The rows of an input are counted where that costs little, for the promise of an end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from capamesh.router.jobs.inputs import arrow_files
from capamesh.router.jobs.inputs.arrays import ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.likely_rows import SAMPLE_BYTES, likely_rows
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import InputFormat

ROWS = 10_000


def test_files_with_their_number_of_rows_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"x": list(range(ROWS))})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=999)
    feather.write_feather(table, tmp_path / "x.arrow", chunksize=999)
    np.save(tmp_path / "x.npy", np.zeros((ROWS, 3)))
    # no batch of values is looked at
    monkeypatch.setattr(arrow_files, "_checked", lambda _: pytest.fail("a batch was read"))
    readers = (
        (InputFormat.PARQUET, ParquetReader, "x.parquet"),
        (InputFormat.ARROW, ArrowReader, "x.arrow"),
        (InputFormat.NPY, partial(ArrayReader, is_archive=False), "x.npy"),
    )
    for form, reader, name in readers:
        source = LocalFile(tmp_path / name)
        assert likely_rows(form, reader(source), source) == ROWS


def test_lines_are_guessed_from_the_first_of_them(tmp_path: Path) -> None:
    line = b'{"x": 12345}\n'
    file = tmp_path / "x.jsonl"
    file.write_bytes(line * 10)
    source = LocalFile(file)
    assert likely_rows(InputFormat.JSONL, JsonlReader(source), source) == 10
    file.write_bytes(line * (3 * SAMPLE_BYTES // len(line)))
    found = likely_rows(InputFormat.JSONL, JsonlReader(source), source)
    assert found == pytest.approx(3 * SAMPLE_BYTES / len(line), rel=0.01)
