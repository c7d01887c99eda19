"""Rows of several requests made one tensor, and cut apart again. Pure.

Along axis 0 stacking is joining bytes and cutting is slicing them: no array is made. Only padding and other axes need
numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from capamesh.protocol.tensors import (
    Datatype,
    Tensor,
    bf16_from_fp32,
    join_elements,
    split_elements,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.node.repository.rules import RaggedInput
    from capamesh.node.scheduling.pending_request import PendingRequest


def bucket(rule: RaggedInput, length: int) -> int:
    """Return the length that is padded to; -1 where the batch decides it."""
    return next((bucket for bucket in rule.buckets if bucket >= length), -1)


def filled(shape: tuple[int, ...], value: float, datatype: Datatype) -> npt.NDArray[Any]:
    """Return an array full of `value`; BF16 as its bits."""
    array = np.empty(shape, datatype.numpy_dtype)
    array[...] = bf16_from_fp32(np.array(value, np.float32)) if datatype is Datatype.BF16 else value
    return array


def padded(parts: list[Tensor], rule: RaggedInput, pad: float) -> list[Tensor]:
    """Return `parts` made as long as the longest along the axis of `rule`, or as its bucket; `pad` fills them."""
    longest = max(part.shape[rule.axis] for part in parts)
    target = max(longest, bucket(rule, longest))
    return [
        part if part.shape[rule.axis] == target else _lengthened(part, rule.axis, target, pad)
        for part in parts
    ]


def _lengthened(tensor: Tensor, axis: int, target: int, pad: float) -> Tensor:
    shape = (*tensor.shape[:axis], target, *tensor.shape[axis + 1 :])
    array = filled(shape, pad, tensor.datatype)
    array[_upto(axis, tensor.shape[axis])] = tensor.to_numpy()
    return Tensor.from_numpy(tensor.name, array, tensor.datatype)


def _upto(axis: int, count: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(count))


def stacked(parts: list[Tensor], axis: int) -> Tensor:
    """Return the rows of `parts`, which are equal but for `axis`, one after the other as one tensor."""
    first = parts[0]
    if axis == 0:
        rows = 0
        for part in parts:
            rows += part.shape[0]
        return Tensor(
            first.name,
            first.datatype,
            (rows, *first.shape[1:]),
            b"".join([part.data for part in parts]),
        )
    array = np.concatenate([part.to_numpy() for part in parts], axis)
    return Tensor.from_numpy(first.name, array, first.datatype)


def divided(
    output: Tensor, axis: int, requests: Sequence[PendingRequest], rows: int
) -> list[Tensor]:
    """Return the rows of each work, in order, as slices of the output's bytes where that is possible."""
    name, datatype, rest = output.name, output.datatype, output.shape[1:]
    if axis:
        ends = np.cumsum([request.rows for request in requests])[:-1]
        return [
            Tensor.from_numpy(name, part, datatype)
            for part in np.split(output.to_numpy(), ends, axis)
        ]
    if datatype.itemsize_bytes is None:
        return _divided_elements(output, requests)
    data = memoryview(output.data)
    row_bytes = len(data) // rows
    parts: list[Tensor] = []
    at = 0
    for request in requests:
        end = at + request.rows * row_bytes
        parts.append(Tensor(name, datatype, (request.rows, *rest), data[at:end]))
        at = end
    return parts


def _divided_elements(output: Tensor, requests: Sequence[PendingRequest]) -> list[Tensor]:
    rest = output.shape[1:]
    row_elements = 1
    for dim in rest:
        row_elements *= dim
    elements = split_elements(output.data, output.shape[0] * row_elements)
    parts: list[Tensor] = []
    at = 0
    for request in requests:
        end = at + request.rows * row_elements
        data = join_elements(elements[at:end])
        parts.append(Tensor(output.name, output.datatype, (request.rows, *rest), data))
        at = end
    return parts


def shortened(tensor: Tensor, axis: int, count: int) -> Tensor:
    """Return the first `count` elements of `tensor` along `axis`."""
    array = np.ascontiguousarray(tensor.to_numpy()[_upto(axis, count)])
    return Tensor.from_numpy(tensor.name, array, tensor.datatype)
