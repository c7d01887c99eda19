"""A job, its shards, and what is told of them: the values that store, planner, readers and runner hand to one another. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NewType

from capamesh.protocol.errors import JobNotFound
from capamesh.protocol.ids import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.states import JobState

JobId = NewType("JobId", str)
"""The name of a job: `job-`, the time when it was made, and chance. Later jobs have greater ids while clocks go forward."""

LEASE_S: Final = 15.0
"""Seconds for which a lease holds: a dead router's shards are taken over by the sixteenth."""
RENEW_S: Final = 5.0
"""Seconds after which a router renews a lease: two renewals may be lost."""
MAX_TEXT_CHARS: Final = 500
"""A reason or an error is kept up to so many characters (guess: a sentence or two)."""
_SIZE_BYTES: Final = 8
_SHA256_BYTES: Final = 32
_FORM: Final = re.compile(r"job-[0-9a-z]{1,60}", re.ASCII)


def new_job_id(wall_s: float, draw: Callable[[int], int]) -> JobId:
    """Return a new id; `draw` returns so many bits by chance."""
    return JobId(f"job-{int(wall_s * 1000):012x}{draw(40):010x}")


def job_id_of(text: str) -> JobId:
    """Return the id that a client names; raises `JobNotFound` for what no job is called, as for a job that is not there."""
    if _FORM.fullmatch(text) is None:
        raise no_job(text)
    return JobId(text)


def no_job(text: str) -> JobNotFound:
    """Return the error for a job that is not there, or is another tenant's."""
    return JobNotFound(f"there is no job {text[:80]!r}; see the list of jobs")


def short(text: str) -> str:
    """Return a text as it is kept."""
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 1]}…"


@dataclass(frozen=True, slots=True)
class Pinned:
    """The model version that a job runs, by its content: another file under the same number is another model."""

    version: ModelVersion
    digest: str


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows of an input, and where they begin. It is the planner's, never a reader's own block, so that it stays the same."""

    first_row: int
    """The number of the first row, from 0."""
    rows: int
    group: int
    """The row group or record batch of the first row; 0 where the form has none."""
    offset: int
    """The first byte, where a form has lines; else the number of the first row in its group."""
    size_bytes: int
    """The bytes of the range; where a form is compressed, an estimate of those that its rows take in memory."""
    digest: bytes = b""
    """The SHA-256 of the bytes when the input was planned; empty: they were not read then. Of ranges that were joined: the size of
    each, as `_SIZE_BYTES` bytes, and its digest."""

    def joined(self, other: RowRange) -> RowRange:
        """Return this range and the one that begins where it ends as one."""
        return replace(
            self,
            rows=self.rows + other.rows,
            size_bytes=self.size_bytes + other.size_bytes,
            digest=self._sized_digests() + other._sized_digests(),
        )

    def digests(self) -> Iterator[tuple[int, bytes]]:
        """Yield the sizes of the pieces that were planned, in order, and the SHA-256 of each."""
        sized, step = self._sized_digests(), _SIZE_BYTES + _SHA256_BYTES
        for at in range(0, len(sized), step):
            size = int.from_bytes(sized[at : at + _SIZE_BYTES], "big")
            yield size, sized[at + _SIZE_BYTES : at + step]

    def _sized_digests(self) -> bytes:
        if len(self.digest) != _SHA256_BYTES:
            return self.digest
        return self.size_bytes.to_bytes(_SIZE_BYTES, "big") + self.digest


@dataclass(frozen=True, slots=True)
class Lease:
    """A router's right to compute a shard, until its time: who has a lease of an older token than the last cannot commit."""

    job: JobId
    seq: int
    """The number of the shard in its job, from 0."""
    token: int
    """The number of leases of the shard that there have been, this one included."""
    until_s: float
    range: RowRange
    is_second: bool = False
    """Another router has the shard, too, and may be slow: the first manifest counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of results, by the name that it has in the output's folder."""

    name: str
    size_bytes: int
    sha256: str
    """Hexadecimal digits of the SHA-256 of its bytes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Says what came of a shard. Results are read through manifests alone: a file that none names is garbage."""

    rows: int
    """The rows with a result."""
    bad_rows: int
    """The rows without one."""
    part: Part | None
    """The file of the results; None: there are none."""
    bad_part: Part | None = None
    """The file of the bad rows; None: there are none."""
    input_sha256: str = ""
    """The SHA-256 of the input's bytes as they were read, in hexadecimal digits; "" where the form is not read as bytes."""
    row_s: float = 0.0
    """Row-seconds that nodes took."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that has no result, and why."""

    row: int
    row_id: str
    code: str
    """The code of the error, as elsewhere."""
    text: str
    node: str = ""
    """The node that said so; "": the row never got to one."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, for a person."""

    seq: int
    """The event's number in its job, from 1."""
    at_s: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Counts:
    """The progress of a job: sums over the manifests of its shards, so that they never disagree with the results."""

    shards: int = 0
    done_shards: int = 0
    leased_shards: int = 0
    rows: int = 0
    """The rows with a result."""
    bad_rows: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """The price of rows of a job at the nodes that ran them. A row that was run twice was paid for twice."""

    rows: int = 0
    """The rows that nodes have run."""
    total: float = 0.0
    """The sum of their prices, in the network's unit."""

    @property
    def per_million(self) -> float | None:
        """Return the price of a million of them; None: there are none."""
        return self.total * 1e6 / self.rows if self.rows else None


@dataclass(frozen=True, slots=True)
class Paid:
    """All that one router's process has paid for a job so far."""

    job: JobId
    owner: str
    """The process's name in the store."""
    price: Price


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now."""

    id: JobId
    tenant: str
    """The tenant of the key that submitted it."""
    spec: JobSpec
    pinned: Pinned
    state: JobState
    reason: str
    """The reason of its state, where that needs one."""
    created_s: float
    """Seconds since 1970 on the store's clock, as the other times."""
    ended_s: float | None
    rows: int
    """The rows of its input; 0 until it is planned."""
    shards: int
    fingerprint: str
    """The stamp of the input when it was planned; "" until then."""
    counts: Counts | None = None
    """The counts of a job that has ended."""
    price: Price = Price()
    """The sum that all routers have paid for it so far; also after its end, for calls may end later."""


@dataclass(frozen=True, slots=True)
class JobLook:
    """A job, how far it is, and what has happened to it, all of one moment."""

    job: Job
    counts: Counts
    last_event: int
    """The number of its newest event."""
    events: Sequence[Event]
    """The events after one that was named; not all of them, where there are many."""
