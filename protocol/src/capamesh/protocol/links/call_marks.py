"""The marks of a call that few calls have: the classes that it wants, and the trace that it belongs to. Pure."""

from __future__ import annotations

import re
from typing import Final, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.links.tensor_descriptions import listed
from capamesh.protocol.msgpack_codec import shown
from capamesh.protocol.tensors import MAX_CLASSES

_TRACE: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", re.ASCII)


def read_classes(raw: object, outputs: tuple[str, ...]) -> tuple[int, ...]:
    """Return how many classes of each of its outputs a call asks for. Raises `InvalidRequest`."""
    counts = listed(raw)
    is_right = all(type(count) is int and 0 <= count <= MAX_CLASSES for count in counts)
    if not is_right or len(counts) != len(outputs):
        raise InvalidRequest(
            f"a call with classes {shown(raw)}: a number from 0 to {MAX_CLASSES} for each output is expected"
        )
    return tuple(cast("list[int]", counts))


def trace_of(trace_id: str, span_id: str) -> str:
    """Return the mark of a request that its caller samples: a `traceparent` of W3C Trace Context."""
    return f"00-{trace_id}-{span_id}-01"


def read_trace(raw: object) -> str:
    """Return that mark; empty where a call has none, or one that is not right, which is no error of the call's."""
    return raw if isinstance(raw, str) and _TRACE.fullmatch(raw) is not None else ""
