"""A named tensor as raw bytes, and its views as numpy arrays. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors.bfloat16 import bf16_from_fp32, bf16_from_fp64
from capamesh.protocol.tensors.byte_elements import join_elements, split_elements
from capamesh.protocol.values import Value

if TYPE_CHECKING:
    import numpy.typing as npt


class Tensor(Value):
    """A tensor as it travels: little-endian, row-major, no padding; BYTES as lengths and bytes.

    The constructor checks nothing, because most tensors pass through unread; `checked` does.
    """

    __slots__ = ("data", "datatype", "name", "shape")

    def __init__(
        self,
        name: str,
        datatype: Datatype,
        shape: tuple[int, ...],
        data: bytes | bytearray | memoryview,
    ) -> None:
        self.name = name
        """The name of the input or output that it is."""
        self.datatype = datatype
        """The type of its elements."""
        self.shape = shape
        """The length of each dimension."""
        self.data = data
        """The raw bytes, shared, not copied: whoever owns the buffer must not change it."""

    @override
    def __repr__(self) -> str:
        """Return it without its data, which may be megabytes."""
        return f"Tensor(name={self.name!r}, datatype={self.datatype!r}, shape={self.shape!r})"

    @property
    def size_bytes(self) -> int:
        """The bytes of `data`."""
        data = self.data
        return data.nbytes if isinstance(data, memoryview) else len(data)

    def to_numpy(self) -> npt.NDArray[Any]:
        """Return the elements as a read-only array of `shape` and `datatype.numpy_dtype`.

        Fixed-size datatypes are a view of `data`, without a copy; BF16 is its uint16 bit patterns
        (see `fp32_from_bf16`). BYTES is an object array of `bytes`.

        Raises:
            InvalidRequest: the data does not match the shape, which `checked` would have said in more detail.
        """
        if self.datatype.itemsize_bytes is None:
            elements = split_elements(self.data, math.prod(self.shape))
            flat = np.empty(len(elements), dtype=object)
            flat[:] = elements
        else:
            flat = self._flat()
        try:
            array = flat.reshape(self.shape)
        except (ValueError, OverflowError) as exc:
            raise self._misshapen() from exc
        array.flags.writeable = False
        return array

    def _flat(self) -> npt.NDArray[Any]:
        try:
            return np.frombuffer(self.data, self.datatype.numpy_dtype)
        except ValueError as exc:
            raise self._misshapen() from exc

    def _misshapen(self) -> InvalidRequest:
        return InvalidRequest(
            f"tensor {self.name!r}: {self.size_bytes} bytes are not {self.datatype} of shape "
            f"{list(self.shape)}"
        )

    @staticmethod
    def from_numpy(
        name: str, array: npt.NDArray[Any] | np.generic, datatype: Datatype | None = None
    ) -> Tensor:
        """Return `array` as a tensor; a C-contiguous little-endian array is shared, not copied.

        `datatype` is the array's own by default. It must be given for BF16, from uint16 bit patterns
        or from floats, which are rounded to nearest, ties to even; nothing else is ever cast.
        BYTES takes `bytes`, or text, which is encoded as UTF-8; numpy's fixed-width bytes lose
        trailing zeros, which is numpy's doing: use an object array.

        Raises:
            InvalidRequest: the array has no datatype or another than was asked for, or an element is neither bytes
                nor text.
        """
        array = np.asarray(array)
        own = Datatype.of_numpy(array.dtype)
        datatype = datatype or own
        if datatype is Datatype.BF16:
            array = _bf16_bits(name, array, own)
        elif datatype is not own:
            raise InvalidRequest(
                f"tensor {name!r}: an array of {array.dtype} is {own}, not {datatype}; cast it first"
            )
        if datatype is Datatype.BYTES:
            return Tensor(name, datatype, array.shape, join_elements(_as_bytes(name, array)))
        raw = np.ascontiguousarray(array, dtype=datatype.numpy_dtype)
        return Tensor(name, datatype, array.shape, raw.reshape(-1).view(np.uint8).data)


def _bf16_bits(name: str, array: npt.NDArray[Any], own: Datatype) -> npt.NDArray[np.uint16]:
    match own:
        case Datatype.BF16:
            return np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
        case Datatype.UINT16:
            return array
        case Datatype.FP16 | Datatype.FP32:
            return bf16_from_fp32(array)
        case Datatype.FP64:
            return bf16_from_fp64(array)
        case _:
            raise InvalidRequest(
                f"tensor {name!r}: an array of {array.dtype} cannot become BF16; give floats, or "
                "uint16 bit patterns"
            )


def _as_bytes(name: str, array: npt.NDArray[Any]) -> list[bytes]:
    elements: list[bytes] = []
    for index, element in enumerate(array.reshape(-1).tolist()):
        match element:
            case bytes():
                elements.append(element)
            case str():
                try:
                    elements.append(element.encode())
                except UnicodeEncodeError as exc:
                    raise InvalidRequest(
                        f"tensor {name!r}: element {index} is text that UTF-8 cannot encode: {exc}"
                    ) from exc
            case _:
                raise InvalidRequest(
                    f"tensor {name!r}: element {index} is {type(element).__name__}; BYTES takes bytes "
                    "or text"
                )
    return elements
