"""The bytes of a part as Parquet. Pure; it reads pyarrow in when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from capamesh.router.jobs.inputs.arrow_library import arrow
from capamesh.router.jobs.inputs.row_numbers import NumberNames, number_array
from capamesh.router.jobs.outputs.results import Results, free_name, in_order, joined


def parquet_bytes(results: Sequence[Results]) -> bytes:
    """Return results as a file of Parquet: `id`, `row`, and a column an output, a list a row where a row has more than a value.

    The lists are flat, in row-major order; the shape that they have, if it is one, is in the metadata of the column. Raises
    `ConfigError` where pyarrow is missing.
    """
    pa = arrow()
    whole = joined(results)
    if whole is not None:
        numbers, ids = whole.numbers, whole.ids
        columns = {name: _column(pa, array) for name, array in whole.outputs.items()}
        shapes = {name: array.shape[1:] for name, array in whole.outputs.items()}
    else:
        each = in_order(results)
        numbers, ids = [row.number for row in each], [row.id for row in each]
        columns = {
            name: pa.array([_flat_values(row.outputs[name]) for row in each])
            for name in results[0].outputs
        }
        shapes = {}
    fields = [pa.field("id", pa.string()), pa.field("row", pa.int64())]
    for name, column in columns.items():
        about = {"shape": ",".join(map(str, shapes[name]))} if name in shapes else None
        fields.append(pa.field(free_name(name), column.type, metadata=about))
    rows = pa.array(number_array(numbers))
    names = rows.cast(pa.string()) if isinstance(ids, NumberNames) else pa.array(ids, pa.string())
    arrays = [names, rows, *columns.values()]
    buffer = pa.BufferOutputStream()
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    # names and scores are seldom there twice: to look for that takes three times as long as to write them (measured)
    texts = [field.name for field in table.schema if field.type == pa.binary()]
    arrow("pyarrow.parquet").write_table(table, buffer, use_dictionary=texts or False)
    return bytes(buffer.getvalue())


def _column(pa: Any, array: npt.NDArray[Any]) -> Any:  # noqa: ANN401 - pyarrow's
    """Return an output, of shape [rows, ...], as a column of values, or of lists of one length."""
    if array.ndim == 1:
        return pa.array(array.tolist(), pa.binary()) if array.dtype.kind == "O" else pa.array(array)
    flat = array.reshape(-1)
    values = pa.array(flat.tolist(), pa.binary()) if array.dtype.kind == "O" else pa.array(flat)
    length = int(np.prod(array.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(values, length)


def _flat_values(array: npt.NDArray[Any] | bytes) -> Any:  # noqa: ANN401 - a value or a list
    """Return one row of an output, of any shape, as a value or as a flat list."""
    if isinstance(array, bytes):
        return array
    return array.ravel().tolist() if array.ndim else array.item()
