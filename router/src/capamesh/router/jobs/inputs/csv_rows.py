"""CSV as an input (RFC 4180): a row of names, then a row of texts a row. IO: the source that is passed in."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

from typing_extensions import override

from capamesh.protocol.datatypes import Datatype
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES, ShardLimits
from capamesh.router.jobs.inputs.lines import header_of, line_ranges, read_range, windows_of
from capamesh.router.jobs.inputs.number_lines import csv_numbers, pieces_of
from capamesh.router.jobs.inputs.reader import (
    WINDOW_BYTES,
    WINDOW_ROWS,
    RawRows,
    Reader,
    check_names,
)
from capamesh.router.jobs.inputs.source import Source
from capamesh.router.jobs.values import BadRow, RowRange

_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""The mark that spreadsheets write before the first name."""

csv.field_size_limit(MAX_SHARD_BYTES)


class CsvReader(Reader):
    """A file of CSV in UTF-8, with commas, and quotes that are written twice within quotes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._expected: Mapping[str, Datatype] = {}

    @override
    def expect(self, datatypes: Mapping[str, Datatype]) -> None:
        self._expected = datatypes

    @cached_property
    def _names(self) -> list[str]:
        text = _text(header_of(self._source), self._source.name).removeprefix(_MARK)
        try:
            names = next(csv.reader([text], strict=True), list[str]())
        except csv.Error as exc:
            raise InputInvalid(f"the row of names of {self._source.name}: {exc}") from exc
        if not names:
            raise InputInvalid(f"{self._source.name} has no row of names")
        check_names(names, self._source.name)
        return names

    @override
    def fingerprint(self) -> str:
        return self._source.stamp().text()

    @override
    def columns(self) -> Sequence[str]:
        return self._names

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        return line_ranges(self._source, limits, has_header=True, has_quotes=True)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        self.check_columns(columns)
        data, sha256, _ = read_range(self._source, rows)
        # line ends within quotes belong to the text, so only without quotes each line is a row
        pieces = (data,) if b'"' in data else pieces_of(data, columns, self._expected)
        number = rows.first_row
        for piece in pieces:
            found = csv_numbers(piece, self._names, columns, self._expected)
            if found is None:
                for window, count in self._texts(piece, number, columns, sha256):
                    yield window
                    number += count
            else:
                values, count = found
                yield RawRows(range(number, number + count), values, [], sha256)
                number += count
        if number != rows.first_row + rows.rows:
            raise InputInvalid(
                f"{self._source.name} has {number - rows.first_row} rows from {rows.first_row} on where {rows.rows} row ends"
                " are; a quote within a field without quotes does that: write the field in quotes"
            )

    def _texts(
        self, data: bytes, number: int, columns: Sequence[str], sha256: str
    ) -> Iterator[tuple[RawRows, int]]:
        """Yield rows, the first of which has a number, as texts, and how many rows there were."""
        places = [self._names.index(name) for name in columns]
        for fields in self._row_windows(data, number):
            window = RawRows([], {name: [] for name in columns}, [], sha256)
            values = [cast("list[str]", window.columns[name]) for name in columns]
            numbers = cast("list[int]", window.numbers)
            for row in fields:
                if not _is_text(row):
                    window.bad.append(
                        BadRow(number, str(number), InputInvalid.code, "the row is not in UTF-8")
                    )
                elif len(row) == len(self._names):
                    numbers.append(number)
                    for column, place in zip(values, places, strict=True):
                        column.append(row[place])
                else:
                    words = f"the row has {len(row)} fields, the names are {len(self._names)}"
                    window.bad.append(BadRow(number, str(number), InputInvalid.code, words))
                number += 1
            yield window, len(fields)

    def _row_windows(self, data: bytes, first_row: int) -> Iterator[list[list[str]]]:
        """Yield the fields of rows, as many rows at a time as a window may have."""
        name = self._source.name
        # what is not in UTF-8 is one row's matter
        lines = (
            line.decode("utf-8", "surrogateescape") for lines in windows_of(data) for line in lines
        )
        rows = csv.reader(lines, strict=True)
        while True:
            window: list[list[str]] = []
            size_chars = 0
            try:
                for row in rows:
                    window.append(row)
                    size_chars += sum(map(len, row))
                    if len(window) == WINDOW_ROWS or size_chars >= WINDOW_BYTES:
                        break
            except csv.Error as exc:
                # the rows after it cannot be told from it
                number = first_row + len(window)
                raise InputInvalid(f"row {number} of {name}: {exc}") from exc
            if not window:
                return
            yield window
            first_row += len(window)


def _is_text(row: list[str]) -> bool:
    """Return whether all of a row was in UTF-8."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InputInvalid(f"{name} is not in UTF-8: {exc.reason} at byte {exc.start}") from exc
