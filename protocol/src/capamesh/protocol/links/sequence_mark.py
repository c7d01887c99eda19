"""The mark of a request that belongs to a sequence, and how it is read from a link's metadata. Pure."""

from __future__ import annotations

from typing import NamedTuple, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.links.tensor_descriptions import listed
from capamesh.protocol.msgpack_codec import shown

MAX_SEQUENCE_CHARS = 128
"""The most characters of a sequence's id, as Triton's."""


class SequenceMark(NamedTuple):
    """The sequence of requests that a request belongs to, and whether it is its first or last."""

    id: int | str
    is_start: bool = False
    is_end: bool = False


def read_sequence_mark(raw: object) -> SequenceMark:
    """Return the mark in a call's metadata; raise `InvalidRequest` where it is none."""
    values = listed(raw)
    if len(values) >= 3:
        key, is_start, is_end = values[:3]
        is_key = (type(key) is int and 0 <= key < 2**64) or (
            isinstance(key, str) and 0 < len(key) <= MAX_SEQUENCE_CHARS
        )
        if is_key and isinstance(is_start, bool) and isinstance(is_end, bool):
            return SequenceMark(cast("int | str", key), is_start, is_end)
    raise InvalidRequest(
        f"a sequence of {shown(raw)}: an id (a number below 2**64, or a text of at most"
        f" {MAX_SEQUENCE_CHARS} characters), a start and an end mark are expected"
    )
