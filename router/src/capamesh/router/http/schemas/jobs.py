"""The JSON of the routes of batch jobs, as types. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from capamesh.protocol.links.calls import MAX_PRIORITY
from capamesh.protocol.schema import Meta
from capamesh.router.jobs.spec import Encoding

Count = Annotated[int, Meta(ge=0)]
State = Literal[
    "planning", "running", "blocked", "paused", "completed", "failed", "expired", "cancelled"
]


class JobInput(TypedDict):
    """The place of the rows, and which of their columns go into which inputs of the model."""

    url: str
    """`upload:` and the id of an uploaded file, or what is below a place that the operator allows jobs."""
    format: NotRequired[str]
    """The form; left out: the one that the end of the name tells."""
    columns: NotRequired[dict[str, list[str]]]
    """The columns for each input of the model; left out: the column of the input's name."""
    id_column: NotRequired[str]
    """The column that names rows; left out: a row is named by its number, a file by its path."""
    encoding: NotRequired[dict[str, Encoding]]
    """The columns that do not have bytes as they are, and how they have them."""


class JobOutput(TypedDict):
    """The place of the results, and their form."""

    url: NotRequired[str]
    """The place; left out: the router's own, from which `/v1/jobs/{job}/results` reads."""
    format: NotRequired[Literal["jsonl", "parquet", "npz"]]
    classes: NotRequired[dict[str, Annotated[int, Meta(ge=1, le=8192)]]]
    """The outputs of which each row gets its largest scores alone, as texts "score:index:label", and how many of them."""


class JobFailures(TypedDict):
    """The failures that a job bears before it fails."""

    most_bad_rows: NotRequired[Count]
    most_failures: NotRequired[Annotated[int, Meta(ge=1, le=100)]]
    """The failures of one shard."""


class JobRequest(TypedDict):
    """A job as it is submitted."""

    model: str
    input: JobInput
    version: NotRequired[str]
    """The model's version; left out: the one that requests get who name none."""
    output: NotRequired[JobOutput]
    priority: NotRequired[Annotated[int, Meta(ge=1, le=MAX_PRIORITY)]]
    """The priority of its calls: 1 is the most urgent; left out: the least urgent that there is."""
    deadline_s: NotRequired[float | None]
    """The time by which it must have ended, in seconds since 1970."""
    max_price: NotRequired[float | None]
    """The price of a million rows above which nodes are not asked."""
    regions: NotRequired[list[str]]
    """The regions whose nodes are asked."""
    concurrency: NotRequired[Count]
    """The most calls in flight; 0: as many as there is room for."""
    failure: NotRequired[JobFailures]
    client_key: NotRequired[str]
    """The client's own name of the job: submitted again with it, it is the same job. The header `Idempotency-Key` says the same."""
    dry_run: NotRequired[bool]
    """True if the job is not to be kept: the answer says how long it would take."""


class JobDone(TypedDict):
    """The progress of a job: sums over what was committed."""

    shards: Count
    rows: Count
    """The rows that have a result."""
    bad_rows: Count
    """The rows that have none, and never will."""
    leased_shards: Count
    """The shards that a router has in work."""


class Job(TypedDict):
    """A job."""

    id: str
    object: Literal["job"]
    model: str
    version: str
    digest: str
    """The digest of the model's files: no other file runs its rows."""
    tenant: str
    state: State
    reason: str
    """The reason of its state, where that needs one."""
    created_at: float
    """Seconds since 1970, as of the other times."""
    ended_at: float | None
    rows: Count
    """The rows of its input; 0 until it is planned."""
    shards: Count
    done: JobDone
    rows_per_s: float | None
    """The rows a second of late; null: it is not known."""
    nodes: int | None
    """The nodes that run rows of it for this router; null: that is not known."""
    ends_at: float | None
    """The time at which it will have ended at that rate; null: nobody can tell."""
    price: float | None
    """The price of all rows that nodes have run for it, in the network's unit: of rows that were run twice, of both. Where it has
    ended, its last calls may be added within seconds. null: none ran any."""
    price_per_million: float | None
    """The price of a million of them; null: as before."""
    paid_rows: Count
    """The rows that are paid for: those that nodes have run, or for a model that generates, the tokens of prompts and answers."""
    spec: dict[str, Any]
    """The job as it was submitted."""


class Jobs(TypedDict):
    """Jobs, the newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool
    """True if there are others after the last one."""


class JobPromise(TypedDict):
    """The foreseen end of a job that was not submitted."""

    object: Literal["job.promise"]
    rows: int | None
    """The rows of its input, of lines a guess; null: only reading it would tell."""
    left_s: float | None
    """The seconds that it would take; null: nobody can tell, or nothing is idle."""
    ends_at: float | None
    measured_rows: int
    """The rows of it that were run to tell; 0: they could not be, and it goes by other jobs of its model or by what nodes say."""
    spec: dict[str, Any]
    """The job as it would be submitted, with all that was left out."""


class JobPart(TypedDict):
    """A file of results."""

    seq: Count
    """The number of its shard."""
    first_row: Count
    rows: Count
    """The rows that have a result."""
    bad_rows: Count
    name: str | None
    """The file's name, by which `/v1/jobs/{job}/parts/{name}` has it; null: no row of the shard has a result."""
    size_bytes: Count
    sha256: str
    bad_name: str | None
    """The file of the rows that have none, as JSON lines; null: all have one."""


class JobParts(TypedDict):
    """Files of results, by their rows."""

    object: Literal["list"]
    data: list[JobPart]
    has_more: bool


class JobError(TypedDict):
    """A row that has no result."""

    row: Count
    id: str
    code: str
    """The error in one word."""
    message: str
    node: str
    """The peer id of the node that said so; empty: the row never got to one."""


class JobErrors(TypedDict):
    """Rows that have no result, by their number: the first 10,000 of a job."""

    object: Literal["list"]
    data: list[JobError]
    has_more: bool
