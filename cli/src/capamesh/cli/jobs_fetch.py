"""Gets the results of a job into a file or onto standard output, with a bar. IO: a router, a file, prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.cli.jobs_results import Writer, first_missing, format_of, line_writer, written
from capamesh.cli.printing import hint
from capamesh.cli.progress import parts
from capamesh.protocol.errors import InvalidRequest

if TYPE_CHECKING:
    from capamesh.client import Job

_EVERY: int = 256
"""The rows after which the bar moves."""


def fetch(job: Job, path: Path | None, form: str, *, from_row: int, follow: bool) -> int:
    """Write the results of a job, and return how many rows were written now; the job is as it was last when that ends.

    Raises:
        InvalidRequest: the form is none for standard output, or the file's name tells none.
        ConfigError: the file cannot be written.
    """
    form = format_of(path, form)
    if path is None:
        if form in {"parquet", "npz"}:
            raise InvalidRequest(f"{form} is no text: give a file, with --output")
        rows = _copied(job, line_writer(sys.stdout, form), from_row, follow=follow)
        sys.stdout.flush()
    else:
        there = first_missing(path, form) if not from_row else 0
        if there:
            hint(f"going on with row {there:,}, where an earlier command was broken off")
        with written(path, form, there) as writer:
            rows = _copied(job, writer, max(from_row, there), follow=follow)
    job.refresh()
    return rows


def _copied(job: Job, writer: Writer, from_row: int, *, follow: bool) -> int:
    """Write the rows of a job from one on, and return how many."""
    rows = 0
    with parts("results") as done:
        for row in job.results(from_row=from_row, follow=follow):
            writer.add(row)
            rows += 1
            if rows % _EVERY == 0:
                if not job.info.rows:
                    job.refresh()
                done(min(1.0, (row.row + 1) / max(1, job.info.rows)))
    return rows
