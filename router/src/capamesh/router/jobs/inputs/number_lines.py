"""Numbers in lines of CSV as arrays, read by pyarrow where it surely reads what is read row by row. Pure.

What pyarrow takes and the reader of rows refuses, or takes for something else, is looked for beforehand in the bytes, and in its
result: then there is none, and the rows are read one by one. So one reader alone decides which rows are refused, and why. Lines of
JSON are no quicker by it (measured: 6 µs a row of 64 numbers, and 5 of `schema.json_value` and numpy).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from capamesh.protocol.datatypes import BF16, BYTES, Datatype
from capamesh.protocol.errors import ConfigError
from capamesh.router.jobs.inputs.arrow_files import array_of
from capamesh.router.jobs.inputs.arrow_library import arrow
from capamesh.router.jobs.inputs.casts import cast_exact
from capamesh.router.jobs.inputs.reader import WINDOW_BYTES, Values

Expected = Mapping[str, Datatype]
"""The datatypes that numbers of columns are wanted as."""

_DOUBTFUL: Final = (b'"', b"x", b"X", b"\0")
"""Quotes, the hexadecimal numbers that pyarrow knows, and what one reader may take for an end."""
TEXT_BYTES: Final = 256 * 1024
"""The bytes of lines with texts that are read at a time: each text has some 50 bytes besides (guess: no line has fewer than 4)."""


def expected_of(
    columns: Mapping[str, Sequence[str]], datatypes: Mapping[str, Datatype], id_column: str
) -> Expected:
    """Return the datatypes of the columns that fill inputs of one datatype each, which is a number's, but for that of names."""
    found: dict[str, Datatype] = {}
    mixed: set[str] = set()
    for name, own in columns.items():
        for column in own:
            if found.setdefault(column, datatypes[name]) is not datatypes[name]:
                mixed.add(column)
    return {
        column: datatype
        for column, datatype in found.items()
        if column not in mixed | {id_column} and datatype not in {BYTES, BF16, Datatype.BOOL}
    }


def pieces_of(data: bytes, columns: Sequence[str], expected: Expected) -> Iterator[bytes]:
    """Yield lines with their ends, as many at a time as a window may have: fewer where some of the columns become texts of Python's."""
    most = WINDOW_BYTES if expected.keys() >= set(columns) else min(TEXT_BYTES, WINDOW_BYTES)
    first = 0
    while first < len(data):
        end = data.rfind(b"\n", first, first + most) + 1
        if end <= first:  # a line that is longer
            end = data.find(b"\n", first) + 1 or len(data)
        yield data[first:end]
        first = end


def csv_numbers(
    piece: bytes, names: Sequence[str], columns: Sequence[str], expected: Expected
) -> tuple[dict[str, Values], int] | None:
    """Return columns of lines of CSV, and how many rows they are; None: the rows are to be read one by one.

    Each column is an array of shape [rows] and the dtype that is expected, or a list of texts where no numbers are.
    """
    if not expected or not _is_plain(piece):
        return None
    try:
        pa, reader = arrow(), arrow("pyarrow.csv")
    except ConfigError:
        return None
    kinds = {name: _arrow_type(pa, expected.get(name)) for name in columns}
    try:
        table = reader.read_csv(
            pa.BufferReader(piece),
            read_options=reader.ReadOptions(
                use_threads=False, block_size=len(piece) + 1, column_names=list(names)
            ),
            parse_options=reader.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=reader.ConvertOptions(
                column_types=kinds, include_columns=list(columns), null_values=[]
            ),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != _lines_in(piece):
        return None
    return _columns_of(table, columns, expected)


def _columns_of(
    table: Any,  # noqa: ANN401 - pyarrow's
    columns: Sequence[str],
    expected: Expected,
) -> tuple[dict[str, Values], int] | None:
    found: dict[str, Values] = {}
    for name in columns:
        column = table.column(name).combine_chunks()
        if column.null_count:
            return None
        datatype = expected.get(name)
        if datatype is None:
            found[name] = column.to_pylist()
            continue
        array = array_of(column)
        if array is None or (array.dtype.kind == "f" and not np.all(np.isfinite(array))):
            return None
        made = cast_exact(array, datatype, is_made=True)
        if made is None:
            return None
        found[name] = made
    return found, int(table.num_rows)


def _arrow_type(pa: Any, datatype: Datatype | None) -> Any:  # noqa: ANN401 - pyarrow's
    """Return the type that texts of numbers are read as; None: they stay texts."""
    if datatype is None:
        return pa.string()
    if datatype.numpy_dtype.kind == "f":
        return pa.float64()
    return pa.uint64() if datatype is Datatype.UINT64 else pa.int64()


def _lines_in(piece: bytes) -> int:
    return piece.count(b"\n") + (not piece.endswith(b"\n"))


def _is_plain(piece: bytes) -> bool:
    """Return whether there is nothing doubtful in it, and all of it is in UTF-8."""
    for each in _DOUBTFUL:
        if each in piece:
            return False
    if piece.count(b"\r") != piece.count(b"\r\n"):  # one alone ends a line for one of them
        return False
    if piece.isascii():
        return True
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
