"""A tensor's `data` that is long JSON, turned into raw bytes a piece at a time. Pure.

Cut at a comma, with the brackets that are open there closed before and opened behind it, a list's text is two lists'
texts; each piece is parsed by itself. That all pieces together nest as the shape says is seen by their brackets and
commas, which for any shape are known from the start.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import numpy as np

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip.json_data import flattened_levels, read_elements
from capamesh.protocol.oip.json_steps import TOKENS, TOKENS_CHARS, string_end
from capamesh.protocol.oip.json_text import DECODER

if TYPE_CHECKING:
    from capamesh.protocol.oip.json_steps import LongData
    from capamesh.protocol.steps import Steps
    from capamesh.protocol.tensors import Datatype

PIECE_CHARS: Final = 16 * 1024
"""The length of a piece's text, but for a longer string (measured: 1.5 ms to read `0,0,...` as INT64, all its checks included)."""
_NO_STRUCTURE: Final = bytes(each for each in range(256) if each not in b"[],")


class _Piece(NamedTuple):
    text: str
    """JSON: a list, nested as deep as where it begins."""
    structure: bytes
    """The brackets and commas of the part of `data` that it is."""
    end: int
    """The place at which the next one begins."""
    depth: int
    """The number of lists that are open there."""


def read_long_data(
    name: str, datatype: Datatype, shape: tuple[int, ...], data: LongData
) -> Steps[bytes]:
    """Return the raw bytes of a tensor given as `data`, flat or nested, row-major: what `read_data` returns.

    `shape` has no negative dimension.

    Raises:
        InvalidRequest: Not JSON, another count or nesting, a value that the datatype cannot hold.
    """
    text, at, end = data.text, data.start, data.end
    count = math.prod(shape)
    if 2 * count + 1 > end - at:
        raise InvalidRequest(
            f"tensor {name!r}: shape {list(shape)} has {count} elements, the data is too short for so many: "
            f"{end - at} characters"
        )
    is_nested = len(shape) > 1 and text[at + 1 : at + 80].lstrip(" \t\r\n")[:1] == "["
    wanted = _structure(shape if is_nested else (count,), end - at)
    if wanted is None:
        raise _misshapen(name, shape, 0)
    levels = len(shape) if is_nested else 1
    raw: list[bytes] = []
    elements = seen = depth = 0
    while at < end:
        piece = _next_piece(data, at, depth)
        structure = piece.structure
        if structure != wanted[seen : seen + len(structure)]:
            raise _misshapen(name, shape, elements + _agreeing(structure, wanted[seen:]))
        seen += len(structure)
        flat = flattened_levels(_parsed(piece.text, at, len(text)), levels)
        if flat is None:
            raise _misshapen(name, shape, elements)
        raw.append(read_elements(name, datatype, flat, elements))
        elements += len(flat)
        at, depth = piece.end, piece.depth
        yield
    if seen != len(wanted) or elements != count:
        raise _misshapen(name, shape, elements)
    return b"".join(raw)


def _structure(shape: tuple[int, ...], most_bytes: int) -> bytes | None:
    """Return the brackets and commas of data of that shape; None if they are more than `most_bytes`."""
    inner = b""
    for dim in reversed(shape):
        if dim * (len(inner) + 1) > most_bytes:
            return None
        inner = b"[" + (((inner + b",") * dim)[:-1] if dim else b"") + b"]"
    return inner


def _next_piece(data: LongData, at: int, depth: int) -> _Piece:
    text, end = data.text, data.end
    limit = min(at + PIECE_CHARS, end)
    cut = -1
    if text.find('"', at, limit) < 0:
        cut = end if limit == end else text.rfind(",", at, limit)
    if cut >= 0:
        structure = text[at:cut].encode("utf-8", "replace").translate(None, _NO_STRUCTURE)
    else:
        cut, structure = _cut_between_strings(data, at, min(at + TOKENS_CHARS, end))
    depth_after = depth + structure.count(b"[") - structure.count(b"]")
    whole = f"{'[' * depth}{text[at:cut]}{']' * max(depth_after, 0)}"
    if cut == end:
        return _Piece(whole, structure, end, depth_after)
    return _Piece(whole, structure + b",", cut + 1, depth_after)


def _cut_between_strings(data: LongData, at: int, limit: int) -> tuple[int, bytes]:
    """Return where the last comma before `limit` is that is in no string, and what structure is before it.

    The first one behind it if a string reaches so far; the end of `data` if there is none.
    """
    text, end = data.text, data.end
    marks: list[str] = []
    cut = marks_before = -1
    while True:
        is_cut_off = False
        for token in TOKENS.finditer(text, at, limit):
            match token[0]:
                case ",":
                    cut, marks_before = token.start(), len(marks)
                    marks.append(",")
                case "[" | "]" as mark:
                    marks.append(mark)
                case '"':  # of a string that is longer than this
                    at = data.long_strings.get(token.start()) or string_end(text, token.start())
                    is_cut_off = True
                    break
                case _:
                    pass
        if limit == end and not is_cut_off:
            return end, "".join(marks).encode()
        if cut >= 0:
            return cut, "".join(marks[:marks_before]).encode()
        if not is_cut_off:
            at = limit
        limit = min(at + TOKENS_CHARS, end)


def _parsed(piece: str, at: int, text_chars: int) -> list[object]:
    try:
        return cast("list[object]", DECODER.decode(piece))
    except json.JSONDecodeError as exc:
        raise InvalidRequest(
            f"not JSON: {exc.msg} at character {at + exc.pos} or before of {text_chars}"
        ) from exc
    except ValueError as exc:
        raise InvalidRequest(f"the JSON has a number that is too long: {exc}") from exc


def _misshapen(name: str, shape: tuple[int, ...], element: int) -> InvalidRequest:
    nested = f" flat or in lists of {shape[-1]}" if len(shape) > 1 else ""
    return InvalidRequest(
        f"tensor {name!r}: shape {list(shape)} has {math.prod(shape)} elements; the data does not hold so many{nested}:"
        f" it is nested otherwise, or ends, at element {element}"
    )


def _agreeing(structure: bytes, wanted: bytes) -> int:
    """Return how many elements begin before the first difference of the two."""
    size = min(len(structure), len(wanted))
    same = np.frombuffer(structure, np.uint8, size) == np.frombuffer(wanted, np.uint8, size)
    first = size if same.all() else int(np.argmin(same))
    return structure[:first].count(b",")
