"""Parquet, and Arrow's files of record batches, as inputs. IO: the source.

A range may begin in the middle of a row group and go on in the next one; what is before it in its group is decoded and thrown
away, a batch at a time. The file is read and not mapped: one that is cut off under a map ends the process.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, BinaryIO, cast

import numpy.typing as npt
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.arrow_library import arrow
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.parquet_values import bounded, dictionary_columns, rows_at_once
from capamesh.router.jobs.inputs.reader import WINDOW_ROWS, RawRows, Reader, Values, check_names
from capamesh.router.jobs.inputs.source import Source, Stamp
from capamesh.router.jobs.values import RowRange


class _ColumnarReader(Reader):
    """The base of the two forms: groups of rows, each with columns."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stamp: Stamp = source.stamp()

    @override
    def fingerprint(self) -> str:
        return self._stamp.text()

    @override
    def columns(self) -> Sequence[str]:
        return self._names

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        first = rows = seq = size_bytes = 0
        start = (0, 0)
        with self._opened() as file:
            for group, (group_rows, group_bytes) in enumerate(self._groups(file)):
                if group_rows < 0 or group_bytes < 0:
                    raise InputInvalid(
                        f"cannot read {self._source.name}: group {group} has {group_rows} rows and {group_bytes} bytes"
                    )
                row_bytes = group_bytes / max(1, group_rows)
                if row_bytes > limits.in_bytes:
                    raise InputInvalid(
                        f"a row of group {group} of {self._source.name} has some {row_bytes:.0f} bytes, the limit is"
                        f" {limits.in_bytes}"
                    )
                taken = 0
                while taken < group_rows:
                    if not rows:
                        start = (group, taken)
                    fitting = (
                        int((limits.in_bytes - size_bytes) / row_bytes) if row_bytes else group_rows
                    )
                    more = min(limits.rows_at(seq) - rows, fitting, group_rows - taken)
                    rows += more
                    taken += more
                    size_bytes += int(more * row_bytes)
                    if taken < group_rows or rows == limits.rows_at(seq):
                        yield RowRange(first, rows, *start, size_bytes)
                        first += rows
                        seq += 1
                        rows = size_bytes = 0
        if rows:
            yield RowRange(first, rows, *start, size_bytes)
        self._source.check(self._stamp)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        self.check_columns(columns)
        skipped = found = 0
        with self._opened() as file:
            for batch in self._batches(file, rows, columns):
                before = min(rows.offset - skipped, batch.num_rows)
                skipped += before
                part = batch.slice(before, rows.rows - found)
                for at in range(0, part.num_rows, WINDOW_ROWS):
                    window = part.slice(at, WINDOW_ROWS)
                    first = rows.first_row + found
                    values: dict[str, Values] = {
                        name: _values_of(window.column(name)) for name in columns
                    }
                    yield RawRows(range(first, first + window.num_rows), values)
                    found += window.num_rows
                if found == rows.rows:
                    break
        self._source.check(self._stamp)
        if found != rows.rows:
            raise InputInvalid(
                f"{self._source.name} has {found} rows from {rows.first_row} on where {rows.rows} were planned"
            )

    def _opened(self) -> _Opened:
        return _Opened(self._source)

    @cached_property
    def _names(self) -> list[str]:
        with self._opened() as file:
            names = [str(name) for name in self._schema_names(file)]
        check_names(names, self._source.name)
        return names

    @abstractmethod
    def _schema_names(self, file: BinaryIO) -> list[str]:
        """Return the names of the columns."""

    @abstractmethod
    def _groups(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        """Yield the rows of each group, and the bytes that they take in memory."""

    @abstractmethod
    def _batches(self, file: BinaryIO, rows: RowRange, columns: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of these columns from the beginning of the range's first group on."""


class _Opened:
    """An open file of pyarrow's, whose errors become the input's."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> BinaryIO:
        arrow()
        self._file, _ = self._source.open()
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        self._file.close()
        # what pyarrow raises of a broken file is not its own errors alone
        if isinstance(error, Exception) and not isinstance(error, CapameshError | MemoryError):
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise InputInvalid(f"cannot read {self._source.name}: {words[0][:300]}") from error


class ParquetReader(_ColumnarReader):
    """A file of Parquet."""

    @override
    def _schema_names(self, file: BinaryIO) -> list[str]:
        return list(arrow("pyarrow.parquet").ParquetFile(file).schema_arrow.names)

    @override
    def _groups(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        metadata = arrow("pyarrow.parquet").ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            about = metadata.row_group(group)
            yield about.num_rows, about.total_byte_size

    @override
    def _batches(self, file: BinaryIO, rows: RowRange, columns: Sequence[str]) -> Iterator[Any]:
        metadata = arrow("pyarrow.parquet").ParquetFile(file).metadata
        # those of the range alone: a group behind it costs its bytes, and may be broken
        groups: list[int] = []
        left = rows.offset + rows.rows
        for group in range(rows.group, metadata.num_row_groups):
            if left <= 0:
                break
            groups.append(group)
            left -= metadata.row_group(group).num_rows
        parquet = arrow("pyarrow.parquet").ParquetFile(
            file,
            metadata=metadata,
            page_checksum_verification=True,
            read_dictionary=dictionary_columns(metadata, groups),
        )
        most_rows = rows_at_once(metadata, groups, WINDOW_ROWS)
        for batch in parquet.iter_batches(
            most_rows, row_groups=groups, columns=list(columns), use_threads=False
        ):
            yield from bounded(batch, self._source.name)


class ArrowReader(_ColumnarReader):
    """A file of Arrow's record batches, which can be read at any place: Feather's, too."""

    def counted_rows(self) -> int:
        """Return the rows, by what stands before each batch: none of their values are read."""
        with self._opened() as file:
            form = arrow("pyarrow.dataset").IpcFileFormat()
            return int(form.make_fragment(arrow().PythonFile(file, "r")).count_rows())

    @override
    def _schema_names(self, file: BinaryIO) -> list[str]:
        return list(arrow("pyarrow.ipc").open_file(file).schema.names)

    @override
    def _groups(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        opened = arrow("pyarrow.ipc").open_file(file)
        for group in range(opened.num_record_batches):
            batch = _checked(opened.get_batch(group))
            yield batch.num_rows, batch.nbytes

    @override
    def _batches(self, file: BinaryIO, rows: RowRange, columns: Sequence[str]) -> Iterator[Any]:
        opened = arrow("pyarrow.ipc").open_file(file)
        for group in range(rows.group, opened.num_record_batches):
            yield _checked(opened.get_batch(group).select(list(columns)))


def _checked(batch: Any) -> Any:  # noqa: ANN401 - a record batch of pyarrow
    """Return a batch whose offsets lead out of no buffer, as those of a broken file may; raises pyarrow's error."""
    batch.validate(full=True)
    return batch


def _values_of(column: Any) -> Any:  # noqa: ANN401 - an array of pyarrow; `Values`
    """Return a column as an array of shape [rows, ...] where it has no gaps and one shape, else as a list."""
    array = array_of(column)
    return column.to_pylist() if array is None else array


def array_of(column: Any) -> npt.NDArray[Any] | None:  # noqa: ANN401 - an array of pyarrow
    """Return a column of numbers, or of lists of them, as an array of shape [rows, ...]; None: it has gaps or several shapes."""
    types = arrow("pyarrow.types")
    kind = column.type
    if column.null_count or not len(column):
        return None
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return cast("npt.NDArray[Any]", column.to_numpy(zero_copy_only=False))
    if not (types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)):
        return None
    inner = column.flatten()
    length = len(inner) // len(column)
    if not types.is_fixed_size_list(kind):
        lengths = arrow("pyarrow.compute").list_value_length(column)
        if lengths.unique().to_pylist() != [length]:
            return None
    array = array_of(inner)
    return None if array is None else array.reshape(len(column), length, *array.shape[1:])
