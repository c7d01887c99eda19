"""Converts arrays to the datatype that a model takes, where that is asked for. Pure."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype, bf16_from_fp64, fp32_from_bf16

_FLOATS: Final = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})
"""The float datatypes of numpy, whose values become BF16 by rounding without being asked to."""


def cast_array(
    array: npt.NDArray[Any] | np.generic, wanted: Datatype, where: str
) -> npt.NDArray[Any] | np.generic:
    """Return the numbers of `array` as `wanted`, in the same shape; floats stay where BF16 is, which numpy lacks.

    InvalidRequest, which begins with `where`: an integer that does not fit, a fraction for an integer, a finite number
    that would become infinite, or text.
    """
    own = Datatype.of_numpy(array.dtype)
    if own is wanted:
        return array
    if Datatype.BYTES in {own, wanted} or own is Datatype.BF16:
        raise InvalidRequest(f"{where}: {own} cannot be cast to {wanted}, which the model takes")
    given = np.asarray(array)
    with np.errstate(all="ignore"):  # what does not fit is told below
        if wanted is Datatype.BF16:
            made = given if own in _FLOATS else given.astype(np.float32)
            rounded = fp32_from_bf16(bf16_from_fp64(given.astype(np.float64)))
            fits = np.isfinite(rounded) | ~np.isfinite(given)
        else:
            dtype = wanted.numpy_dtype
            made = given.astype(dtype)
            is_float = dtype.kind == "f"
            fits = np.isfinite(made) | ~np.isfinite(given) if is_float else _fit(given, dtype)
    if not fits.all():
        raise InvalidRequest(
            f"{where}: {given[~fits].reshape(-1)[0]} cannot be cast to {wanted}, which the model takes"
        )
    return made


def _fit(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Say of each number whether it is one of the integers (or 0 and 1) of `dtype`."""
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if array.dtype.kind != "f":
        inside: npt.NDArray[Any] = (array >= least) & (array <= most)
        return inside
    wide = array.astype(np.float64)  # which has `most + 1`, a power of two, but not always `most`
    fits: npt.NDArray[Any] = (wide >= float(least)) & (wide < float(most + 1))
    fits &= wide == np.floor(wide)
    return fits
