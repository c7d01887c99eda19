"""JSON lines as an input: an object a line, whose keys are the columns. IO: the source that is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from typing_extensions import override

from capamesh.protocol.schema import Mismatch, json_value, shown
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.lines import line_ranges, read_range, windows_of
from capamesh.router.jobs.inputs.reader import RawRows, Reader
from capamesh.router.jobs.inputs.source import Source
from capamesh.router.jobs.values import BadRow, RowRange, short


class JsonlReader(Reader):
    """A file of JSON lines in UTF-8. A row is a line, also an empty one, which is a bad row."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @override
    def fingerprint(self) -> str:
        return self._source.stamp().text()

    @override
    def columns(self) -> None:
        return None

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        return line_ranges(self._source, limits, has_header=False, has_quotes=False)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        data, sha256, _ = read_range(self._source, rows)
        first = rows.first_row
        for lines in windows_of(data):
            yield _raw_of(lines, first, columns, sha256)
            first += len(lines)


def _raw_of(lines: Sequence[bytes], first_row: int, columns: Sequence[str], sha256: str) -> RawRows:
    numbers: list[int] = []
    values: list[list[Any]] = [[] for _ in columns]
    bad: list[BadRow] = []
    for number, line in enumerate(lines, first_row):
        try:
            row = _row_of(line, columns)
        except Mismatch as exc:
            bad.append(BadRow(number, str(number), InputInvalid.code, short(str(exc))))
            continue
        numbers.append(number)
        for column, value in zip(values, row, strict=True):
            column.append(value)
    found = numbers if bad else range(first_row, first_row + len(numbers))
    return RawRows(found, dict(zip(columns, values, strict=True)), bad, sha256)


def _row_of(line: bytes, columns: Sequence[str]) -> list[Any]:
    """Return the values of a line; raises `Mismatch`."""
    try:
        value = json_value(line)
    except MemoryError:
        raise Mismatch(
            f"the line has {len(line)} bytes, and as values more than a reader's memory; give less in a row"
        ) from None
    if not isinstance(value, dict):
        raise Mismatch(f"the line is {shown(value)}, expected an object")
    fields = cast("dict[str, Any]", value)
    try:
        return [fields[name] for name in columns]
    except KeyError as exc:
        raise Mismatch(f"the row has no column {exc.args[0]!r}") from None
