"""The rows of a range as the batches that a model takes, and the rows that do not fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.schema import shown
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.casts import Rows, cast_column
from capamesh.router.jobs.inputs.limits import MAX_ID_CHARS, MAX_SHARD_BYTES
from capamesh.router.jobs.inputs.number_lines import expected_of
from capamesh.router.jobs.inputs.reader import RawRows, Reader, Values
from capamesh.router.jobs.inputs.requests import FORM, LINE, NAME, ROWS, read_lines
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.row_forms import RowForm
from capamesh.router.jobs.spec import Columns, InputFormat, InputSpec
from capamesh.router.jobs.values import BadRow, RowRange, short

REQUEST_ROWS: Final = "rows"
"""The only input of the rows of requests: BYTES [rows]."""
BATCH_BYTES: Final = 8 * 2**20
"""The bytes of rows from which on a batch is cut, however few rows it has (guess: the files of a best batch may have hundreds of MB,
which a link and a node have to hold at once)."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows that can be run as one: in each input they have one shape."""

    numbers: Sequence[int]
    """The numbers of the rows: a range where they stand one behind the other."""
    ids: Sequence[str]
    """The names of the rows."""
    inputs: dict[str, npt.NDArray[Any]]
    """The tensors by the input's name, of shape [rows, *row_shape] and the dtype of the input's datatype."""
    places: Sequence[int] = ()
    """The place of each row among those of its request, where requests have several: then numbers and ids are there as often.
    Empty: each is one by itself."""
    form: RowForm | None = None
    """The form of the call, for rows of requests, whose `inputs` are `REQUEST_ROWS` alone; None: they are the model's inputs."""

    @property
    def rows(self) -> int:
        """The number of the rows."""
        return len(self.numbers)


def columns_of(spec: InputSpec) -> list[str]:
    """Return the columns that a job reads, each once."""
    wanted: dict[str, None] = {}
    for columns in spec.columns.values():
        wanted.update(dict.fromkeys(columns))
    if spec.id_column:
        wanted[spec.id_column] = None
    return list(wanted)


@dataclass(frozen=True, slots=True)
class RowWindow:
    """Some rows of a range."""

    batches: list[RowBatch]
    bad: list[BadRow]
    """The rows that cannot be run, in order."""
    sha256: str
    """The SHA-256 of the whole range's bytes, in hexadecimal digits; "" where the form is not read as bytes."""


def read_windows(
    reader: Reader, rows: RowRange, spec: InputSpec, inputs: Mapping[str, TensorSpec]
) -> Iterator[RowWindow]:
    """Yield the rows of a range as batches, a window at a time.

    `inputs` are those of the model that `spec` fills, whose first axis is the rows. Raises as `Reader.windows` does: an error
    takes all windows of the range back.
    """
    for window in plain_windows(reader, rows, spec, inputs):
        yield finished(window, spec)


def plain_windows(
    reader: Reader, rows: RowRange, spec: InputSpec, inputs: Mapping[str, TensorSpec]
) -> Iterator[RowWindow]:
    """Yield windows as `read_windows` does, but for requests, which are still lines: so they go from one process to another.

    None has more than `BATCH_BYTES`, but for one of a single row.
    """
    if spec.format is not InputFormat.BATCH:
        datatypes = {name: inputs[name].datatype for name in spec.columns}
        reader.expect(expected_of(spec.columns, datatypes, spec.id_column))
    for raw in reader.windows(rows, columns_of(spec)):
        if spec.format is InputFormat.BATCH:
            lines = _objects(cast("Sequence[bytes]", raw.columns[LINE]))
            batch = RowBatch(raw.numbers, NumberNames(raw.numbers), {LINE: lines})
            yield from _bounded(RowWindow([batch] if batch.rows else [], raw.bad, raw.sha256))
            continue
        names, refused = _names_of(reader, raw, spec.id_column)
        cast_columns: dict[str, Rows] = {}
        for name, columns in spec.columns.items():
            cast_columns[name], wrong = cast_column(_values_of(raw, columns), inputs[name])
            shown_columns = ", ".join(columns[:4])
            for place, words in wrong.items():
                refused.setdefault(place, f"column {shown_columns!r}: {words}")
        misfits = [
            BadRow(raw.numbers[place], names[place], InputInvalid.code, short(words))
            for place, words in refused.items()
        ]
        bad = sorted([*raw.bad, *misfits], key=lambda each: each.row)
        batches = _batches(raw.numbers, names, cast_columns, refused)
        yield from _bounded(RowWindow(batches, bad, raw.sha256))


def finished(window: RowWindow, spec: InputSpec) -> RowWindow:
    """Return a window of `plain_windows` with the requests that its lines are."""
    if spec.format is not InputFormat.BATCH:
        return window
    batches: list[RowBatch] = []
    bad = list(window.bad)
    for batch in window.batches:
        raw = read_lines(batch.numbers, batch.inputs[LINE].tolist(), spec.id_column)
        batches += _of_requests(raw)
        bad += raw.bad
    return RowWindow(batches, sorted(bad, key=lambda each: each.row), window.sha256)


def _bounded(window: RowWindow) -> Iterator[RowWindow]:
    """Yield a window in parts of no more than `BATCH_BYTES`, or of one row, and without rows of more than `MAX_SHARD_BYTES`."""
    bad, kept, held_bytes = list(window.bad), list[RowBatch](), 0
    for batch in window.batches:
        for piece in pieces_of(batch):
            size_bytes = size_of(piece)
            if size_bytes > MAX_SHARD_BYTES:  # a single row
                words = f"the row has {size_bytes} bytes once it is read, the limit is {MAX_SHARD_BYTES}"
                bad += [
                    BadRow(number, piece.ids[0], InputInvalid.code, words)
                    for number in piece.numbers
                ]
                continue
            if kept and held_bytes + size_bytes > BATCH_BYTES:
                yield RowWindow(kept, bad, window.sha256)
                bad, kept, held_bytes = [], [], 0
            kept.append(piece)
            held_bytes += size_bytes
    yield RowWindow(kept, bad, window.sha256)


def _batches(
    numbers: Sequence[int],
    names: Sequence[str],
    columns: Mapping[str, Rows],
    refused: Mapping[int, str],
) -> list[RowBatch]:
    whole = {name: rows for name, rows in columns.items() if isinstance(rows, np.ndarray)}
    if len(whole) == len(columns) and not refused:
        return [RowBatch(numbers, names, whole)] if len(numbers) else []
    places: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place in range(len(numbers)):
        if place not in refused:
            shapes = tuple(cast("npt.NDArray[Any]", rows[place]).shape for rows in columns.values())
            places.setdefault(shapes, []).append(place)
    return [
        RowBatch(
            [numbers[place] for place in alike],
            [names[place] for place in alike],
            {
                name: np.stack([cast("npt.NDArray[Any]", rows[place]) for place in alike])
                for name, rows in columns.items()
            },
        )
        for alike in places.values()
    ]


def _of_requests(raw: RawRows) -> list[RowBatch]:
    """Return the rows of requests, those of one form together."""
    found: dict[RowForm, tuple[list[int], list[str], list[bytes], list[int]]] = {}
    columns = raw.columns
    for number, name, rows, form in zip(
        raw.numbers, columns[NAME], columns[ROWS], columns[FORM], strict=True
    ):
        numbers, names, values, places = found.setdefault(form, ([], [], [], []))
        numbers += [number] * len(rows)
        names += [name] * len(rows)
        values += rows
        places += range(len(rows))
    batches: list[RowBatch] = []
    for form, (numbers, names, values, places) in found.items():
        batches.append(RowBatch(numbers, names, {REQUEST_ROWS: _objects(values)}, places, form))
    return batches


def _objects(values: Sequence[bytes]) -> npt.NDArray[Any]:
    """Return bytes as an array of shape [values]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _values_of(raw: RawRows, columns: Columns) -> Values:
    """Return one column, or several as one whose rows have a value of each."""
    if len(columns) == 1:
        return raw.columns[columns[0]]
    found = [raw.columns[name] for name in columns]
    if all(isinstance(each, np.ndarray) and each.ndim == 1 for each in found):
        kinds = {cast("npt.NDArray[Any]", each).dtype for each in found}
        if len(kinds) == 1:  # of others numpy would make what fits neither
            return np.stack([np.asarray(each) for each in found], axis=1)
    return list(zip(*(_listed(each) for each in found), strict=True))


def _listed(values: Values) -> Sequence[Any]:
    return cast("list[Any]", values.tolist()) if isinstance(values, np.ndarray) else values


def _names_of(reader: Reader, raw: RawRows, id_column: str) -> tuple[Sequence[str], dict[int, str]]:
    """Return the names of rows, and what is wrong with those that have none, by place."""
    if not id_column:
        return reader.row_names(raw), {}
    names: list[str] = []
    refused: dict[int, str] = {}
    for place, value in enumerate(_listed(raw.columns[id_column])):
        name = _name_of(value)
        if name and len(name) <= MAX_ID_CHARS:
            names.append(name)
        else:
            names.append(str(raw.numbers[place]))
            refused[place] = (
                f"column {id_column!r}: {shown(value)} is no name of a row; texts of 1 to {MAX_ID_CHARS} characters and"
                " whole numbers are"
            )
    return names, refused


def _name_of(value: object) -> str:
    """Return a value as the name of a row; "": it is none. A float is none: many whole numbers would be one."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def part_of(batch: RowBatch, first: int, end: int | None) -> RowBatch:
    """Return rows of a batch, with views of its tensors."""
    return RowBatch(
        batch.numbers[first:end],
        batch.ids[first:end],
        {name: each[first:end] for name, each in batch.inputs.items()},
        batch.places[first:end],
        batch.form,
    )


def pieces_of(batch: RowBatch, most_bytes: int = BATCH_BYTES) -> Iterator[RowBatch]:
    """Yield the rows of a batch in pieces of at most so many bytes, or of one row that has more."""
    if batch.rows <= 1 or size_of(batch) <= most_bytes:
        yield batch
        return
    first = total_bytes = 0
    row_bytes = sum(
        each.nbytes // batch.rows for each in batch.inputs.values() if each.dtype.kind != "O"
    )
    texts = [each for each in batch.inputs.values() if each.dtype.kind == "O"]
    if not texts:
        many = max(1, most_bytes // max(1, row_bytes))
        for first in range(0, batch.rows, many):
            yield part_of(batch, first, first + many)
        return
    fixed_bytes = row_bytes
    for at in range(batch.rows):
        row_bytes = fixed_bytes + sum(_bytes_of(each[at : at + 1]) for each in texts)
        if at > first and total_bytes + row_bytes > most_bytes:
            yield part_of(batch, first, at)
            first, total_bytes = at, 0
        total_bytes += row_bytes
    yield part_of(batch, first, None)


def size_of(batch: RowBatch) -> int:
    """Return the bytes of a batch's tensors."""
    return sum(_bytes_of(each) for each in batch.inputs.values())


def _bytes_of(array: npt.NDArray[Any]) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return sum(len(each) for each in cast("list[bytes]", array.ravel().tolist()))
