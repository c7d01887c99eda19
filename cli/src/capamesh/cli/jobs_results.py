"""Writes the results of a job into a file, as they come: lines of JSON, CSV, Parquet or numpy's arrays. File IO.

A file is written beside its place and renamed when it is whole. Lines of JSON that a broken-off command has left there are gone on with.
"""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import tempfile
import zipfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.client import JobResult
from capamesh.client.jobs.results import pyarrow_module, table_of
from capamesh.protocol.errors import ConfigError, InvalidRequest

SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".npz": "npz"}  # fmt: skip
GROUP_ROWS: Final = 10_000
"""The rows of a row group of Parquet, which are in memory at a time (guess)."""
_TAIL_BYTES: Final = 64 * 2**20
"""The longest line that is looked for at the end of a file."""
_COPIED_BYTES: Final = 2**20


class Writer(ABC):
    """Writes rows into an open file."""

    @abstractmethod
    def add(self, row: JobResult) -> None:
        """Write the outputs of a row, of any dtype and shape."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class JsonLines(Writer):
    """Writes an object a line, as the router has them."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @override
    def add(self, row: JobResult) -> None:
        outputs = {name: plain_values(each) for name, each in row.outputs.items()}
        value = {"row": row.row, "id": row.id, "outputs": outputs}
        self._file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")

    @override
    def close(self) -> None:
        """Do nothing: each line is written when it comes."""


class CommaLines(Writer):
    """Writes CSV: the row's number and name, and a column an output; what is not one value is JSON in its cell."""

    def __init__(self, file: IO[str]) -> None:
        self._lines = csv.writer(file, lineterminator="\n")
        self._names: list[str] | None = None

    @override
    def add(self, row: JobResult) -> None:
        if self._names is None:
            self._names = list(row.outputs)
            self._lines.writerow(["row", "id", *self._names])
        if list(row.outputs) != self._names:
            raise _other_outputs(row, self._names)
        self._lines.writerow([row.row, row.id, *map(_cell, row.outputs.values())])

    @override
    def close(self) -> None:
        """Do nothing: each line is written when it comes."""


class ParquetFile(Writer):
    """Writes Parquet, some thousand rows at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._arrow = pyarrow_module()
        self._rows: list[JobResult] = []
        self._writer: Any = None

    @override
    def add(self, row: JobResult) -> None:
        self._rows.append(row)
        if len(self._rows) == GROUP_ROWS:
            self._write()

    @override
    def close(self) -> None:
        if self._rows or self._writer is None:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        from pyarrow import parquet  # type: ignore[import-untyped]  # noqa: PLC0415 - it is there, see above

        table = table_of(self._rows, self._arrow)
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._file, table.schema)  # pyright: ignore[reportUnknownMemberType]
        elif table.schema != self._writer.schema:
            raise InvalidRequest(
                f"from row {self._rows[0].row} on the outputs have other types; choose --format jsonl"
            )
        self._writer.write_table(table)
        self._rows.clear()


class ArrayFile(Writer):
    """Writes `.npz`: `row`, `id`, and an array an output, of shape [rows, ...]; memory holds a few bytes a row."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._open = ExitStack()
        self._columns: dict[str, _Column] = {}
        self._names: list[str] | None = None
        self._rows = self._column("row")
        self._ids = self._column("id")

    @override
    def add(self, row: JobResult) -> None:
        if self._names is None:
            self._names = list(row.outputs)
            for name in self._names:
                self._column(_free(name))
        if list(row.outputs) != self._names:
            raise _other_outputs(row, self._names)
        self._rows.add(row, np.asarray(row.row, np.int64))
        self._ids.add(row, np.array(row.id.encode(), object))
        for name, each in row.outputs.items():
            self._columns[_free(name)].add(row, each)

    @override
    def close(self) -> None:
        with self._open, zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED) as archive:
            for name, column in self._columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    column.write(entry)

    def _column(self, name: str) -> _Column:
        file = self._open.enter_context(tempfile.TemporaryFile(prefix="capamesh-"))  # noqa: SIM115 - it is one
        column = self._columns[name] = _Column(name, file)
        return column


class _Column:
    """The values of one array of an archive, in a temporary file."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file
        self._rows = 0
        self._dtype: np.dtype[Any] = np.dtype(np.int64)
        self._shape: tuple[int, ...] = ()
        self._lengths: array[int] | None = None
        """The bytes of each value; None: they are numbers."""

    def add(self, row: JobResult, values: npt.NDArray[Any]) -> None:
        if not self._rows:
            self._dtype, self._shape = values.dtype, values.shape
            self._lengths = array("q") if values.dtype.hasobject else None
        if (values.dtype, values.shape) != (self._dtype, self._shape):
            raise InvalidRequest(
                f"output {self._name!r} of row {row.row} is {values.dtype}{list(values.shape)}, that of rows before it"
                f" {self._dtype}{list(self._shape)}, and .npz has one shape; choose --format jsonl"
            )
        self._rows += 1
        if self._lengths is None:
            self._file.write(np.ascontiguousarray(values).tobytes())
            return
        for each in values.ravel().tolist():
            text = cast("bytes", each)
            if text.endswith(b"\0"):
                raise InvalidRequest(
                    f"output {self._name!r} of row {row.row} ends in a zero byte, which .npz cannot hold; choose --format jsonl"
                )
            self._lengths.append(len(text))
            self._file.write(text)

    def write(self, entry: IO[bytes]) -> None:
        lengths = self._lengths
        size = max(1, max(lengths, default=1)) if lengths is not None else 0
        dtype = self._dtype if lengths is None else np.dtype(f"S{size}")
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(cast("Any", entry), cast("Any", header))
        self._file.seek(0)
        if lengths is None:
            while piece := self._file.read(_COPIED_BYTES):
                entry.write(piece)
        else:
            for length in lengths:
                entry.write(self._file.read(length).ljust(size, b"\0"))


def format_of(path: Path | None, given: str) -> str:
    """Return the form of results that is meant. Raises `InvalidRequest`: the file's name tells none."""
    if given or path is None:
        return given or "jsonl"
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InvalidRequest(
            f"the end of {path.name!r} tells no form; give --format, or a name that ends in {', '.join(SUFFIXES)}"
        )
    return found


def begun(path: Path) -> Path:
    """Return where a file is written until it is whole."""
    return path.with_name(f"{path.name}.part")


def first_missing(path: Path, form: str) -> int:
    """Return the row with which to go on writing lines of JSON that were broken off, and cut off what is half a line; 0: anew."""
    part = begun(path)
    if form != "jsonl" or not part.is_file():
        return 0
    with part.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        at = max(0, size - _TAIL_BYTES)
        file.seek(at)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        start = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
        last = _row_of(tail[start:end]) if end else None
        if last is None:
            file.truncate(0)
            return 0
        file.truncate(at + end)
    return last + 1


@contextmanager
def written(path: Path, form: str, from_row: int) -> Generator[Writer]:
    """Yield what writes rows into a file; once all are written, it gets its name. Raises `ConfigError`."""
    part = begun(path)
    try:
        if form in {"jsonl", "csv"}:
            with part.open("a" if from_row else "w", encoding="utf-8", newline="") as lines:
                writer = line_writer(lines, form)
                yield writer
                writer.close()
                lines.flush()
                os.fsync(lines.fileno())
        else:
            with part.open("wb") as file:
                writer = ParquetFile(file) if form == "parquet" else ArrayFile(file)
                yield writer
                writer.close()
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {part}: {exc.strerror}; make room and give the same command again"
        ) from exc


def line_writer(file: IO[str], form: str) -> Writer:
    """Return what writes rows as lines."""
    return CommaLines(file) if form == "csv" else JsonLines(file)


def plain_values(values: npt.NDArray[Any]) -> Any:  # noqa: ANN401 - values of JSON
    """Return an array, of any dtype and shape, as values of JSON: numbers that JSON has not are texts, and so are bytes in UTF-8."""
    return _plain(values.tolist())


def _plain(value: object) -> object:
    match value:
        case list():
            return [_plain(each) for each in cast("list[object]", value)]
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case _:
            return value


def _cell(values: npt.NDArray[Any]) -> object:
    """Return an output, of any dtype and shape, as a cell of CSV."""
    plain = plain_values(values)
    while isinstance(plain, list) and len(cast("list[object]", plain)) == 1:
        plain = cast("list[object]", plain)[0]
    is_one = not isinstance(plain, list | dict)
    return plain if is_one else json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _row_of(line: bytes) -> int | None:
    """Return the number of the row that a line of JSON has; None: it has none."""
    try:
        row = cast("object", json.loads(line))
    except ValueError:
        return None
    found = cast("dict[str, object]", row).get("row") if isinstance(row, dict) else None
    return found if type(found) is int else None


def _free(name: str) -> str:
    """Return what an output is called beside `row` and `id`."""
    return f"{name}_output" if name in {"row", "id"} else name


def _other_outputs(row: JobResult, names: list[str]) -> InvalidRequest:
    return InvalidRequest(
        f"row {row.row} has the outputs {list(row.outputs)}, rows before it {names}; choose --format jsonl"
    )
