"""Checks that a tensor from outside is what it claims, before anything is allocated. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.plain_text import is_plain
from capamesh.protocol.tensors.byte_elements import walk_elements

if TYPE_CHECKING:
    from capamesh.protocol.tensors.tensor import Tensor

MAX_DIM = 2**63 - 1
"""The protocol's shapes are of int64."""
_POINTER_BYTES = 8
"""The bytes that one element of an object array takes."""
_PIECE_BYTES = 2**20
"""The piece of a tensor in which a wrong byte is looked for at a time (measured: in 60 MiB at once it took 140 ms, for the memory)."""
_SHOWN_NAME_CHARS = 80
"""An error repeats at most this much of an overlong name (guess)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one message. A field's unit is in its name."""

    max_message_bytes: int = 256 * 2**20
    """A request or answer with all its tensors: guess, 400 pictures of 3 x 224 x 224 FP32."""
    max_json_bytes: int = 4 * 2**20
    """A request's JSON (guess: a picture of 3 x 224 x 224 as decimal fractions has some 3 MB); what is larger goes as
    binary data, in a quarter of the bytes and a hundredth of the time."""
    max_json_answer_bytes: int = 16 * 2**20
    """An answer's JSON (guess: four times what may be asked with; measured: some 50 ms of work a MiB)."""
    max_tensors: int = 16_384
    """Inputs or outputs of one message: guess, above the 10,000 columns of a wide tabular model."""
    max_dims: int = 32
    """numpy 1 and many runtimes stop at 32."""
    max_texts: int = 2**20
    """Elements of a message's BYTES tensors: guess, a megabyte of pointers; one is read in 0.1 µs by an event loop
    that has other requests to serve."""
    max_name_chars: int = 1024
    """A tensor's name: guess, exported graphs have names of some 200."""


DEFAULT_LIMITS = Limits()


def checked(tensor: Tensor, limits: Limits = DEFAULT_LIMITS, *, is_walked: bool = False) -> Tensor:
    """Return `tensor` if its name, shape and data agree and are within `limits`.

    Fixed-size datatypes: the data is exactly the shape's product times the element size. BOOL: every
    byte is 0 or 1. BYTES: the data is exactly as many elements as the shape says. An empty tensor's
    other dimensions span no more than a message may hold: whoever makes something of that shape, a
    mask or an output, pays for them. `is_walked`: BYTES that `walk_in_steps` has found right. Nothing of the data's size is allocated. InvalidRequest: a
    disagreement; TooLarge: over `limits`.
    """
    name, shape, size_bytes = tensor.name, tensor.shape, tensor.size_bytes
    if not name or len(name) > limits.max_name_chars:
        raise InvalidRequest(
            f"a tensor's name has 1 to {limits.max_name_chars} characters, got {len(name)}: "
            f"{name[:_SHOWN_NAME_CHARS]!r}"
        )
    if not is_plain(name):
        raise InvalidRequest(
            f"a tensor's name has control, bidirectional or invisible characters: {name[:_SHOWN_NAME_CHARS]!a}"
        )
    if len(shape) > limits.max_dims:
        raise InvalidRequest(
            f"tensor {name!r} has {len(shape)} dimensions; the limit is {limits.max_dims}"
        )
    if size_bytes > limits.max_message_bytes:
        raise TooLarge(
            f"tensor {name!r} has {size_bytes} bytes; the limit of a message is "
            f"{limits.max_message_bytes}"
        )
    if shape and not 0 <= min(shape) <= max(shape) <= MAX_DIM:
        raise InvalidRequest(
            f"tensor {name!r} has shape {list(shape)}; every dimension must be from 0 to {MAX_DIM}"
        )
    count = math.prod(shape)
    datatype = tensor.datatype
    itemsize_bytes = datatype.itemsize_bytes
    if itemsize_bytes is None:
        check_texts(name, count, limits)
        if not is_walked:
            walk_elements(name, tensor.data, count, size_bytes=size_bytes)
    elif count * itemsize_bytes != size_bytes:
        raise InvalidRequest(
            f"tensor {name!r}: {datatype} of shape {list(shape)} needs {count * itemsize_bytes} "
            f"bytes, got {size_bytes}"
        )
    if not count:
        _check_empty(name, shape, itemsize_bytes or _POINTER_BYTES, limits.max_message_bytes)
    elif datatype is Datatype.BOOL:
        _check_bools(name, tensor.data)
    return tensor


def check_texts(name: str, count: int, limits: Limits) -> None:
    """Refuse more BYTES elements than may be. TooLarge."""
    if count > limits.max_texts:
        raise TooLarge(
            f"tensor {name!r}: {count} BYTES elements in this message; the limit is {limits.max_texts}: split it"
        )


def _check_empty(name: str, shape: tuple[int, ...], itemsize_bytes: int, limit_bytes: int) -> None:
    """Refuse an empty shape such as [0, 2**62, 2**62]."""
    extent_bytes = math.prod(dim for dim in shape if dim) * itemsize_bytes
    if extent_bytes > limit_bytes:
        raise InvalidRequest(
            f"tensor {name!r} has shape {list(shape)}; its non-zero dimensions span {extent_bytes} "
            f"bytes, the limit is {limit_bytes}"
        )


def _check_bools(name: str, data: bytes | bytearray | memoryview) -> None:
    values = np.frombuffer(data, np.uint8)
    for start in range(0, len(values), _PIECE_BYTES):
        piece = values[start : start + _PIECE_BYTES]
        if piece.max() > 1:
            index = start + int(np.argmax(piece > 1))
            raise InvalidRequest(
                f"tensor {name!r}: BOOL element {index} is the byte {values[index]}; it must be 0 or 1"
            )
