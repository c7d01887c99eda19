"""Tells how many rows an input has without reading it: as its form says, or guessed from its beginning. IO: the source."""

from __future__ import annotations

from typing import Final

from capamesh.router.jobs.inputs.arrays import ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.folder import FolderReader
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES, MAX_SHARD_ROWS, ShardLimits
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.source import Source
from capamesh.router.jobs.spec import InputFormat

SAMPLE_BYTES: Final = 2**20
"""The bytes of lines from which the others are guessed (guess: a thousand rows or more)."""
_LINES: Final = frozenset({InputFormat.JSONL, InputFormat.CSV, InputFormat.BATCH})
_TOLD: Final = ShardLimits(MAX_SHARD_ROWS, MAX_SHARD_BYTES)


def likely_rows(form: InputFormat, reader: Reader, source: Source | None) -> int | None:
    """Return the rows of an input; None: only reading all of it would tell. Raises as `Reader.ranges`.

    `source` is the file that the reader reads; None: it is a folder.
    """
    if isinstance(reader, ParquetReader | ArrayReader):
        return sum(each.rows for each in reader.ranges(_TOLD))
    if isinstance(reader, ArrowReader | FolderReader):
        return reader.counted_rows()
    if source is None or form not in _LINES:
        return None
    file, stamp = source.open()
    with file:
        sample = file.read(SAMPLE_BYTES)
    if len(sample) >= stamp.size_bytes:
        return sample.count(b"\n") + (not sample.endswith(b"\n") and bool(sample))
    return round(sample.count(b"\n") * stamp.size_bytes / len(sample))
