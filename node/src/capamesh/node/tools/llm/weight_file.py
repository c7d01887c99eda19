"""Writes the weights of an ONNX model into a file beside it, one after the other, so that no two are in memory. Writes a file."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

_ALIGNMENT: Final = 4096
"""Weights begin at whole pages, so that a runtime may map them."""
_INLINE_BYTES: Final = 1024
"""Smaller ones stay in the ONNX file (the `onnx` package's own default)."""


class WeightFile:
    """The file of weights of one model, open for as long as a `with` block lasts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("wb")
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> WeightFile:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._stream.close()

    def add(
        self, name: str, array: npt.NDArray[Any], *, is_shared: bool = False
    ) -> onnx.TensorProto:
        """Write an array; return the weight of its own shape and dtype that names its place. One that `is_shared` may be had `again`."""
        raw = np.ascontiguousarray(array)
        tensor = _tensor(name, raw.dtype, raw.shape)
        if raw.nbytes < _INLINE_BYTES and not is_shared:
            tensor.raw_data = raw.tobytes()
            return tensor
        padding = -self._stream.tell() % _ALIGNMENT
        self._stream.write(bytes(padding))
        self._places[name] = (self._stream.tell(), raw.nbytes)
        self._stream.write(memoryview(cast("Any", raw)).cast("B"))
        return self._at(tensor, *self._places[name])

    def again(
        self, name: str, other: str, shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> onnx.TensorProto:
        """Return a weight of a shape and dtype whose bytes are those of the `other`, which `add` wrote into the file."""
        return self._at(_tensor(name, np.dtype(dtype), shape), *self._places[other])

    def _at(self, tensor: onnx.TensorProto, offset: int, size: int) -> onnx.TensorProto:
        from onnx import TensorProto  # noqa: PLC0415 - an extra

        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self._path.name),
            ("offset", str(offset)),
            ("length", str(size)),
        ):
            tensor.external_data.add(key=key, value=value)
        return tensor


def _tensor(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> onnx.TensorProto:
    from onnx import TensorProto, helper  # noqa: PLC0415 - an extra

    tensor = TensorProto(name=name, dims=shape)
    tensor.data_type = cast("Any", helper).np_dtype_to_tensor_dtype(dtype)
    return tensor
