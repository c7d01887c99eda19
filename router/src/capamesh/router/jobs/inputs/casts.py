"""Casts what an input holds to what a model takes, and refuses every cast that would lose a value. Pure.

The whole column is cast at once where numpy can show that nothing is lost; where not, row by row, so that the rows that do not fit
are named with their column and value, and the others go on. A rounded fraction is not lost: 0.1 has no FP32 that is it. A whole
number that would be another one, a fraction that would be cut, an infinity that was none, a missing value and a text where a number
is expected are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.datatypes import BF16, BYTES, Datatype
from capamesh.protocol.schema import shown
from capamesh.protocol.tensor_spec import ANY_DIM, TensorSpec
from capamesh.protocol.tensors.bfloat16 import bf16_from_fp32, fp32_from_bf16
from capamesh.router.jobs.inputs.reader import Values

_EXACT: Final = 2**53
"""The whole numbers below are floats without loss, however they came to be one."""


class CastRefused(ValueError):
    """A value does not fit; the text names the value and what is expected."""


Rows: TypeAlias = npt.NDArray[Any] | list[npt.NDArray[Any] | None]
"""The rows of an input: one array, of shape [rows, *row_shape], or an array a row, of a row's shape, None where none fits."""


def cast_column(values: Values, spec: TensorSpec) -> tuple[Rows, dict[int, str]]:
    """Return the rows of a column as a model's input, and what is wrong with those that do not fit, by place.

    `spec` is the input's, whose first axis is the rows; the dtype is that of its datatype.
    """
    row_shape = spec.shape[1:]
    whole = _cast_whole(values, spec.datatype, row_shape)
    if whole is not None:
        return whole, {}
    rows: list[npt.NDArray[Any] | None] = []
    refused: dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            rows.append(_cast_row(value, spec.datatype, row_shape))
        except CastRefused as exc:
            rows.append(None)
            refused[place] = str(exc)
    return rows, refused


def _cast_whole(
    values: Values, datatype: Datatype, row_shape: Sequence[int]
) -> npt.NDArray[Any] | None:
    """Return all rows as one array, of shape [rows, *row_shape]; None: numpy cannot show that nothing is lost."""
    if datatype is BYTES or not len(values):
        return None
    try:
        array = np.asarray(values)
        if array.dtype.kind == "U":
            array = array.astype(np.float64 if datatype.numpy_dtype.kind == "f" else np.int64)
        made = cast_exact(array, datatype, is_made=not isinstance(values, np.ndarray))
        return None if made is None else _shaped(made, (len(values), *row_shape), axes=2)
    except (ValueError, OverflowError, TypeError, CastRefused):
        return None


def _cast_row(value: Any, datatype: Datatype, row_shape: Sequence[int]) -> npt.NDArray[Any]:  # noqa: ANN401 - what a file holds
    """Return a row, of shape `row_shape`; raises `CastRefused`."""
    if datatype is BYTES:
        flat = [_bytes_of(each) for each in _flat(value)]
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        is_list = isinstance(value, list | tuple | np.ndarray)
        return _shaped(array if is_list else array.reshape(()), row_shape, axes=1)
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise CastRefused(f"{shown(value)} is not of one shape") from exc
    made = cast_exact(array, datatype, is_made=not isinstance(value, np.ndarray))
    if made is not None:
        return _shaped(made, row_shape, axes=1)
    numbers = [_number_of(each, datatype) for each in _flat(value)]
    filled = np.empty(len(numbers), np.float32 if datatype is BF16 else datatype.numpy_dtype)
    for place, number in enumerate(numbers):
        filled[place] = number
    if datatype is BF16:
        filled = bf16_from_fp32(filled)
    return _shaped(filled.reshape(array.shape), row_shape, axes=1)


def cast_exact(
    array: npt.NDArray[Any], datatype: Datatype, *, is_made: bool
) -> npt.NDArray[Any] | None:
    """Return an array of numbers as another datatype, of the same shape; None: a value may be lost.

    `is_made`: numpy made it of Python's values, and so a float of every whole number that stands beside a fraction.
    """
    if datatype is Datatype.BOOL:
        return array if array.dtype.kind == "b" else None
    if array.dtype.kind not in "biuf":
        return None
    if not is_made and datatype is not BF16 and array.dtype == datatype.numpy_dtype:
        return array
    with np.errstate(all="ignore"):
        if datatype is BF16:
            bits = bf16_from_fp32(array.astype(np.float32))
            return bits if _is_kept(array, fp32_from_bf16(bits), is_made=is_made) else None
        made = array.astype(datatype.numpy_dtype)
        return made if _is_kept(array, made, is_made=is_made) else None


def _is_kept(array: npt.NDArray[Any], made: npt.NDArray[Any], *, is_made: bool) -> bool:
    """Return whether a cast has the values of an array, of the same shape and any number's dtype, but for rounded fractions."""
    if array.dtype.kind != "f":
        if made.dtype.kind != "f":
            return not _wraps(array, made.dtype)
        return bool(np.all(np.isfinite(made))) and np.array_equal(made.astype(array.dtype), array)
    if made.dtype.kind != "f":
        return bool(np.all(np.abs(array) < _EXACT)) and np.array_equal(made, array)
    if not np.array_equal(np.isinf(array), np.isinf(made)):
        return False
    # what is whole may have been a whole number
    is_whole = np.isfinite(array) & (array == np.floor(array))
    return not is_made or not np.any(is_whole & ((np.abs(array) >= _EXACT) | (made != array)))


def _wraps(array: npt.NDArray[Any], target: np.dtype[Any]) -> bool:
    """Return whether a whole number is outside of what `target` can hold."""
    if array.dtype.kind == "b" or not array.size:
        return False
    info = np.iinfo(target)
    return int(array.min()) < int(info.min) or int(array.max()) > int(info.max)


def _number_of(value: Any, datatype: Datatype) -> Any:  # noqa: ANN401 - what a file holds; a bool, int or float
    """Return one value, exact; raises `CastRefused`."""
    number: Any = _read_number(value) if isinstance(value, str) else value
    if hasattr(number, "item"):  # a number of numpy's
        number = number.item()
    kind = datatype.numpy_dtype.kind if datatype is not BF16 else "f"
    if datatype is Datatype.BOOL:
        if isinstance(number, bool):
            return number
    elif isinstance(number, bool | int | float):
        fitting = _float_of(number, datatype) if kind == "f" else _integer_of(number, datatype)
        if fitting is not None:
            return fitting
    raise CastRefused(f"{shown(value)} does not fit {datatype}, which takes {_taken_by(datatype)}")


def _read_number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _integer_of(number: float, datatype: Datatype) -> int | None:
    if isinstance(number, float) and not number.is_integer():
        return None
    if isinstance(number, float) and abs(number) >= _EXACT:
        return None  # whether it was whole when it was written cannot be told
    info = np.iinfo(datatype.numpy_dtype)
    return int(number) if info.min <= number <= info.max else None


def _float_of(number: float, datatype: Datatype) -> float | None:
    try:
        with np.errstate(all="ignore"):
            if datatype is BF16:
                made = float(fp32_from_bf16(bf16_from_fp32(np.array([number], np.float32)))[0])
            else:
                made = float(datatype.numpy_dtype.type(number))
    except OverflowError:
        return None
    is_fraction = isinstance(number, float)
    if math.isinf(made):
        return made if is_fraction and math.isinf(number) else None
    return made if is_fraction or int(made) == number else None


def _taken_by(datatype: Datatype) -> str:
    if datatype is Datatype.BOOL:
        return "true and false"
    if datatype is not BF16 and datatype.numpy_dtype.kind in "iu":
        info = np.iinfo(datatype.numpy_dtype)
        return f"whole numbers from {info.min} to {info.max}"
    return "numbers that it can hold"


def _bytes_of(value: Any) -> bytes:  # noqa: ANN401 - what a file holds
    match value:
        case bytes():
            return value
        case str():
            return value.encode("utf-8", "surrogateescape")
        case _:
            raise CastRefused(f"{shown(value)} does not fit BYTES, which takes texts")


def _flat(value: Any) -> list[Any]:  # noqa: ANN401 - what a file holds
    """Return the values in a value, in order, without its shape."""
    if isinstance(value, np.ndarray):
        return _flat(cast("list[object]", value.ravel().tolist()))
    if not isinstance(value, list | tuple):
        return [value]
    flat: list[Any] = []
    for each in cast("Sequence[Any]", value):
        flat += _flat(each)
    return flat


def _shaped(array: npt.NDArray[Any], shape: Sequence[int], *, axes: int) -> npt.NDArray[Any]:
    """Return an array of a declared shape, -1 being any size; raises `CastRefused`.

    One of no more than `axes` axes has its values in a row, and is given the shape if they are as many.
    """
    fits = len(array.shape) == len(shape) and all(
        own in {ANY_DIM, given} for own, given in zip(shape, array.shape, strict=True)
    )
    if fits:
        return array
    if ANY_DIM not in shape and array.ndim <= axes and math.prod(shape) == array.size:
        return array.reshape(tuple(shape))
    raise CastRefused(f"it has shape {list(array.shape)}, the model takes {list(shape)}")
