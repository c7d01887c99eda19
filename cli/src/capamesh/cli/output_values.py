"""Outputs as people read them, and as JSON. Pure."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from capamesh.client import Outputs

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


def shown_outputs(number: int, began_s: float | None, outputs: Outputs) -> str:
    """Return one window's outputs as a line: when it began, or its number, and the values."""
    when = f"window {number:>6}" if began_s is None else f"{began_s:9.3f} s"
    values = (
        f"{name} {array.reshape(-1)[0]:.6g}"
        if array.size == 1 and array.dtype != object
        else f"{name} {' '.join(preview(array).split())}"
        for name, array in outputs.items()
    )
    return "  ".join((when, *values))


def json_line_of(number: int, began_s: float | None, outputs: Outputs) -> str:
    """Return one window's outputs as a line of JSON."""
    when = {} if began_s is None else {"began_s": round(began_s, 6)}
    shown = [json_of(name, array) for name, array in outputs.items()]
    return json.dumps({"window": number, **when, "outputs": shown}, allow_nan=False)


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
