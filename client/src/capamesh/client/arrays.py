"""Between what a caller holds (arrays, lists of text) and tensors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype, Tensor, fp32_from_bf16

InputValue: TypeAlias = "npt.NDArray[Any] | np.generic | Tensor | Sequence[Any]"
"""An array, a `Tensor`, or (nested) lists of `str` and `bytes`."""


def tensors_of(inputs: Mapping[str, InputValue]) -> list[Tensor]:
    """Return the inputs as tensors, arrays shared without a copy where they are row-major.

    The dtype is taken as it is, so that nothing is rounded unasked: numbers must be arrays. For BF16,
    which numpy lacks, give `Tensor.from_numpy(name, floats, Datatype.BF16)`.
    InvalidRequest: no inputs, a list with something else than text, a dtype without a datatype.
    """
    if not inputs:
        raise InvalidRequest('a request without inputs; give them as {"NAME": array}')
    return [_tensor_of(name, value) for name, value in inputs.items()]


def arrays_of(tensors: Sequence[Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs as read-only arrays by name: BF16 as float32, BYTES as objects of `bytes`."""
    return {tensor.name: _array_of(tensor) for tensor in tensors}


def _tensor_of(name: str, value: InputValue) -> Tensor:
    match value:
        case Tensor():
            return value if value.name == name else value._replace(name=name)
        case np.ndarray() | np.generic():
            return Tensor.from_numpy(name, value)
        case list() | tuple() | str() | bytes():
            return Tensor.from_numpy(name, _text_array(name, value), Datatype.BYTES)
        case _:
            raise InvalidRequest(
                f"input {name!r} is {type(value).__name__}; give a numpy array, a Tensor, or a list of text"
            )


def _text_array(name: str, value: Sequence[Any]) -> npt.NDArray[np.object_]:
    array = np.array(value, dtype=object)
    for element in cast("list[object]", array.reshape(-1).tolist()):
        if not isinstance(element, (str, bytes)):
            raise InvalidRequest(
                f"input {name!r} is a list with {type(element).__name__}; lists are for text, give numbers as "
                "an array of the model's dtype: numpy.array(..., dtype=numpy.float32)"
            )
    return array


def _array_of(tensor: Tensor) -> npt.NDArray[Any]:
    array = tensor.to_numpy()
    if tensor.datatype is Datatype.BF16:
        array = fp32_from_bf16(array)
        array.flags.writeable = False
    return array
