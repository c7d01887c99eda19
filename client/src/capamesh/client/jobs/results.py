"""The course of reading a job's results, and the rows that lines of them hold. Pure.

Results are read shard by shard, as far as manifests say that they are committed, in pages of rows: a page that a lost connection
broke off is asked for again, so that no row comes twice and none is left out.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.client.asks import Ask, ask_metadata
from capamesh.client.jobs.asks import ask_job, ask_parts, ask_results
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import Course, Give, Pause, asked
from capamesh.client.jobs.values import JobInfo, JobPart, JobResult, Said, unexpected
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.tensors import Datatype, Limits

FIRST_ROWS: Final = 256
MOST_ROWS: Final = 100_000
PAGE_BYTES: Final = 4 * 2**20
"""The bytes that a page of results is to have (guess: some thousand rows, and little to read again)."""
FIRST_POLL_S: Final = 0.2
MOST_POLL_S: Final = 2.0
"""The longest time between two questions whether there is more (guess: a shard takes five seconds)."""
Datatypes = Mapping[str, Datatype]


@dataclass(frozen=True, slots=True)
class ResultsWanted:
    """The results that are asked for."""

    from_row: int = 0
    """The first row."""
    in_order: bool = True
    """True if rows come in their order, False if they come as they are ready."""
    follow: bool = True
    """True if those are waited for that are not ready."""


def results(
    job: JobInfo, wanted: ResultsWanted, patience: Patience, limits: Limits
) -> Course[None]:
    """Give the results of a job, a list of `JobResult` at a time.

    Raises:
        JobNotFound: there is no such job any more.
    """
    datatypes = yield from _datatypes(job)
    pages = Pages(job.id, datatypes, limits)
    after = -1
    """The shards up to this one were read."""
    read: set[int] = set()
    """The shards beyond it that were read."""
    poll_s = FIRST_POLL_S
    while True:
        # asked before its parts, so that there are no more of them once it has ended
        info = yield from asked(ask_job(job.id), patience)
        is_last = info.is_ended or not wanted.follow
        found = yield from _parts(job.id, after, patience)
        has_new = False
        for part in found:
            if part.seq <= after or part.seq in read:
                continue
            if wanted.in_order and not is_last and part.seq != after + 1:
                break
            has_new = True
            yield from pages.rows_of(part, wanted.from_row, patience)
            read.add(part.seq)
            while after + 1 in read:
                after += 1
                read.remove(after)
        if is_last:
            return
        if has_new:
            poll_s = FIRST_POLL_S
        else:
            yield Pause(poll_s)
            poll_s = min(MOST_POLL_S, poll_s * 1.5)


def _parts(job: str, after: int, patience: Patience) -> Course[list[JobPart]]:
    """Return the committed shards behind one, in order."""
    found: dict[int, JobPart] = {}
    while True:
        page, has_more = yield from asked(ask_parts(job, after), patience)
        found |= {part.seq: part for part in page}
        last = max((part.seq for part in page), default=after)
        if not has_more or last <= after:
            return [found[seq] for seq in sorted(found)]
        after = last


def _datatypes(job: JobInfo) -> Course[Datatypes]:
    """Return the datatypes of the model's outputs; none where its metadata cannot be had any more."""
    ask: Ask[Any] = ask_metadata(job.model, job.version)
    try:
        metadata = yield ask
    except CapameshError:
        return {}
    datatypes = {spec.name: spec.datatype for spec in metadata.outputs}
    output = job.spec.get("output")
    classes = cast("dict[str, object]", output).get("classes") if isinstance(output, dict) else None
    if isinstance(classes, dict):  # these come as texts
        datatypes |= dict.fromkeys(cast("dict[str, object]", classes), Datatype.BYTES)
    return datatypes


class Pages:
    """The pages of results of one job, which become as long as its rows let them."""

    def __init__(self, job: str, datatypes: Datatypes, limits: Limits) -> None:
        self._job = job
        self._datatypes = datatypes
        self._limits = limits
        self._rows = FIRST_ROWS

    def rows_of(self, part: JobPart, from_row: int, patience: Patience) -> Course[None]:
        """Give the results of a committed shard from a row on; raise `ProtocolViolation` where some are missing."""
        at, end = max(part.first_row, from_row), part.end_row
        is_whole = at == part.first_row
        came = 0
        while part.rows and at < end:
            count = min(self._rows, end - at)
            ask = ask_results(self._job, at, count, self._limits)
            try:
                body, told = yield from asked(ask, patience)
            except TooLarge:
                if count == 1:
                    raise
                self._rows = max(1, count // 4)
                continue
            upto = at + count if told is None or not at < told < at + count else told
            rows = read_results(body, at, upto, self._datatypes)
            if rows:
                came += len(rows)
                yield Give(rows)
                fitting = PAGE_BYTES * (upto - at) // len(body)
                self._rows = max(1, min(fitting, self._rows * 4, MOST_ROWS))
            at = upto
        if is_whole and came != part.rows:
            raise ProtocolViolation(
                f"{came} results came of shard {part.seq} of job {self._job}, which has {part.rows}; is a proxy between?"
            )


def read_results(body: bytes, first: int, end: int, datatypes: Datatypes) -> list[JobResult]:
    """Return the rows of a page, each line of which is one, with outputs of the model's dtype and shape without the axis of the rows.

    Raises `ProtocolViolation` for another text, and for rows outside of `first` to below `end` or not in order.
    """
    rows: list[JobResult] = []
    last = first - 1
    for line in body.splitlines():
        if not line.strip():
            continue
        try:
            value = cast(object, json.loads(line))
            said = Said(value, "a row of results")
            row, outputs = said.fields["row"], said.fields["outputs"]
            if type(row) is not int or not last < row < end or not isinstance(outputs, dict):
                raise unexpected("a row of results that was asked for", value)
            arrays = {
                name: _array_of(each, datatypes.get(name))
                for name, each in cast("dict[str, Any]", outputs).items()
            }
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            raise unexpected("a row of results", line[:500].decode("utf-8", "replace")) from exc
        rows.append(JobResult(row, said.text("id", str(row)), arrays))
        last = row
    return rows


def _array_of(value: Any, datatype: Datatype | None) -> npt.NDArray[Any]:  # noqa: ANN401 - of JSON
    """Return a value of JSON as an array of its shape; its dtype is the model's, or where that is not known what it looks like."""
    if datatype is Datatype.BYTES or (datatype is None and _is_text(value)):
        return _bytes_array(value)
    if datatype is None:
        return np.asarray(value)
    dtype = np.dtype(np.float32) if datatype is Datatype.BF16 else datatype.numpy_dtype
    return np.asarray(value, dtype)


def _is_text(value: object) -> bool:
    """Return whether the first value in (nested) lists is a text or bytes."""
    while isinstance(value, list) and value:
        value = cast("list[object]", value)[0]
    return isinstance(value, str | dict)


def _bytes_array(value: object) -> npt.NDArray[Any]:
    """Return texts and bytes in (nested) lists as an array of objects that are `bytes`, of the shape of the lists.

    Raises `ValueError` or `TypeError` for anything else, and for lists that have no one shape.
    """
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        items = cast("list[object]", first)
        shape.append(len(items))
        first = items[0] if items else None
    flat: list[bytes] = []
    _fill(flat, value, shape)
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def _fill(flat: list[bytes], value: object, shape: Sequence[int]) -> None:
    """Add the bytes in (nested) lists of a shape to `flat`."""
    if isinstance(value, list) and shape:
        items = cast("list[object]", value)
        if len(items) != shape[0]:
            raise ValueError("lists of several lengths")
        for each in items:
            _fill(flat, each, shape[1:])
        return
    if shape:
        raise ValueError("lists of several depths")
    if isinstance(value, str):
        flat.append(value.encode())
        return
    text = cast("dict[str, object]", value).get("base64") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise TypeError("neither a text nor bytes")
    flat.append(base64.b64decode(text, validate=True))


def table_of(rows: Iterable[JobResult], pyarrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return rows as a table of pyarrow: `row`, `id` and a column an output, a flat list a row where it has more than one value."""
    numbers: list[int] = []
    ids: list[str] = []
    columns: dict[str, list[Any]] = {}
    for each in rows:
        if not numbers:
            columns = {name: [] for name in each.outputs}
        if each.outputs.keys() != columns.keys():
            raise InvalidRequest(
                f"row {each.row} has the outputs {sorted(each.outputs)}, others have {sorted(columns)}; read them with results()"
            )
        numbers.append(each.row)
        ids.append(each.id)
        for name, array in each.outputs.items():
            columns[name].append(array.ravel() if array.ndim else array[()])
    names = {name: f"{name}_output" if name in {"id", "row"} else name for name in columns}
    return pyarrow.table(
        {"row": pyarrow.array(numbers, pyarrow.int64()), "id": pyarrow.array(ids, pyarrow.string())}
        | {names[name]: pyarrow.array(values) for name, values in columns.items()}
    )


def pyarrow_module() -> Any:  # noqa: ANN401 - the library has no types
    """Return pyarrow; raise `ConfigError` where it is not installed."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as exc:
        raise ConfigError(
            "tables need pyarrow, which is not here: pip install pyarrow, or read rows with results()"
        ) from exc
