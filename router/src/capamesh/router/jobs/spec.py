"""The specification of a job: what a client asks, as the router reads it and the store keeps it. Pure."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Final

from typing_extensions import override

from capamesh.protocol.links.calls import MAX_PRIORITY
from capamesh.protocol.schema import DISTINCT, PLAIN, Meta, Table, field, plain_values, shown
from capamesh.protocol.tensors import MAX_CLASSES
from capamesh.router.access.keys import MAX_REGIONS, Region

MAX_COLUMNS: Final = 64
"""The most inputs of a model that a job fills (guess: models have a few)."""
MAX_STACKED: Final = 4096
"""The most columns that make one input (guess: a table of features)."""
MAX_URL_CHARS: Final = 2048
MAX_WAIT_S: Final = 366 * 86400.0
"""A deadline lies at most a year ahead (guess: what is asked for later is a slip of a unit)."""
MAX_BAD_ROWS: Final = 10_000
"""The most bad rows that the store keeps of a job; all of them are in the parts of bad rows."""
DEFAULT_FAILURES: Final = 10
"""The failures of one shard that end its job, where it says nothing else (guess: three nodes, three times, and one more)."""

Name = Annotated[str, Meta(min_length=1, max_length=256), PLAIN]
Columns = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_STACKED)]
"""One column, or several that are put beside one another along the last axis.

It is a list also of one: of a union of texts and lists, both with bounds, msgspec 0.22 frees a type twice, and the process ends.
"""
Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS), PLAIN]


class InputFormat(StrEnum):
    """The form of a job's input."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    """A file of record batches, which is what Feather is, too."""
    NPY = "npy"
    NPZ = "npz"
    FOLDER = "folder"
    """A folder, each file of which is a row."""
    BATCH = "batch"
    """A file of requests of an endpoint, as OpenAI's batches have it, or shorter: a row is a request."""


class Encoding(StrEnum):
    """The form in which a column has bytes, where it does not have them as they are."""

    BASE64 = "base64"
    PATH = "path"
    """The column has paths of files, from the folder that the input is in on."""


class OutputFormat(StrEnum):
    """The form of a job's parts."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    NPZ = "npz"
    BATCH = "batch"
    """The answers of the endpoint, for an input of the same name."""


class InputSpec(Table, frozen=True):
    """Says where the rows are, and which of their columns go into which inputs of the model."""

    url: Url
    format: InputFormat
    columns: Annotated[dict[Name, Columns], Meta(min_length=1, max_length=MAX_COLUMNS)]
    """The columns for each input of the model."""
    id_column: Annotated[str, Meta(max_length=256), PLAIN] = ""
    """The column that names rows; "": a row is named by its number, a file by its path."""
    encoding: Annotated[dict[Name, Encoding], Meta(max_length=MAX_COLUMNS)] = field(
        default_factory=dict[Name, Encoding]
    )
    """The columns that do not have bytes as they are, and how they have them."""

    @override
    def __post_init__(self) -> None:
        """Check that what is encoded is a column that the job reads."""
        super().__post_init__()
        read = {name for names in self.columns.values() for name in names}
        for name in self.encoding:
            if name not in read:
                raise ValueError(
                    f"encoding has {shown(name)}, which is none of the columns: {shown(sorted(read))}"
                )
        if self.encoding and self.format is InputFormat.FOLDER:
            raise ValueError(
                "encoding is for columns, and a folder has its files' bytes as they are"
            )


class OutputSpec(Table, frozen=True):
    """Says where results go, and in which form."""

    url: Annotated[str, Meta(max_length=MAX_URL_CHARS), PLAIN] = ""
    """The place; "": the router's own folder of results."""
    format: OutputFormat = OutputFormat.JSONL
    classes: Annotated[
        dict[Name, Annotated[int, Meta(ge=1, le=MAX_CLASSES)]], Meta(max_length=MAX_COLUMNS)
    ] = field(default_factory=dict[str, int])
    """The outputs of which each row gets its largest scores alone, as texts "score:index:label", and how many of them."""


class FailurePolicy(Table, frozen=True):
    """Says what a job bears before it fails."""

    most_bad_rows: Annotated[int, Meta(ge=0, le=10**12)] = 1000
    """The job fails once it has more bad rows than that."""
    most_failures: Annotated[int, Meta(ge=1, le=100)] = DEFAULT_FAILURES
    """The job fails once one of its shards has failed so often."""


class JobSpec(Table, frozen=True):
    """A job as it was submitted."""

    model: Name
    input: InputSpec
    output: OutputSpec = OutputSpec()
    version: Annotated[str, Meta(max_length=32), PLAIN] = ""
    """The model's version; "": the one that requests get who name none."""
    priority: Annotated[int, Meta(ge=1, le=MAX_PRIORITY)] = MAX_PRIORITY
    """The priority of its calls: 1 is the most urgent, and a job is the least urgent that there is unless it says so."""
    deadline_s: Annotated[float, Meta(gt=0, lt=1e11)] | None = None
    """The time by which it must have ended, in seconds since 1970; None: it may take as long as it takes."""
    max_price: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    """The price of a million rows above which nodes are not asked."""
    regions: Annotated[tuple[Region, ...], Meta(max_length=MAX_REGIONS), DISTINCT] = ()
    """The regions whose nodes are asked, as nodes advertise them; none: all."""
    concurrency: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """The most calls in flight, over all routers; 0: as many as there is room for."""
    failure: FailurePolicy = FailurePolicy()
    client_key: Annotated[str, Meta(max_length=256), PLAIN] = ""
    """The client's name of the job: submitted again by the tenant, it is the same job; "": each time another one."""

    @override
    def __post_init__(self) -> None:
        """Check that a deadline is a time and not a number of seconds, and that answers are those of requests."""
        super().__post_init__()
        if self.input.format is not InputFormat.BATCH:
            if self.output.format is OutputFormat.BATCH:
                raise ValueError(
                    f"output.format is 'batch', and input.format is {self.input.format.value!r}; the answers of a batch are to"
                    " requests"
                )
        elif self.output.classes:
            raise ValueError(
                "output.classes is for outputs, and a file of requests has answers of its endpoint"
            )
        if self.deadline_s is not None and self.deadline_s < MAX_WAIT_S:
            raise ValueError(
                f"deadline_s is {shown(self.deadline_s)}, which was in 1970; give the time in seconds since 1970"
            )

    def text(self) -> str:
        """Return the spec as the store keeps it: JSON that `schema.read` takes back."""
        return json.dumps(plain_values(self), sort_keys=True, separators=(",", ":"))

    def digest(self) -> bytes:
        """Return the SHA-256 by which a repeated submission is told from another one."""
        return hashlib.sha256(self.text().encode()).digest()
