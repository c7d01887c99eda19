"""Bounds what the values of a Parquet file become in memory: a value of a dictionary may stand for any number of rows. Pure.

A page of some bytes may say that each of its thousands of rows is the one value of its column's dictionary, which has a megabyte. So
columns of bytes that have a dictionary are read as it and the places in it, and its values are put there for as many rows at a time
as a router holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.arrow_library import arrow
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES


def dictionary_columns(metadata: Any, groups: Sequence[int]) -> list[str]:  # noqa: ANN401 - pyarrow's
    """Return the paths of the columns of bytes that have a dictionary in some of the groups, as a file's footer tells."""
    found: dict[str, None] = {}
    for group in groups:
        about = metadata.row_group(group)
        for at in range(about.num_columns):
            column = about.column(at)
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                found[str(column.path_in_schema)] = None
    return list(found)


def rows_at_once(metadata: Any, groups: Sequence[int], most_rows: int) -> int:  # noqa: ANN401 - pyarrow's
    """Return how many rows are decoded at a time, `most_rows` at most: no more than fit into a shard's bytes, 1 at least.

    A row counts as much as those of its group on average, and its values of a fixed length as much as these have.
    """
    fixed_bytes = sum(
        max(0, metadata.schema.column(at).length) for at in range(metadata.num_columns)
    )
    row_bytes = float(fixed_bytes)
    for group in groups:
        about = metadata.row_group(group)
        row_bytes = max(row_bytes, about.total_byte_size / max(1, about.num_rows))
    return max(1, min(most_rows, int(MAX_SHARD_BYTES / max(1.0, row_bytes))))


def bounded(batch: Any, name: str, most_bytes: int = MAX_SHARD_BYTES) -> Iterator[Any]:  # noqa: ANN401 - pyarrow's
    """Yield the rows of a record batch in parts whose values of dictionaries have at most so many bytes, and put these in place.

    Raises:
        InputInvalid: one row has more; `name` is the file's.
    """
    size_bytes = sum(_bytes_of(column) for column in batch.columns)
    if size_bytes <= most_bytes:
        yield _decoded(batch)
        return
    half = batch.num_rows // 2
    if not half:
        raise InputInvalid(
            f"a row of {name} has {size_bytes} bytes once it is unpacked, the limit is {most_bytes}"
        )
    yield from bounded(batch.slice(0, half), name, most_bytes)
    yield from bounded(batch.slice(half), name, most_bytes)


def _bytes_of(column: Any) -> int:  # noqa: ANN401 - an array of pyarrow
    """Return the bytes that the values of dictionaries have in a column, each as often as it stands there."""
    types = arrow("pyarrow.types")
    kind = column.type
    if types.is_dictionary(kind):
        compute = arrow("pyarrow.compute")
        lengths = compute.cast(compute.binary_length(column.dictionary), "int64")
        return int(compute.sum(compute.take(lengths, column.indices)).as_py() or 0)
    if types.is_struct(kind):
        return sum(_bytes_of(each) for each in column.flatten())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _bytes_of(column.flatten())
    return 0


def _decoded(batch: Any) -> Any:  # noqa: ANN401 - record batches of pyarrow
    """Return a batch whose columns are no dictionaries; within lists they may be."""
    types = arrow("pyarrow.types")
    for at, column in enumerate(batch.columns):
        if types.is_dictionary(column.type):
            batch = batch.set_column(at, batch.schema.names[at], column.dictionary_decode())
    return batch
