"""Rows on their way from the process that reads them to the router: a head of JSON, and the tensors' bytes. Pure.

The reader may be in the hands of whoever wrote the file, so what it sends is checked as a stranger's: sizes, types and counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.schema import Mismatch, plain_values, read
from capamesh.protocol.tensors import join_elements, split_elements
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES
from capamesh.router.jobs.inputs.reader import WINDOW_ROWS
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.inputs.rows import RowBatch, RowWindow, part_of
from capamesh.router.jobs.values import BadRow

MOST_BYTES: Final = 2 * MAX_SHARD_BYTES
"""The most bytes of tensors at a time: a row has `MAX_SHARD_BYTES` at most, and each text of it its length besides."""
MOST_NAME_CHARS: Final = 2**20
"""The most characters of the names of a head, each of which takes up to twelve bytes in JSON: a message has 16 MiB at most."""
NUMBERS: Final = "biuf"
"""The kinds of numpy's dtypes that tensors of numbers have."""

Blob = bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    dtype: str
    """The dtype of numpy's; "O": texts."""
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Batch:
    inputs: tuple[_Input, ...]
    span: tuple[int, int] | None
    """The first row's number and the one behind the last; None: `numbers` are the rows'."""
    numbers: tuple[int, ...]
    ids: tuple[str, ...] | None
    """The names; None: they are the numbers."""


@dataclass(frozen=True, slots=True)
class _Head:
    bad: tuple[BadRow, ...]
    sha256: str
    batches: tuple[_Batch, ...]


def packed(window: RowWindow) -> Sequence[tuple[bytes, list[Blob]]]:
    """Return a window as heads, each with the bytes of its tensors, in order: a head has no more than `WINDOW_ROWS` names."""
    made: list[tuple[bytes, list[Blob]]] = []
    for first in range(0, len(window.bad), WINDOW_ROWS // 8):
        some = tuple(window.bad[first : first + WINDOW_ROWS // 8])
        made.append((_text(_Head(some, window.sha256, ())), []))
    for batch in window.batches:
        is_numbered = isinstance(batch.ids, NumberNames) and isinstance(batch.numbers, range)
        has_short = is_numbered or sum(map(len, batch.ids)) <= MOST_NAME_CHARS
        most = max(1, batch.rows) if is_numbered else WINDOW_ROWS if has_short else WINDOW_ROWS // 8
        for first in range(0, batch.rows, most):
            part = part_of(batch, first, first + most)
            blobs = [_bytes_of(array) for array in part.inputs.values()]
            inputs = tuple(
                _Input(name, array.dtype.str.lstrip("|"), array.shape, len(blob))
                for (name, array), blob in zip(part.inputs.items(), blobs, strict=True)
            )
            numbers = part.numbers
            span = (numbers.start, numbers.stop) if isinstance(numbers, range) else None
            head = _Batch(
                inputs,
                span,
                () if span else tuple(numbers),
                None if isinstance(part.ids, NumberNames) else tuple(part.ids),
            )
            made.append((_text(_Head((), window.sha256, (head,))), blobs))
    return made or [(_text(_Head((), window.sha256, ())), [])]


def unpacked(head: bytes, take: Callable[[int, int], npt.NDArray[np.uint8]]) -> RowWindow:
    """Return the window of a head; `take` returns as many bytes from a place on as it is told. Raises `ProtocolViolation`."""
    try:
        found = read(json.loads(head), _Head)
        batches: list[RowBatch] = []
        at = 0
        for batch in found.batches:
            arrays: dict[str, npt.NDArray[Any]] = {}
            for each in batch.inputs:
                at += each.size_bytes
                arrays[each.name] = _array_of(take, at, each)
            batches.append(_rows_of(batch, arrays))
    except (Mismatch, InvalidRequest, ValueError, TypeError) as exc:
        raise ProtocolViolation(f"a reader of inputs sent what is no window: {exc}") from exc
    return RowWindow(batches, list(found.bad), found.sha256)


def _text(head: _Head) -> bytes:
    # names may have halves of characters, which JSON can write and UTF-8 cannot
    return json.dumps(plain_values(head), separators=(",", ":")).encode()


def _bytes_of(array: npt.NDArray[Any]) -> Blob:
    if array.dtype.kind == "O":
        return join_elements(array.ravel().tolist())
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _rows_of(batch: _Batch, arrays: dict[str, npt.NDArray[Any]]) -> RowBatch:
    numbers = batch.numbers if batch.span is None else range(*batch.span)
    ids = NumberNames(numbers) if batch.ids is None else batch.ids
    if any(len(each) != len(numbers) for each in (ids, *arrays.values())):
        raise ValueError(f"there are not {len(numbers)} of each")
    return RowBatch(numbers, ids, arrays)


def _array_of(
    take: Callable[[int, int], npt.NDArray[np.uint8]], end: int, each: _Input
) -> npt.NDArray[Any]:
    """Return the tensor whose bytes end at a place."""
    if each.size_bytes < 0 or end > MOST_BYTES or min(each.shape) < 0:
        raise ValueError(
            f"input {each.name!r} has {each.size_bytes} bytes, of {end}, and the shape {each.shape}"
        )
    data = take(end - each.size_bytes, each.size_bytes)
    if each.dtype == "O":
        found = split_elements(data.data, math.prod(each.shape))
        texts = np.empty(len(found), dtype=object)
        texts[:] = found
        return texts.reshape(each.shape)
    dtype = np.dtype(each.dtype)
    if dtype.kind not in NUMBERS:
        raise ValueError(f"input {each.name!r} has the dtype {each.dtype!r}")
    return data.view(dtype).reshape(each.shape)
