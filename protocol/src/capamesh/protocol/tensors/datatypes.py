"""The element types of tensors, by the Open Inference Protocol's names. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np

from capamesh.protocol.errors import InvalidRequest


class Datatype(StrEnum):
    """An element type: its name on the wire, its size and the numpy dtype that views its bytes.

    `numpy_dtype` is always little-endian, as the wire is. numpy has no bfloat16, so BF16 is viewed
    as the uint16 bit patterns; BYTES is an object array of `bytes`.
    """

    itemsize_bytes: int | None
    """Bytes of one element; None for BYTES, whose elements carry their own length."""
    numpy_dtype: np.dtype[Any]

    BOOL = "BOOL", 1, "?"
    UINT8 = "UINT8", 1, "u1"
    UINT16 = "UINT16", 2, "<u2"
    UINT32 = "UINT32", 4, "<u4"
    UINT64 = "UINT64", 8, "<u8"
    INT8 = "INT8", 1, "i1"
    INT16 = "INT16", 2, "<i2"
    INT32 = "INT32", 4, "<i4"
    INT64 = "INT64", 8, "<i8"
    FP16 = "FP16", 2, "<f2"
    BF16 = "BF16", 2, "<u2"
    FP32 = "FP32", 4, "<f4"
    FP64 = "FP64", 8, "<f8"
    BYTES = "BYTES", None, "O"

    def __new__(cls, name: str, itemsize_bytes: int | None, numpy_code: str) -> Datatype:
        """Make a member that is its own name and carries its size and dtype."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.itemsize_bytes = itemsize_bytes
        member.numpy_dtype = np.dtype(numpy_code)
        return member

    @staticmethod
    def of_name(name: str) -> Datatype | None:
        """Return the datatype called `name` on the wire, or None; quicker than `Datatype(name)`."""
        return _BY_NAME.get(name)

    @staticmethod
    def of_numpy(dtype: np.dtype[Any] | type[np.generic]) -> Datatype:
        """Return the datatype of arrays of `dtype`, whatever its byte order.

        Objects, bytes and text are BYTES; the `bfloat16` that ml_dtypes adds to numpy is BF16.

        Raises:
            InvalidRequest: no datatype stands for the dtype, as for complex64.
        """
        dtype = np.dtype(dtype)
        native = _BY_DTYPE.get(dtype)
        if native is not None:
            return native
        if dtype.kind in "OSU":
            return Datatype.BYTES
        found = _BY_NUMPY_NAME.get(dtype.name)
        if found is None:
            known = ", ".join(_BY_NUMPY_NAME)
            raise InvalidRequest(
                f"numpy dtype {dtype.name} has no datatype in the protocol; cast to one of {known}"
            )
        return found


_BY_NAME = {datatype.value: datatype for datatype in Datatype}

_BY_DTYPE = {
    datatype.numpy_dtype: datatype for datatype in Datatype if datatype is not Datatype.BF16
}
"""The usual case, by a cheap key: a dtype's name is built anew at every reading."""

_BY_NUMPY_NAME = {
    dtype.name: datatype for dtype, datatype in _BY_DTYPE.items() if datatype is not Datatype.BYTES
} | {"bfloat16": Datatype.BF16}
