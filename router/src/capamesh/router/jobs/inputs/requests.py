"""A file of requests as an input: a request a line, each of which has one row for its node or several. IO: the source that is passed in.

A row of the job is a request: a line of OpenAI's batches, or for a model that generates just `messages` or a `prompt`, with what else its
endpoint takes. A line that is wrong makes a bad row and no more. Shards are cut by the rows that nodes are to run, which a few requests
may have many of.
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
from capamesh.router.jobs.generated_rows import Chats, Completions
from capamesh.router.jobs.inputs.limits import (
    MAX_ID_CHARS,
    MAX_REQUEST_BYTES,
    MAX_SHARD_BYTES,
    ShardLimits,
)
from capamesh.router.jobs.inputs.lines import read_range, windows_of
from capamesh.router.jobs.inputs.reader import RawRows, Reader
from capamesh.router.jobs.inputs.source import Source
from capamesh.router.jobs.row_forms import Endpoint, RowForm
from capamesh.router.jobs.values import BadRow, RowRange, short
from capamesh.router.requests.generation.bodies import ChatRequest, CompletionRequest
from capamesh.router.requests.generation.foreign_fields import known

NAME: Final = "custom_id"
ROWS: Final = "rows"
FORM: Final = "form"
"""The columns of `read_lines`: the names of requests, the rows of each, and their `RowForm`."""
LINE: Final = "line"
"""The column of a window: the lines as they are."""
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {ROWS: ("body",)}
"""The columns of a job's input that is a file of requests, which its reader does not need."""
_BY_FIELD: Final = {
    "messages": (Chats.path, ChatRequest),
    "prompt": (Completions.path, CompletionRequest),
}
"""The endpoints of lines that name none, and the fields of their bodies, by what they have."""
_THE_JOB_S: Final = {"model": "the job's"}
"""Stands for the model of lines that name none: all run at the job's."""


class RequestsReader(Reader):
    """A file of requests. Lines without any text are none."""

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
            while line := file.readline(MAX_SHARD_BYTES + 1):
                if len(line) > MAX_SHARD_BYTES:
                    raise InputInvalid(
                        f"a line of {self._source.name} has more than {MAX_SHARD_BYTES} bytes, the limit: give a request a line"
                    )
                yield from cutter.take(line)
            yield from cutter.finish()
        self._source.check(stamp)
        if cutter.position != stamp.size_bytes:
            raise InputChanged(
                f"{self._source.name} gave {cutter.position} bytes where it had {stamp.size_bytes}"
            )

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        """Yield the lines of the requests of a range, in the column `LINE`, whatever is asked for."""
        data, sha256, _ = read_range(self._source, rows)
        number = rows.first_row
        for lines in windows_of(data):
            found: list[bytes] = []
            numbers: list[int] = []
            bad: list[BadRow] = []
            for line in lines:
                if not line.strip():
                    continue
                if len(line) > MAX_REQUEST_BYTES:
                    words = f"the line has {len(line)} bytes; at most {MAX_REQUEST_BYTES} are taken: give less text"
                    bad.append(BadRow(number, str(number), InputInvalid.code, words))
                else:
                    numbers.append(number)
                    found.append(line)
                number += 1
            yield RawRows(numbers, {LINE: found}, bad, sha256)


def read_lines(numbers: Sequence[int], lines: Sequence[bytes], id_column: str) -> RawRows:
    """Return the requests of lines, in the columns `NAME`, `ROWS` and `FORM`; those that are none are bad rows.

    `id_column` is the field that names requests; "": it is OpenAI's.
    """
    raw = RawRows([], {NAME: [], ROWS: [], FORM: []})
    for number, line in zip(numbers, lines, strict=True):
        _add(raw, number, line, id_column or NAME)
    return raw


def names_of(source: Source, rows: RowRange) -> Iterator[tuple[int, str]]:
    """Yield the numbers and the names of the requests of a range; raises `InputChanged`."""
    data, _, _ = read_range(source, rows)
    number = rows.first_row
    for lines in windows_of(data):
        for line in lines:
            if line.strip():
                yield number, _name_of(_fields(line), NAME, number)
                number += 1


def _add(raw: RawRows, number: int, line: bytes, name_field: str) -> None:
    """Add a request to a window, or to its bad rows."""
    name = str(number)
    try:
        fields = _fields(line)
        name = _name_of(fields, name_field, number)
        endpoint, body = _asked(fields)
        found: tuple[Sequence[bytes], RowForm] = run_through(endpoint.read(body))
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


def _name_of(fields: Mapping[str, Any], name_field: str, number: int) -> str:
    """Return the name of a request: its number where it has none. Raises `Mismatch`: it is too long."""
    given = fields.get(name_field)
    name = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if len(name) > MAX_ID_CHARS:
        raise Mismatch(
            f"{name_field} has {len(name)} characters; a row's name has at most {MAX_ID_CHARS}"
        )
    return name or str(number)


def _asked(fields: Mapping[str, Any]) -> tuple[Endpoint, Mapping[str, Any]]:
    """Return the endpoint that a line is for, and what it asks there. Raises `Mismatch`."""
    if "url" not in fields and "body" not in fields:
        for name, (path, kind) in _BY_FIELD.items():
            if name in fields:  # the others are the data set's
                return ENDPOINTS[path], {**_THE_JOB_S, **known(fields, kind)}
        some = ", ".join(repr(name[:40]) for name in list(fields)[:10]) or "none"
        raise Mismatch(
            f"the line's fields are {some}; an object with messages, a prompt, or the url and the body of a request is expected"
        )
    url = fields.get("url")
    endpoint = ENDPOINTS.get(url) if isinstance(url, str) else None
    if endpoint is None:
        raise Mismatch(f"the line's url is {shown(url)}; it may be {', '.join(ENDPOINTS)}")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise Mismatch(f"the line's body is {shown(body)}, expected an object")
    return endpoint, {**_THE_JOB_S, **cast("Mapping[str, Any]", body)}


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
    if len(line) > MAX_REQUEST_BYTES:
        return 1
    try:
        endpoint, body = _asked(_fields(line))
    except Mismatch:
        return 1
    return endpoint.count(body)
