"""The results of a shard, as they are put into a part. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capamesh.router.jobs.endpoints import RowForm


@dataclass(frozen=True, slots=True)
class Results:
    """The results of rows that were run as one."""

    numbers: Sequence[int]
    ids: Sequence[str]
    outputs: dict[str, npt.NDArray[Any]]
    """The tensors by the output's name, of shape [rows, ...]: numbers of any dtype (BF16 as float32), or objects that are bytes."""
    places: Sequence[int] = ()
    """The places as `RowBatch` has them; so is the form."""
    form: RowForm | None = None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The results of one row."""

    number: int
    id: str
    outputs: dict[str, npt.NDArray[Any]]
    """The tensors by the output's name, without the axis of the rows."""


def free_name(name: str) -> str:
    """Return what an output is called beside the columns `id` and `row`, whose names are taken."""
    return f"{name}_output" if name in {"id", "row"} else name


def in_order(results: Sequence[Results]) -> list[ResultRow]:
    """Return all rows by their number."""
    rows = [
        ResultRow(number, row_id, {name: each[at] for name, each in one.outputs.items()})
        for one in results
        for at, (number, row_id) in enumerate(zip(one.numbers, one.ids, strict=True))
    ]
    rows.sort(key=lambda row: row.number)
    return rows


def joined(results: Sequence[Results]) -> Results | None:
    """Return all rows as one, by their number, with outputs of shape [rows, ...]; None: their outputs have other shapes."""
    layouts = {
        tuple((name, each.shape[1:], each.dtype) for name, each in one.outputs.items())
        for one in results
    }
    if len(layouts) != 1:
        return None
    numbers = np.concatenate([np.asarray(one.numbers, np.int64) for one in results])
    order = np.argsort(numbers, kind="stable")
    places: list[int] = order.tolist()
    ids: list[str] = [row_id for one in results for row_id in one.ids]
    names = results[0].outputs
    return Results(
        numbers[order].tolist(),
        [ids[at] for at in places],
        {name: np.concatenate([one.outputs[name] for one in results])[order] for name in names},
    )
