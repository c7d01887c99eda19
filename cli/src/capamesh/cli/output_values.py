"""Outputs as people read them, and as JSON. Pure."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

_SHOWN_ELEMENTS = 40
"""The elements of an output that a table shows, half from each end of every axis (guess: a few lines)."""


def preview(array: npt.NDArray[Any]) -> str:
    """Return the elements, the middle of a large array left out."""
    shown = _as_text(array) if array.dtype == object else array
    return np.array2string(
        shown, threshold=_SHOWN_ELEMENTS, max_line_width=100, precision=6, suppress_small=True
    )


def dtype_name(array: npt.NDArray[Any]) -> str:
    """Return the dtype of an output as people and programs are told it: numpy's name, and `text` where it is of texts."""
    return "text" if array.dtype == object else array.dtype.name


def json_of(name: str, array: npt.NDArray[Any]) -> dict[str, object]:
    """Return an output as a JSON object with nested lists; BYTES as text, NaN and infinities as text too."""
    elements = _as_text(array) if array.dtype == object else array
    data: object = elements.tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        data = _spelled(data)
    return {"name": name, "dtype": dtype_name(array), "shape": list(array.shape), "data": data}


def _as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `bytes` as text; what is not UTF-8 in them is written in hexadecimal, with a backslash and x."""
    texts = np.empty(array.shape, dtype=object)
    for index, element in np.ndenumerate(array):
        texts[index] = element.decode("utf-8", "backslashreplace")
    return texts


def _spelled(value: object) -> object:
    match value:
        case list():
            return [_spelled(item) for item in cast("list[object]", value)]
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case _:
            return value
