"""The rows of a part as JSON lines, whatever the part's form, a window at a time. IO: the file that is passed in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, cast

import numpy as np

from capamesh.protocol.schema import Mismatch, json_value
from capamesh.router.jobs.errors import OutputFailed
from capamesh.router.jobs.inputs.arrow_library import arrow
from capamesh.router.jobs.outputs.parts import plain_tensor, plain_values
from capamesh.router.jobs.spec import OutputFormat
from capamesh.router.jobs.values import RowRange

CHUNK_BYTES: Final = 256 * 1024
"""The bytes that are handed out at a time, or more where one line has more."""
WINDOW_ROWS: Final = 512
"""The most rows whose values are Python's at a time (guess: some MB of an embedding)."""


def part_lines(
    file: BinaryIO, form: OutputFormat, shard: RowRange, rows: int, first: int, end: int
) -> Iterator[bytes]:
    """Yield the rows of a part from `first` on and before `end`, by their numbers, as JSON lines with `row`, `id` and `outputs`.

    `shard` is the range of the part, which has so many `rows`. Raises `OutputFailed`: it is no such part.
    """
    try:
        match form:
            case OutputFormat.JSONL:
                is_whole = first <= shard.first_row and end >= shard.first_row + shard.rows
                yield from (
                    _pieces(file)
                    if is_whole
                    else _chunks(_lines_between(file, shard, shard.rows - rows, first, end))
                )
            case OutputFormat.PARQUET:
                yield from _chunks(_between(_parquet_rows(file), first, end))
            case OutputFormat.NPZ:
                yield from _chunks(_between(_npz_rows(file), first, end))
            case OutputFormat.BATCH:  # whose lines have the names of their requests alone
                raise OutputFailed("the rows of a batch are read as its output file")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise OutputFailed(
            f"a part with rows from {shard.first_row} on is damaged: {exc!r:.200}"
        ) from exc


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines, many at a time."""
    found: list[bytes] = []
    size_bytes = 0
    for line in lines:
        found.append(line)
        size_bytes += len(line)
        if size_bytes >= CHUNK_BYTES:
            yield b"".join(found)
            found.clear()
            size_bytes = 0
    if found:
        yield b"".join(found)


def _lines_between(
    file: BinaryIO, shard: RowRange, missing: int, first: int, end: int
) -> Iterator[bytes]:
    """Yield the lines of rows between two; `missing` rows of the shard have none.

    A line is read as JSON only where it is not known which row it has: many small pages of a long part are not to read all
    that is before them.
    """
    for at, line in enumerate(file, shard.first_row):
        if at + missing < first:  # no row before this line is so far behind its place
            continue
        number = at if not missing else _number_of(line)
        if number >= end:
            return
        if number >= first:
            yield line


def _number_of(line: bytes) -> int:
    try:
        return cast("dict[str, int]", json_value(line))["row"]
    except Mismatch as exc:
        raise ValueError(str(exc)) from exc


_Row = tuple[int, str, dict[str, Any]]


def _between(rows: Iterator[_Row], first: int, end: int) -> Iterator[bytes]:
    for number, row_id, outputs in rows:
        if number >= end:
            return
        if number >= first:
            value = {"row": number, "id": row_id, "outputs": outputs}
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            yield text.encode("utf-8", "backslashreplace") + b"\n"


def _rows_of(
    numbers: Sequence[int], ids: Sequence[str], columns: Mapping[str, list[Any]]
) -> Iterator[_Row]:
    for at, number in enumerate(numbers):
        yield number, ids[at], {name: column[at] for name, column in columns.items()}


def _parquet_rows(file: BinaryIO) -> Iterator[_Row]:
    opened = arrow("pyarrow.parquet").ParquetFile(file)
    schema = opened.schema_arrow
    shapes = {str(field.name): _shape_of(field.metadata) for field in schema}
    for batch in opened.iter_batches(WINDOW_ROWS, use_threads=False):
        columns = {
            name: [_shaped(plain_values(value), shape) for value in batch.column(name).to_pylist()]
            for name, shape in shapes.items()
            if name not in {"id", "row"}
        }
        yield from _rows_of(
            batch.column("row").to_pylist(), batch.column("id").to_pylist(), columns
        )


def _shape_of(metadata: dict[bytes, bytes] | None) -> list[int]:
    """Return the shape of a row that the metadata of a column has; empty: it is a value, or the shape is not told."""
    shape = (metadata or {}).get(b"shape")
    return [int(size) for size in shape.decode().split(",")] if shape else []


def _shaped(value: Any, shape: Sequence[int]) -> Any:  # noqa: ANN401 - values of JSON
    """Return a flat list as nested lists of a shape."""
    for size in reversed(shape[1:]):
        value = [value[at : at + size] for at in range(0, len(value), size)] if size else []
    return value


def _npz_rows(file: BinaryIO) -> Iterator[_Row]:
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    numbers, ids = arrays.pop("row"), arrays.pop("id")
    for at in range(0, len(numbers), WINDOW_ROWS):
        window = slice(at, at + WINDOW_ROWS)
        columns = {name: plain_tensor(array[window]) for name, array in arrays.items()}
        yield from _rows_of(numbers[window].tolist(), ids[window].tolist(), columns)
