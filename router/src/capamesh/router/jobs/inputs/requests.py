"""A file of requests as an input: a request a line, each of which has one row for its node or several. IO: the source that is passed in.

A row of the job is a request. Its lines were checked when the file was uploaded, so a line that is wrong here makes a bad row and no
more. Shards are cut by the rows that nodes are to run, which a few requests may have many of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.schema import Mismatch, json_value, shown
from capamesh.protocol.steps import run_through
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.lines import read_range, windows_of
from capamesh.router.jobs.inputs.reader import RawRows, Reader
from capamesh.router.jobs.inputs.source import Source
from capamesh.router.jobs.row_forms import Endpoint, RowForm
from capamesh.router.jobs.values import BadRow, RowRange, short

NAME: Final = "custom_id"
ROWS: Final = "rows"
FORM: Final = "form"
"""The columns of a window: the names of requests, the rows of each, and their `RowForm`."""


class RequestsReader(Reader):
    """A file of requests. Lines without any text are none."""

    names_rows = True

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
        file, stamp = self._source.open()
        with file:
            cutter = _Cutter(limits)
            for line in file:
                yield from cutter.take(line)
            yield from cutter.finish()
        self._source.check(stamp)
        if cutter.position != stamp.size_bytes:
            raise InputChanged(
                f"{self._source.name} gave {cutter.position} bytes where it had {stamp.size_bytes}"
            )

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        """Yield the requests of a range, in the columns `NAME`, `ROWS` and `FORM`, whatever is asked for."""
        data, sha256, _ = read_range(self._source, rows)
        number = rows.first_row
        for lines in windows_of(data):
            raw = RawRows([], {NAME: [], ROWS: [], FORM: []}, sha256=sha256)
            for line in lines:
                if line.strip():
                    _add(raw, number, line)
                    number += 1
            yield raw

    @override
    def row_names(self, raw: RawRows) -> list[str]:
        return cast("list[str]", raw.columns[NAME])


def names_of(source: Source, rows: RowRange) -> Iterator[tuple[int, str]]:
    """Yield the numbers and the names of the requests of a range; raises `InputChanged`."""
    data, _, _ = read_range(source, rows)
    number = rows.first_row
    for lines in windows_of(data):
        for line in lines:
            if line.strip():
                yield number, _name_of(_fields(line), number)
                number += 1


def _add(raw: RawRows, number: int, line: bytes) -> None:
    """Add a request to a window, or to its bad rows."""
    fields = _fields(line)
    name = _name_of(fields, number)
    try:
        found: tuple[Sequence[bytes], RowForm] = run_through(_endpoint(fields).read(_body(fields)))
    except (Mismatch, InvalidRequest) as exc:
        raw.bad.append(BadRow(number, name, InputInvalid.code, short(str(exc))))
        return
    raw.numbers = cast("list[int]", raw.numbers)
    raw.numbers.append(number)
    columns = cast("dict[str, list[object]]", raw.columns)
    columns[NAME].append(name)
    columns[ROWS].append(found[0])
    columns[FORM].append(found[1])


def _fields(line: bytes) -> Mapping[str, Any]:
    """Return the fields of a line; none: it is no object."""
    try:
        value = json_value(line)
    except Mismatch:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _name_of(fields: Mapping[str, Any], number: int) -> str:
    name = fields.get(NAME)
    return name if isinstance(name, str) and name else str(number)


def _body(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    body = fields.get("body")
    if not isinstance(body, dict):
        raise Mismatch(f"the line's body is {shown(body)}, expected an object")
    return cast("Mapping[str, Any]", body)


def _endpoint(fields: Mapping[str, Any]) -> Endpoint:
    url = fields.get("url")
    found = ENDPOINTS.get(url) if isinstance(url, str) else None
    if found is None:
        raise Mismatch(f"the line's url is {shown(url)}; it may be {', '.join(ENDPOINTS)}")
    return found


class _Cutter:
    """Cuts lines that follow one another into ranges."""

    def __init__(self, limits: ShardLimits) -> None:
        self._limits = limits
        self.position = 0
        """The bytes that were taken."""
        self._start = 0
        self._first_row = 0
        self._rows = 0
        self._weight = 0
        """The rows that nodes run for the range that is being made."""
        self._seq = 0
        self._digest = hashlib.sha256()

    def take(self, line: bytes) -> Iterator[RowRange]:
        """Take a line, and yield the range that ends before it."""
        is_request = bool(line.strip())
        weight = _weight_of(line) if is_request else 0
        size_bytes = self.position - self._start
        is_over = self._weight + weight > self._limits.rows_at(self._seq)
        if self._rows and (is_over or size_bytes + len(line) > self._limits.in_bytes):
            yield self._cut()
        self.position += len(line)
        self._digest.update(line)
        self._rows += is_request
        self._weight += weight

    def finish(self) -> Iterator[RowRange]:
        """Yield what is left."""
        if self._rows:
            yield self._cut()

    def _cut(self) -> RowRange:
        rows = RowRange(
            self._first_row,
            self._rows,
            0,
            self._start,
            self.position - self._start,
            self._digest.digest(),
        )
        self._first_row += self._rows
        self._start = self.position
        self._rows = self._weight = 0
        self._seq += 1
        self._digest = hashlib.sha256()
        return rows


def _weight_of(line: bytes) -> int:
    """Return how many rows a request has; 1 for one that is wrong."""
    fields = _fields(line)
    try:
        return _endpoint(fields).count(_body(fields))
    except Mismatch:
        return 1
