"""The largest scores of each row of an output, as texts that name their classes: Triton's classification extension. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensor_spec import ANY_DIM
from capamesh.protocol.tensors.bfloat16 import fp32_from_bf16
from capamesh.protocol.tensors.byte_elements import join_elements
from capamesh.protocol.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from capamesh.protocol.tensor_spec import TensorSpec

MAX_SCORES: Final = 2**18
"""An output with more elements is not classified (measured: the worst takes 4 ms)."""
MAX_CLASSES: Final = 2**13
"""The most classes that a request may ask for of a row, and the most of all rows (measured: so many take 4 ms)."""
_NO_SCORES: Final = frozenset({Datatype.BYTES, Datatype.BOOL})


def has_rows(spec: TensorSpec, dimensions: int) -> bool:
    """Return whether the first of an output's `dimensions` counts rows, each with scores of its own; else all are one row's.

    As with Triton's batches it does where it is open. Of an output that declares no shape it does where there are others.
    """
    return spec.shape[0] == ANY_DIM if spec.shape else dimensions > 1


def has_classes(spec: TensorSpec) -> bool:
    """Return whether an output can be the scores of classes: numbers, and more than one of them a row."""
    scores = spec.shape[1:] if has_rows(spec, len(spec.shape)) else spec.shape
    return spec.datatype not in _NO_SCORES and (not spec.shape or math.prod(scores) != 1)


def check_classifiable(name: str, datatype: Datatype) -> None:
    """Raise `InvalidRequest` where an output of a datatype has no scores."""
    if datatype in _NO_SCORES:
        raise InvalidRequest(
            f"output {name[:80]!r} is {datatype}, which are no scores: ask for it without classification"
        )


def classified(
    tensor: Tensor, most: int, labels: Sequence[str] = (), *, is_by_rows: bool
) -> Tensor:
    """Return the `most` largest scores as BYTES, the largest first: "score:index:label", or "score:index" without a label.

    With `is_by_rows` they are those of each row along the first dimension of `tensor`, in the shape [rows, count]; else
    those of all its elements, in the shape [count]. There are as many as scores, where these are fewer than `most`. Equal
    scores keep their order, though which of them are the last to be among the largest is not defined; NaN counts as minus
    infinity. `labels` are by index; a class that has none, or an empty one, goes without.

    Raises:
        InvalidRequest: the datatype has no scores.
        TooLarge: there are too many scores, or texts.
    """
    check_classifiable(tensor.name, tensor.datatype)
    total = math.prod(tensor.shape)
    if total > MAX_SCORES:
        raise TooLarge(
            f"output {tensor.name[:80]!r} has {total} scores; at most {MAX_SCORES} are classified:"
            " ask for it without classification, or for fewer rows"
        )
    rows, width = (tensor.shape[0], math.prod(tensor.shape[1:])) if is_by_rows else (1, total)
    count = min(most, width)
    if rows * count > MAX_CLASSES:
        raise TooLarge(
            f"output {tensor.name[:80]!r} would have {rows * count} classes; at most {MAX_CLASSES} are given:"
            " ask for fewer of each row, or for fewer rows"
        )
    scores = tensor.to_numpy()
    if tensor.datatype is Datatype.BF16:
        scores = fp32_from_bf16(scores)
    scores = scores.reshape(rows, width)
    largest = _largest(scores, count)
    form = "%f:%d" if scores.dtype.kind == "f" else "%d:%d"
    values = np.take_along_axis(scores, largest, axis=1).ravel().tolist()
    texts: list[bytes] = []
    for value, index in zip(values, largest.ravel().tolist(), strict=True):
        text = form % (value, index)
        label = labels[index] if index < len(labels) else ""
        texts.append((f"{text}:{label}" if label else text).encode())
    shape = (rows, count) if is_by_rows else (count,)
    return Tensor(tensor.name, Datatype.BYTES, shape, join_elements(texts))


def _largest(scores: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Return the columns of the `count` largest elements of each row of `scores`, [rows, width], the largest first."""
    rows, width = scores.shape
    if scores.dtype.kind == "f":
        scores = np.where(np.isnan(scores), -np.inf, scores)
    if count < width:
        # to sort all of a long row would take 20 times as long
        columns = np.sort(np.argpartition(scores, width - count, axis=1)[:, width - count :])
        scores = np.take_along_axis(scores, columns, axis=1)
    else:
        columns = np.tile(np.arange(width, dtype=np.intp), (rows, 1))
    # the order from the last column backwards, turned round, so that the first of equals comes first
    order = count - 1 - np.argsort(scores[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return np.take_along_axis(columns, order, axis=1)
