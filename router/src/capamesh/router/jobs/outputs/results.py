"""The results of a shard, as they are put into a part. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capamesh.router.jobs.inputs.row_numbers import (
    NumberNames,
    joined_names,
    joined_numbers,
    number_array,
)
from capamesh.router.jobs.row_forms import RowForm


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
    results = sorted(results, key=lambda one: one.numbers[0])
    numbers = joined_numbers([one.numbers for one in results])
    ids = joined_names([one.ids for one in results])
    outputs = {
        name: np.concatenate([one.outputs[name] for one in results]) for name in results[0].outputs
    }
    if isinstance(numbers, range):
        return Results(numbers, ids, outputs)
    array = number_array(numbers)
    if not np.all(array[1:] > array[:-1]):
        order = np.argsort(array, kind="stable")
        places: list[int] = order.tolist()
        numbers = array[order].tolist()
        ids = NumberNames(numbers) if isinstance(ids, NumberNames) else [ids[at] for at in places]
        outputs = {name: each[order] for name, each in outputs.items()}
    return Results(numbers, ids, outputs)
