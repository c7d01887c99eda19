"""Reads the tensors of Triton's `config.pbtxt`: datatypes, dimensions, and in which shape the model has them. Pure."""

from __future__ import annotations

import math
from typing import Final

from capamesh.node.repository.declared import Reshape
from capamesh.node.repository.limits import MAX_AXIS, MAX_DIM
from capamesh.node.repository.triton.message import Message
from capamesh.protocol.adverts import ImageFormat
from capamesh.protocol.tensors import Datatype

MAX_DIMS: Final = MAX_AXIS + 1
_PICTURE_DIMS: Final = 3
"""Height, width and channels."""

DATATYPES: Final[dict[str, Datatype | None]] = {
    "TYPE_BOOL": Datatype.BOOL,
    "TYPE_UINT8": Datatype.UINT8,
    "TYPE_UINT16": Datatype.UINT16,
    "TYPE_UINT32": Datatype.UINT32,
    "TYPE_UINT64": Datatype.UINT64,
    "TYPE_INT8": Datatype.INT8,
    "TYPE_INT16": Datatype.INT16,
    "TYPE_INT32": Datatype.INT32,
    "TYPE_INT64": Datatype.INT64,
    "TYPE_FP16": Datatype.FP16,
    "TYPE_BF16": Datatype.BF16,
    "TYPE_FP32": Datatype.FP32,
    "TYPE_FP64": Datatype.FP64,
    "TYPE_STRING": Datatype.BYTES,
}
FORMATS: Final = {
    "FORMAT_NONE": ImageFormat.NONE,
    "FORMAT_NHWC": ImageFormat.NHWC,
    "FORMAT_NCHW": ImageFormat.NCHW,
}


def read_datatype(fields: Message) -> Datatype:
    """Return `data_type`. Raises ModelInvalid where it is missing or unknown."""
    datatype = fields.choice("data_type", DATATYPES, None)
    if datatype is None:
        raise fields.refused("data_type", f"is missing; it is one of {', '.join(DATATYPES)}")
    return datatype


def read_format(tensor: Message, dims: tuple[int, ...]) -> ImageFormat:
    """Return the `format` of an input of `dims`."""
    found = tensor.choice("format", FORMATS, ImageFormat.NONE)
    if found is not ImageFormat.NONE and len(dims) != _PICTURE_DIMS:
        raise tensor.refused(
            "format", f"FORMAT_{found} is of pictures, with 3 dims; {list(dims)} has {len(dims)}"
        )
    return found


def read_dims(fields: Message, *, low: int, name: str = "dims") -> tuple[int, ...]:
    """Return the dimensions `name`, each from `low`, and not 0."""
    dims = fields.integers(name, low, MAX_DIM, MAX_DIMS)
    if 0 in dims:
        raise fields.refused(name, f"{list(dims)} has a dimension of 0; -1 is any size")
    return dims


def read_reshape(
    tensor: Message, name: str, dims: tuple[int, ...], *, has_batch_axis: bool
) -> Reshape | None:
    """Return in which other shape the model has the tensor `name`, None where it is the same.

    Raises ModelInvalid where the two shapes have not the same elements whatever -1 stands for.
    """
    fields = tensor.message("reshape")
    if fields is None:
        return None
    shape = read_dims(fields, low=-1, name="shape")
    if _parts(dims) != _parts(shape):
        raise tensor.refused(
            "reshape",
            f"the shape {list(shape)} has not the elements of dims {list(dims)}: there must be as many -1, and "
            "the same product of sizes before, between and after them",
        )
    axis = (-1,) if has_batch_axis else ()
    outer, inner = (*axis, *dims), (*axis, *shape)
    return Reshape(name, outer, inner) if outer != inner else None


def _parts(shape: tuple[int, ...]) -> list[int]:
    """Return the products of the sizes before, between and after the -1: what must be equal in two layouts."""
    parts: list[list[int]] = [[]]
    for dim in shape:
        if dim < 0:
            parts.append([])
        else:
            parts[-1].append(dim)
    return [math.prod(part) for part in parts]
