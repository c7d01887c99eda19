"""Jobs, their results and files, as a client is told of them, and how they are read from answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy.typing as npt

from capamesh.client.answers import Answer, read_json
from capamesh.protocol.errors import ProtocolViolation

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""The states that a job never leaves."""
_SHOWN_CHARS: Final = 200
_MOST: Final = 2**63
"""No number that a router tells is as large."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The work of a job that is done."""

    shards: int = 0
    """The shards whose results are committed."""
    rows: int = 0
    """The rows with a result."""
    bad_rows: int = 0
    """The rows that are done and have none: `Job.errors` tells why."""
    leased_shards: int = 0
    """The shards that routers work on now."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it was when the router was asked last. Times are seconds since 1970; None: the router does not know."""

    id: str
    """The job's name."""
    model: str
    """The model's name."""
    version: str
    """The model's version."""
    state: str
    """`planning`, `running`, `blocked` or `paused`; at its end `completed`, `failed`, `expired` or `cancelled`."""
    reason: str = ""
    """The reason of its state, where that needs one."""
    digest: str = ""
    """The digest of the model's files: the job runs these and no others."""
    tenant: str = ""
    """The tenant of the key that submitted it."""
    created_at: float | None = None
    """The time when it was submitted."""
    ended_at: float | None = None
    """The time when it ended."""
    rows: int = 0
    """The rows of its input; 0 until it is planned."""
    shards: int = 0
    """The shards into which its input was cut."""
    done: JobProgress = field(default_factory=JobProgress)
    """The work that is done."""
    rows_per_s: float | None = None
    """The rows a second that are done now."""
    nodes: int | None = None
    """The nodes that work on it."""
    ends_at: float | None = None
    """The time when it will end, as far as its router can say now."""
    price: float | None = None
    """The price of all rows that nodes have run for it, in the network's unit; 0: nothing. None: none ran any, or its router tells none."""
    price_per_million: float | None = None
    """The price of a million of these rows."""
    paid_rows: int = 0
    """The rows that are paid for: those that nodes have run, or for a model that generates, the tokens of prompts and answers."""
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The job as it was submitted."""

    @property
    def is_ended(self) -> bool:
        """Return whether the job never changes any more."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class JobPromise:
    """The end of a job that was not submitted, as its router would promise it."""

    ends_at: float | None
    """The time of its end in seconds since 1970; None: the router cannot say."""
    left_s: float | None
    """The seconds that it would take; None: the router cannot say."""
    rows: int | None
    """The rows of its input; of lines a guess; None: only reading it would tell."""
    fields: Mapping[str, Any]
    """All that the router said."""


@dataclass(frozen=True, slots=True, eq=False)
class JobResult:
    """The result of one row."""

    row: int
    """The number of the row in the input, from 0."""
    id: str
    """The name of the row: the text of the job's id column, or its number."""
    outputs: dict[str, npt.NDArray[Any]]
    """The outputs by name, of the model's dtype and its shape without the axis of the rows; BYTES are objects that are `bytes`."""


@dataclass(frozen=True, slots=True)
class JobPart:
    """A shard whose results are committed."""

    seq: int
    """The number of the shard, from 0."""
    first_row: int
    """The number of its first row."""
    rows: int
    """The rows with a result."""
    bad_rows: int
    """The rows without one."""

    @property
    def end_row(self) -> int:
        """Return the number of the row behind its last one."""
        return self.first_row + self.rows + self.bad_rows


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that has no result, and why."""

    row: int
    """The number of the row in the input, from 0."""
    id: str
    """The name of the row."""
    code: str
    """The code of the error, as that of `CapameshError.code`."""
    message: str
    """The error, for a person."""
    node: str = ""
    """The peer id of the node that said so; empty: the row never got to one."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job."""

    seq: int
    """The event's number in its job, from 1."""
    at: float
    """The time of it in seconds since 1970."""
    kind: str
    """The kind of event in a word, such as `running`."""
    text: str
    """The thing that happened, for a person."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file that a router keeps for its tenant."""

    id: str
    """The file's name at the router; a job reads it by the URL `upload:` and this name."""
    filename: str
    """The name that it was given."""
    bytes: int
    """The size in bytes."""
    purpose: str
    """The purpose of the file: `user_data`, `batch`, or `batch_output`."""
    created_at: float | None = None
    """The time when it was made, in seconds since 1970."""
    expires_at: float | None = None
    """The time when the router removes it; None: it does not say."""
    status: str = ""
    """The state of the file in the router's word; empty: it does not say."""


def read_job(answer: Answer) -> JobInfo:
    """Return the job of an answer; raise `ProtocolViolation` where it is none."""
    return job_of(read_json(answer))


def job_of(value: object) -> JobInfo:
    """Return a job of JSON; raise `ProtocolViolation` for another value."""
    said = Said(value, "a job")
    done = Said(said.fields.get("done") or {}, "a job's progress")
    return JobInfo(
        said.text("id"),
        said.text("model"),
        said.text("version", ""),
        said.text("state"),
        said.text("reason", ""),
        said.text("digest", ""),
        said.text("tenant", ""),
        said.number("created_at"),
        said.number("ended_at"),
        said.count("rows"),
        said.count("shards"),
        JobProgress(
            done.count("shards"), done.count("rows"), done.count("bad_rows"), done.count("leased_shards")
        ),
        said.number("rows_per_s"),
        None if said.fields.get("nodes") is None else said.count("nodes"),
        said.number("ends_at"),
        said.number("price"),
        said.number("price_per_million"),
        said.count("paid_rows"),
        Said(said.fields.get("spec") or {}, "a job's spec").fields,
    )  # fmt: skip


def read_promise(answer: Answer) -> JobPromise:
    """Return the promise of an answer; raise `ProtocolViolation` where it is none."""
    said = Said(read_json(answer), "a promise")
    rows = said.count("rows") if said.fields.get("rows") is not None else None
    return JobPromise(said.number("ends_at"), said.number("left_s"), rows, said.fields)


def read_page(answer: Answer, what: str) -> tuple[list[object], bool]:
    """Return the entries of a page of a list, and whether there are more; raise `ProtocolViolation` where it is none."""
    said = Said(read_json(answer), what)
    entries = said.fields.get("data")
    if not isinstance(entries, list):
        raise unexpected(what, said.fields)
    return cast("list[object]", entries), said.fields.get("has_more") is True


def part_of(value: object) -> JobPart:
    """Return the part of results that an entry tells of; raise `ProtocolViolation` for another value."""
    said = Said(value, "a part of results")
    return JobPart(
        said.count("seq"), said.count("first_row"), said.count("rows"), said.count("bad_rows")
    )


def bad_row_of(value: object) -> BadRow:
    """Return the bad row that an entry tells of; raise `ProtocolViolation` for another value."""
    said = Said(value, "a bad row")
    row = said.count("row")
    return BadRow(
        row,
        said.text("id", str(row)),
        said.text("code"),
        said.text("message", ""),
        said.text("node", ""),
    )


def event_of(text: str) -> JobEvent:
    """Return the event of a message's data; raise `ProtocolViolation` for another text."""
    try:
        value = cast(object, json.loads(text))
    except (ValueError, RecursionError) as exc:
        raise unexpected("an event", text) from exc
    said = Said(value, "an event")
    return JobEvent(
        said.count("seq"), said.number("at") or 0.0, said.text("kind", ""), said.text("text", "")
    )


def read_file(answer: Answer) -> FileInfo:
    """Return the file of an answer; raise `ProtocolViolation` where it is none."""
    return file_of(read_json(answer))


def file_of(value: object) -> FileInfo:
    """Return a file of JSON; raise `ProtocolViolation` for another value."""
    said = Said(value, "a file")
    return FileInfo(
        said.text("id"),
        said.text("filename", ""),
        said.count("bytes"),
        said.text("purpose", ""),
        said.number("created_at"),
        said.number("expires_at"),
        said.text("status", ""),
    )


class Said:
    """The fields of an object of JSON, each of which is what it should be or a `ProtocolViolation`."""

    __slots__ = ("fields", "what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise unexpected(what, value)
        self.fields = cast("dict[str, Any]", value)
        self.what = what

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; without a `default` it must be there."""
        value = self.fields.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise unexpected(self.what, self.fields)
        return value

    def count(self, name: str) -> int:
        """Return a whole number from 0; one that is not there is 0."""
        value = self.fields.get(name, 0)
        if type(value) is not int or value < 0:
            raise unexpected(self.what, self.fields)
        return value

    def number(self, name: str) -> float | None:
        """Return a finite number; None where it is not there."""
        value = self.fields.get(name)
        if value is None:
            return None
        is_number = type(value) in {int, float} and abs(value) < _MOST  # which NaN is not
        if not is_number:
            raise unexpected(self.what, self.fields)
        return float(value)


def unexpected(what: str, value: object) -> ProtocolViolation:
    """Return the error for an answer that is not what was asked for."""
    shown = repr(value)[:_SHOWN_CHARS]
    return ProtocolViolation(f"the answer is not {what}: {shown}; is this a router's URL?")
