"""The element types of tensors, by the Open Inference Protocol's names. Pure.

The module reads numpy in when something asks for a numpy dtype: who only announces what models take, and never holds a
tensor, does without its 10 MB.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np


class Datatype(StrEnum):
    """An element type: its name on the wire, its size and the numpy dtype that views its bytes."""

    itemsize_bytes: int | None
    """Bytes of one element; None for BYTES, whose elements carry their own length."""
    numpy_code: str
    """The text that numpy makes its dtype of."""

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
        """Make a member that is its own name and carries its size and the code of its dtype."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.itemsize_bytes = itemsize_bytes
        member.numpy_code = numpy_code
        return member

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype that views its bytes, always little-endian, as the wire is.

        numpy has no bfloat16, so BF16 is viewed as the uint16 bit patterns; BYTES is an object array of `bytes`.
        """
        import numpy as np  # noqa: PLC0415 - see the module

        return np.dtype(self.numpy_code)

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
        native = _by_dtype().get(dtype)
        if native is not None:
            return native
        import numpy as np  # noqa: PLC0415 - see the module

        dtype = np.dtype(dtype)
        if dtype.kind in "OSU":
            return Datatype.BYTES
        found = _by_numpy_name().get(dtype.name)
        if found is None:
            known = ", ".join(_by_numpy_name())
            raise InvalidRequest(
                f"numpy dtype {dtype.name} has no datatype in the protocol; cast to one of {known}"
            )
        return found


# Names of their own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured).
BYTES: Final = Datatype.BYTES
BF16: Final = Datatype.BF16

_BY_NAME = {datatype.value: datatype for datatype in Datatype}


@cache
def _by_dtype() -> dict[np.dtype[Any] | type[np.generic], Datatype]:
    """Return the usual case by a cheap key: a dtype's name is built anew at every reading."""
    return {
        datatype.numpy_dtype: datatype for datatype in Datatype if datatype is not Datatype.BF16
    }


@cache
def _by_numpy_name() -> dict[str, Datatype]:
    names = {
        datatype.numpy_dtype.name: datatype
        for datatype in Datatype
        if datatype not in {Datatype.BF16, Datatype.BYTES}
    }
    return names | {"bfloat16": Datatype.BF16}
