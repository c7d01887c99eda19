"""The layout of BYTES tensors: each element is a 4-byte little-endian length and its bytes. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from capamesh.protocol.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = 4
"""Bytes of an element's length prefix (Triton's binary tensor data extension)."""


def join_elements(elements: Sequence[bytes]) -> bytes:
    """Return `elements` in their wire layout. InvalidRequest: an element of 4 GiB or more."""
    pack = _LENGTH.pack
    parts: list[bytes] = []
    try:
        for element in elements:
            parts += (pack(len(element)), element)
    except struct.error as exc:
        index = len(parts) // 2
        raise InvalidRequest(
            f"BYTES element {index} has {len(elements[index])} bytes; the limit is {2**32 - 1}"
        ) from exc
    return b"".join(parts)


def walk_elements(
    name: str, data: bytes | bytearray | memoryview, count: int, *, size_bytes: int
) -> None:
    """Check that `data`, of `size_bytes`, holds exactly `count` elements. Allocates nothing.

    InvalidRequest: an element that reaches past the end, or bytes left over.
    """
    if count * LENGTH_BYTES > size_bytes:
        raise InvalidRequest(
            f"tensor {name!r}: {count} BYTES elements need at least {count * LENGTH_BYTES} bytes "
            f"for their lengths, got {size_bytes}"
        )
    unpack_from = _LENGTH.unpack_from
    offset = 0
    for index in range(count):
        if offset + LENGTH_BYTES > size_bytes:
            raise InvalidRequest(
                f"tensor {name!r}: the data of {size_bytes} bytes ends in the length of BYTES element "
                f"{index} of {count}, at byte {offset}"
            )
        (length,) = unpack_from(data, offset)
        offset += LENGTH_BYTES + length
        if offset > size_bytes:
            raise InvalidRequest(
                f"tensor {name!r}: BYTES element {index} of {count} claims {length} bytes and would "
                f"end at byte {offset} of {size_bytes}"
            )
    if offset != size_bytes:
        raise InvalidRequest(
            f"tensor {name!r}: {size_bytes - offset} bytes are left after its {count} BYTES elements "
            f"({size_bytes} bytes in all)"
        )


def split_elements(data: bytes | bytearray | memoryview, count: int) -> list[bytes]:
    """Return the `count` elements of checked `data`, copied out.

    InvalidRequest: `data` is not exactly `count` elements.
    """
    view = memoryview(data).cast("B") if isinstance(data, memoryview) else memoryview(data)
    walk_elements("", view, count, size_bytes=len(view))
    unpack_from = _LENGTH.unpack_from
    elements: list[bytes] = []
    offset = 0
    for _ in range(count):
        (length,) = unpack_from(view, offset)
        start = offset + LENGTH_BYTES
        offset = start + length
        elements.append(bytes(view[start:offset]))
    return elements
