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
from capamesh.router.jobs.inputs.limits import MAX_ID_CHARS
from capamesh.router.jobs.inputs.number_lines import expected_of
from capamesh.router.jobs.inputs.reader import RawRows, Reader, Values
from capamesh.router.jobs.inputs.requests import FORM, NAME, ROWS
from capamesh.router.jobs.row_forms import RowForm
from capamesh.router.jobs.spec import Columns, InputFormat, InputSpec
from capamesh.router.jobs.values import BadRow, RowRange, short

REQUEST_ROWS: Final = "rows"
"""The only input of the rows of requests: BYTES [rows]."""


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
    if spec.format is not InputFormat.BATCH:
        datatypes = {name: inputs[name].datatype for name in spec.columns}
        reader.expect(expected_of(spec.columns, datatypes, spec.id_column))
    for raw in reader.windows(rows, columns_of(spec)):
        if spec.format is InputFormat.BATCH:
            yield RowWindow(_of_requests(raw), raw.bad, raw.sha256)
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
        yield RowWindow(_batches(raw.numbers, names, cast_columns, refused), bad, raw.sha256)


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
        array = np.empty(len(values), dtype=object)
        array[:] = values
        batches.append(RowBatch(numbers, names, {REQUEST_ROWS: array}, places, form))
    return batches


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
