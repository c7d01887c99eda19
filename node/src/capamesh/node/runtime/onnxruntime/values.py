"""Makes of tensors what ONNX Runtime takes. Pure but for memory that it shares."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.node.runtime.onnxruntime.binding import Untyped, ort
from capamesh.node.runtime.signature import texts
from capamesh.protocol.tensors import BF16, BYTES, Tensor, TensorSpec

_ONNX_BF16: Final = 16  # TensorProto.DataType.BFLOAT16 in onnx.proto
_EMPTY_TEXT_BYTES: Final = 4  # its length, on the wire


def fed(tensor: Tensor) -> object:
    """Return the array that `session.run` takes for `tensor`, of the same shape: a view of its bytes, except for text."""
    datatype = tensor.datatype
    if datatype is BYTES:
        return texts(tensor)
    array: npt.NDArray[Any] = np.ndarray(tensor.shape, datatype.numpy_dtype, tensor.data)
    # A slice of a frame may start anywhere; kernels expect whole elements at their own addresses.
    if not array.flags.aligned:
        array = array.copy()
    if datatype is BF16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BF16)
    return array


def smallest(spec: TensorSpec) -> Tensor:
    """Return a tensor that the runtime takes for an input: of its datatype, with one element where its shape is open."""
    shape = tuple(max(dim, 1) if dim < 0 else dim for dim in spec.shape)
    size_bytes = math.prod(shape) * (spec.datatype.itemsize_bytes or _EMPTY_TEXT_BYTES)
    return Tensor(spec.name, spec.datatype, shape, bytes(size_bytes))


def wrapped(feed: dict[str, Any]) -> dict[str, Untyped]:
    """Return `feed` with OrtValues alone, which share the arrays' memory."""
    wrap = ort.OrtValue.ortvalue_from_numpy
    return {
        name: wrap(value) if isinstance(value, np.ndarray) else value
        for name, value in feed.items()
    }
