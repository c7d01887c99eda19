"""The text of a tensor's numbers in JSON. Pure.

orjson writes arrays of numpy without an object for each number: ten FP32 take a twelfth of the time that numpy's own texts of them
do (measured). Every number reads back to the very same element: integers exactly, floats as the shortest text for their own width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from capamesh.protocol.errors import NotInJson
from capamesh.protocol.tensors import Datatype, fp32_from_bf16

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.tensors import Tensor

_FLOATS: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
_NON_FINITE_TEXTS: Final = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
"""The JSON texts of non-finite numbers, by numpy's texts."""
_OPTION: Final = orjson.OPT_SERIALIZE_NUMPY


def numbers_of(tensor: Tensor) -> npt.NDArray[Any]:
    """Return the elements of a checked tensor that is not of BYTES, of shape [elements] and its dtype, float32 for BF16."""
    array = np.frombuffer(tensor.data, tensor.datatype.numpy_dtype)
    return fp32_from_bf16(array) if tensor.datatype is Datatype.BF16 else array


def numbers_text(tensor: Tensor) -> bytes:
    """Return the text of all elements of a checked tensor of any shape and datatype but BYTES, row-major, with commas between.

    Raises `NotInJson` where one is not finite.
    """
    return text_of_numbers(tensor, numbers_of(tensor), 0, is_non_finite_text=False)


def text_of_numbers(
    tensor: Tensor, chunk: npt.NDArray[Any], start: int, *, is_non_finite_text: bool
) -> bytes:
    """Return the text of the elements of one chunk of a tensor, the first of which is the one at `start`, with commas between.

    `chunk` is of shape [elements] and the tensor's dtype, float32 for BF16. With `is_non_finite_text` numbers that JSON
    does not have become texts. Raises `NotInJson` where there are such and it is not set.
    """
    datatype = tensor.datatype
    if datatype is Datatype.FP16:  # of it, orjson writes the shortest text for FP32
        if not np.isfinite(chunk).all():
            return _with_non_finite(tensor, chunk, start, is_non_finite_text=is_non_finite_text)
        return ",".join(chunk.astype("U").tolist()).encode("ascii")
    if not chunk.flags.aligned:  # orjson reads elements where they lie
        chunk = chunk.copy()
    text = orjson.dumps(chunk, option=_OPTION)[1:-1]
    if b"n" in text and datatype in _FLOATS:  # it writes null for what is not finite
        return _with_non_finite(tensor, chunk, start, is_non_finite_text=is_non_finite_text)
    return text


def _with_non_finite(
    tensor: Tensor, chunk: npt.NDArray[Any], start: int, *, is_non_finite_text: bool
) -> bytes:
    if not is_non_finite_text:
        index = int(np.argmin(np.isfinite(chunk)))
        raise NotInJson(
            f"tensor {tensor.name!r}: {tensor.datatype} element {start + index} is {chunk[index]}, which JSON cannot hold; "
            'ask for binary data, or for texts: "parameters": {"non_finite_output": "text"}'
        )
    numbers: list[Any] = chunk.tolist() if chunk.dtype.itemsize == 8 else chunk.astype("U").tolist()
    return ",".join([_NON_FINITE_TEXTS.get(t, t) for t in map(str, numbers)]).encode("ascii")
