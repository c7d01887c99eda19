"""Inputs made up from what a model declares, to try it or to time it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import TooLarge
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Tensor, TensorSpec, join_elements

DYNAMIC_DIMS: Final = (1, 8, 16, 64, 224)
"""Sizes to try for open dimensions other than the rows, smallest first (guess: any length; sequences that
convolutions or pooling shorten; pictures, whose usual size is 224)."""
_TEXT: Final = join_elements([b"1"])
"""Every text, as on the wire: models that read numbers from texts run with it, and so do those that read words."""


def synthetic_inputs(
    specs: Sequence[TensorSpec], *, rows: int, open_dim: int = 1, seed: int = 0
) -> tuple[Tensor, ...]:
    """Return one tensor for each of `specs`, in their order; the same arguments give the same tensors.

    Floats are standard normal, integers 0, booleans false, texts "1". An open first dimension becomes
    `rows`, every other open one `open_dim`; what is declared `()` becomes a scalar. The first rows of a
    large batch are the rows of a smaller one. TooLarge: a tensor that no message may carry.
    """
    return tuple(
        _generated(spec, generated_shape(spec, rows=rows, open_dim=open_dim), (seed, index))
        for index, spec in enumerate(specs)
    )


def generated_shape(spec: TensorSpec, *, rows: int, open_dim: int = 1) -> tuple[int, ...]:
    """Return the shape of `spec` with its open first dimension as `rows`, its other ones as `open_dim`."""
    return tuple(
        dim if dim >= 0 else (rows if axis == 0 else open_dim)
        for axis, dim in enumerate(spec.shape)
    )


def _generated(spec: TensorSpec, shape: tuple[int, ...], seed: tuple[int, int]) -> Tensor:
    size_bytes = math.prod(shape) * (spec.datatype.itemsize_bytes or len(_TEXT))
    if size_bytes > DEFAULT_LIMITS.max_message_bytes:
        raise TooLarge(
            f"input {spec.name!r} of shape {list(shape)} has {size_bytes} bytes; the limit of a message "
            f"is {DEFAULT_LIMITS.max_message_bytes}: take fewer rows"
        )
    match spec.datatype:
        case Datatype.FP16 | Datatype.BF16 | Datatype.FP32 | Datatype.FP64:
            return Tensor.from_numpy(spec.name, _normal(spec, shape, seed), spec.datatype)
        case Datatype.BYTES:
            return Tensor(spec.name, spec.datatype, shape, _TEXT * math.prod(shape))
        case _:
            # A false and a 0 are both zero bytes.
            return Tensor(spec.name, spec.datatype, shape, bytes(size_bytes))


def _normal(spec: TensorSpec, shape: tuple[int, ...], seed: tuple[int, int]) -> npt.NDArray[Any]:
    # Each input has a stream of its own, else the rows of one would shift the values of the next.
    random = np.random.default_rng(seed)
    if spec.datatype is Datatype.FP64:
        return random.standard_normal(shape)
    values = random.standard_normal(shape, dtype=np.float32)
    return values.astype(np.float16) if spec.datatype is Datatype.FP16 else values
