"""The tables of jobs: `job`, `shard`, `bad_row`, `price`, `event`, `file` and `batch`, never one a row of an input. Pure.

The two databases are used by the same statements: what one of them does not have (`FOR UPDATE SKIP LOCKED`) is left out for it
by SQLAlchemy.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
)

from capamesh.router.jobs.states import UNDER_WAY, JobState, ShardState
from capamesh.router.jobs.values import RowRange

FORMAT: Final = 1
"""The number of this layout; a store of a greater one belongs to a newer version."""

METADATA: Final = MetaData()

FORMATS: Final = Table("job_format", METADATA, Column("number", Integer, primary_key=True))

JOBS: Final = Table(
    "job",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("client_key", Text),
    Column("spec", Text, nullable=False),
    Column("spec_digest", LargeBinary, nullable=False),
    Column("version", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("deadline_s", Double),
    Column("ended_s", Double),
    Column("rows", BigInteger, nullable=False),
    Column("shards", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("events", Integer, nullable=False),
    # who reads the input, under the rules of a shard's lease
    Column("owner", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column("until_s", Double, nullable=False),
    # the sums of an ended job's manifests, and whether files that none of them names were removed
    Column("done_shards", Integer),
    Column("done_rows", BigInteger),
    Column("bad_rows", BigInteger),
    Column("is_tidy", Boolean, nullable=False),
    UniqueConstraint("tenant", "client_key"),
)
IS_UNDER_WAY: Final = JOBS.c.state.in_(
    [literal_column(f"'{state.value}'") for state in sorted(UNDER_WAY)]
)
"""The jobs that have not ended. As in the others below, states are written out: SQLite uses an index of some rows only for a
condition that it can see to be the index's."""
Index("job_tenant", JOBS.c.tenant, JOBS.c.id)
Index(
    "job_under_way",
    JOBS.c.tenant,
    JOBS.c.id,
    sqlite_where=IS_UNDER_WAY,
    postgresql_where=IS_UNDER_WAY,
)
# which of them have come to their deadline, and which wait for their plan: both are asked twice a second
Index("job_due", JOBS.c.deadline_s, sqlite_where=IS_UNDER_WAY, postgresql_where=IS_UNDER_WAY)
IS_PLANNING: Final = JOBS.c.state == literal_column(f"'{JobState.PLANNING.value}'")
"""The jobs without a plan."""
Index("job_planning", JOBS.c.id, sqlite_where=IS_PLANNING, postgresql_where=IS_PLANNING)
IS_UNTIDY: Final = and_(JOBS.c.is_tidy.is_(false()), JOBS.c.ended_s.is_not(None))
"""The jobs that have ended and whose folders may hold garbage."""
Index("job_untidy", JOBS.c.id, sqlite_where=IS_UNTIDY, postgresql_where=IS_UNTIDY)

SHARDS: Final = Table(
    "shard",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("first_row", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("group", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    # the leases: `token` counts all there were, and two may hold at once
    Column("token", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("first_token", Integer, nullable=False),
    Column("leased_s", Double, nullable=False),
    Column("until_s", Double, nullable=False),
    Column("second_owner", Text, nullable=False),
    Column("second_token", Integer, nullable=False),
    Column("second_until_s", Double, nullable=False),
    Column("failures", Integer, nullable=False),
    # the manifest
    Column("done_rows", Integer, nullable=False),
    Column("bad_rows", Integer, nullable=False),
    Column("manifest", Text),
    sqlite_with_rowid=False,
)
IS_OPEN: Final = SHARDS.c.state == literal_column(f"'{ShardState.OPEN.value}'")
"""The shards that nobody has, for nobody ever had them or they were given back."""
IS_LEASED: Final = SHARDS.c.state == literal_column(f"'{ShardState.LEASED.value}'")
"""The shards that a router has, or had."""
IS_DONE: Final = SHARDS.c.state == literal_column(f"'{ShardState.DONE.value}'")
"""The shards that have a manifest."""
Index("shard_open", SHARDS.c.job, SHARDS.c.seq, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)
Index(
    "shard_leased",
    SHARDS.c.job,
    SHARDS.c.until_s,
    sqlite_where=IS_LEASED,
    postgresql_where=IS_LEASED,
)

Index("shard_ends", SHARDS.c.until_s, sqlite_where=IS_LEASED, postgresql_where=IS_LEASED)
RANGE: Final = (
    SHARDS.c.first_row,
    SHARDS.c.rows,
    SHARDS.c.group,
    SHARDS.c.offset,
    SHARDS.c.size_bytes,
    SHARDS.c.digest,
)
"""The columns of a shard's rows and of the place where they begin."""


def range_of(row: Any) -> RowRange:  # noqa: ANN401 - a row of any columns
    """Return the rows of a shard of which all columns of `RANGE` were read."""
    return RowRange(
        row.first_row, row.rows, row.group, row.offset, row.size_bytes, bytes(row.digest)
    )


BAD_ROWS: Final = Table(
    "bad_row",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("row", BigInteger, primary_key=True, autoincrement=False),
    Column("row_id", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("node", Text, nullable=False),
    sqlite_with_rowid=False,
)

# what each process of a router has paid for a job: the sum of all its calls, written over its last one
PRICES: Final = Table(
    "price",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("total", Double, nullable=False),
    sqlite_with_rowid=False,
)

EVENTS: Final = Table(
    "event",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at_s", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    sqlite_with_rowid=False,
)

Index("event_times", EVENTS.c.at_s)

FILES: Final = Table(
    "file",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("is_ready", Boolean, nullable=False),
    # of a file that arrives, what there is room for
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("keep_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("sha256", Text, nullable=False),
    # of a file of requests
    Column("lines", Integer, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
)
FILE_SITES: Final = Table(
    "file_site",
    METADATA,
    Column("file", Text, primary_key=True),
    Column("site", Text, nullable=False),
)
"""The addresses of clients without keys by the files that are counted to them; a row may outlive its file."""
Index("file_site_files", FILE_SITES.c.site)
Index("file_tenant", FILES.c.tenant, FILES.c.id)
Index("file_expiry", FILES.c.expires_s)

BATCHES: Final = Table(
    "batch",
    METADATA,
    Column("job", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("keep_s", Double, nullable=False),
    Column("metadata", Text, nullable=False),
    # its files, once they are made, and who makes them
    Column("made_s", Double),
    Column("output_file", Text),
    Column("error_file", Text),
    Column("trouble", Text, nullable=False),
    Column("token", Integer, nullable=False),
    Column("until_s", Double, nullable=False),
)
IS_UNMADE: Final = BATCHES.c.made_s.is_(None)
"""The batches whose files are still to be made."""
Index("batch_tenant", BATCHES.c.tenant, BATCHES.c.job)
Index("batch_unmade", BATCHES.c.job, sqlite_where=IS_UNMADE, postgresql_where=IS_UNMADE)
