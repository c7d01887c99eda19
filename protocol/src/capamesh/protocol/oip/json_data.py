"""Tensors as JSON numbers, booleans and strings, in both directions. Pure.

Reading is strict: a value that the datatype cannot hold exactly (300 for UINT8, 1.5 for INT32) or
that is of another kind is refused by name, index and value; decimal fractions are rounded to the
nearest float. All work on fixed-size datatypes runs in C, element by element only to find a culprit; a few elements
are spared numpy, whose calls take longer than they do.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import numpy as np

from capamesh.protocol.errors import InvalidRequest, NotInJson, TooLarge
from capamesh.protocol.oip.json_text import json_text, quoted, shown
from capamesh.protocol.oip.number_text import numbers_of, text_of_numbers
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import (
    Datatype,
    bf16_from_fp64,
    fp32_from_bf16,
    join_elements,
    take_elements,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from capamesh.protocol.steps import Steps
    from capamesh.protocol.tensors import Tensor

    _Check: TypeAlias = Callable[[object], bool]

_CHUNK_ELEMENTS = 4096
"""Elements turned into text in a step (measured: 2 ms of FP32)."""
_CHUNK_BYTES = 128 * 1024
"""The bytes of BYTES elements in a chunk (measured: 0.5 ms of what has to be escaped)."""

_FEW = 64
"""Elements that are read and looked at without numpy (measured: 8 numbers take a fifth of the time, 64 half of it)."""
_FORMS = {Datatype.FP16: "e", Datatype.FP32: "f", Datatype.FP64: "d"}
"""The letters of `struct` for floats."""

_FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The values of the texts of non-finite numbers, as protobuf's JSON writes them, too."""
_KINDS: dict[Datatype, tuple[frozenset[type], str]] = {
    datatype: (frozenset({int}), "an integer") for datatype in Datatype
} | {
    **{datatype: (frozenset({int, float}), "a number") for datatype in _FLOATS},
    Datatype.BOOL: (frozenset({bool, int}), "true, false, 0 or 1"),
    Datatype.BYTES: (frozenset({str}), "a string"),
}


def read_data(name: str, datatype: Datatype, shape: tuple[int, ...], data: object) -> bytes:
    """Return the raw bytes of a tensor given as JSON `data`, flat or nested, row-major.

    `shape` has no negative dimension. A tensor of shape [] may also be the bare value. The count of
    elements is compared with `shape` before anything is allocated.
    InvalidRequest: another count or nesting, a value the datatype cannot hold.
    """
    given = data
    flat = cast("list[object]", given) if type(given) is list else []
    if len(flat) != math.prod(shape) or not flat or type(flat[0]) is list:
        flat = _flattened(name, shape, data)
    return read_elements(name, datatype, flat)


def read_elements(name: str, datatype: Datatype, flat: list[object], first: int = 0) -> bytes:
    """Return the raw bytes of elements, the one at `first` of their tensor and those after it.

    InvalidRequest: a value that the datatype cannot hold.
    """
    kinds, wanted = _KINDS[datatype]
    if not kinds.issuperset(map(type, flat)):
        if datatype in _FLOATS and {int, float, str}.issuperset(map(type, flat)):
            return _read_with_non_finite(name, datatype, flat, first)
        _refuse_first(name, datatype, flat, first, lambda value: type(value) in kinds, wanted)
    if datatype is Datatype.BYTES:
        return _read_strings(name, cast("list[str]", flat), first)
    if datatype in _FLOATS:
        return _read_floats(name, datatype, flat, first)
    return _read_integers(name, datatype, flat, first)


def flattened_levels(data: list[object], levels: int) -> list[object] | None:
    """Return the elements of lists nested `levels` deep; None if some are not."""
    for _ in range(levels - 1):
        if not {list}.issuperset(map(type, data)):
            return None
        data = list(chain.from_iterable(cast("list[list[object]]", data)))
    return data


def _flattened(name: str, shape: tuple[int, ...], data: object) -> list[object]:
    if type(data) is not list:
        if shape:
            raise InvalidRequest(f"tensor {name!r}: data must be a list, got {shown(data)}")
        data = [data]
    level = cast("list[object]", data)
    if len(shape) > 1 and level and type(level[0]) is list:
        for depth, dim in enumerate(shape[:-1]):
            _check_level(name, shape, depth, level, dim)
            level = list(chain.from_iterable(cast("list[list[object]]", level)))
    count = math.prod(shape)
    if len(level) != count:
        raise InvalidRequest(
            f"tensor {name!r}: shape {list(shape)} has {count} elements, the data has {len(level)}"
        )
    return level


def _check_level(
    name: str, shape: tuple[int, ...], depth: int, level: list[object], dim: int
) -> None:
    """Refuse nested data that is not, at `depth`, lists of the next dimension's length."""
    width = shape[depth + 1]
    if (
        len(level) == dim
        and {list}.issuperset(map(type, level))
        and {width}.issuperset(map(len, cast("list[list[object]]", level)))
    ):
        return
    if depth == 0 and len(level) != dim:
        raise InvalidRequest(
            f"tensor {name!r}: shape {list(shape)} needs {dim} lists at the top, the data has "
            f"{len(level)}"
        )
    for index, row in enumerate(level):
        if type(row) is not list:
            raise InvalidRequest(
                f"tensor {name!r}: nested data of shape {list(shape)} must be lists at depth "
                f"{depth + 1}, item {index} is {shown(row)}"
            )
        length = len(cast("list[object]", row))
        if length != width:
            raise InvalidRequest(
                f"tensor {name!r}: shape {list(shape)} needs lists of {width} at depth {depth + 1}, "
                f"item {index} has {length}"
            )


def _refuse_first(
    name: str,
    datatype: Datatype,
    flat: list[object],
    first: int,
    is_right: _Check,
    wanted: str,
) -> NoReturn:
    index = next(index for index, value in enumerate(flat) if not is_right(value))
    raise InvalidRequest(
        f"tensor {name!r}: {datatype} element {first + index} must be {wanted}, got {shown(flat[index])}"
    )


def _read_strings(name: str, flat: list[str], first: int) -> bytes:
    try:
        return join_elements([text.encode() for text in flat])
    except UnicodeEncodeError as exc:
        index = next(index for index, text in enumerate(flat) if text is exc.object)
        raise InvalidRequest(
            f"tensor {name!r}: BYTES element {first + index} has half of a surrogate pair at character "
            f"{exc.start}: {shown(exc.object)}; send it as binary data"
        ) from exc


def _read_integers(name: str, datatype: Datatype, flat: list[object], first: int) -> bytes:
    if datatype is Datatype.BOOL:
        low, high = 0, 1
        is_inside = not flat or {0, 1}.issuperset(flat)
    else:
        info = np.iinfo(datatype.numpy_dtype)
        low, high = int(info.min), int(info.max)
        is_inside = True
    if is_inside:
        try:
            return np.array(flat, dtype=datatype.numpy_dtype).tobytes()
        except OverflowError:
            pass  # the exact element is named below
    _refuse_first(
        name,
        datatype,
        flat,
        first,
        lambda value: low <= cast("int", value) <= high,
        f"from {low} to {high}",
    )


def _read_floats(name: str, datatype: Datatype, flat: list[object], first: int) -> bytes:
    if len(flat) <= _FEW and datatype in _FORMS:
        numbers = cast("list[float]", flat)
        try:
            if math.isfinite(sum(numbers)):  # else one may be infinite, as 1e999 is
                return struct.pack(f"<{len(numbers)}{_FORMS[datatype]}", *numbers)
        except (OverflowError, struct.error):
            pass  # the exact element is named below
    try:
        with np.errstate(over="ignore", under="ignore"):
            if datatype is Datatype.BF16:
                raw: npt.NDArray[Any] = bf16_from_fp64(np.array(flat, dtype=np.float64))
            else:
                raw = np.array(flat, dtype=datatype.numpy_dtype)
    except OverflowError:
        _refuse_first(name, datatype, flat, first, _fits_fp64, f"within the range of {datatype}")
    is_finite = np.isfinite(raw if datatype is not Datatype.BF16 else fp32_from_bf16(raw))
    if not is_finite.all():
        index = int(np.argmin(is_finite))
        raise InvalidRequest(
            f"tensor {name!r}: {datatype} element {first + index} must be within the range of {datatype}, "
            f"got {shown(flat[index])}"
        )
    return raw.astype(datatype.numpy_dtype, copy=False).tobytes()


def _read_with_non_finite(name: str, datatype: Datatype, flat: list[object], first: int) -> bytes:
    """Return floats of which some are the texts that stand for what JSON has no number for."""
    finite = [0.0 if value in _NON_FINITE else value for value in flat]
    kinds, wanted = _KINDS[datatype]
    if not kinds.issuperset(map(type, finite)):
        _refuse_first(name, datatype, finite, first, lambda value: type(value) in kinds, wanted)
    raw = np.frombuffer(_read_floats(name, datatype, finite, first), datatype.numpy_dtype).copy()
    for text, number in _NON_FINITE.items():
        there = [index for index, value in enumerate(flat) if value == text]
        raw[there] = bf16_from_fp64(np.array(number)) if datatype is Datatype.BF16 else number
    return raw.tobytes()


def _fits_fp64(value: object) -> bool:
    try:
        float(cast("int | float", value))
    except OverflowError:
        return False
    return True


def write_data(tensor: Tensor, room_bytes: int, *, is_non_finite_text: bool = False) -> str:
    """Return the elements of a tensor of any shape and datatype as `write_in_steps` does, as one text, at once."""
    return b"".join(
        run_through(write_in_steps(tensor, room_bytes, is_non_finite_text=is_non_finite_text))
    ).decode()


def write_in_steps(
    tensor: Tensor, room_bytes: int, *, is_non_finite_text: bool = False
) -> Steps[list[bytes]]:
    """Return the elements of checked `tensor`, of any shape, as a flat JSON array, row-major, ASCII in pieces.

    Every number reads back to the very same element: integers exactly, FP64 with the digits it needs,
    narrower floats as the shortest text for their own width (0.1, not 0.10000000149011612).

    NaN and infinities are an error, not null: JSON has no such numbers, null would pass an infinity off as nothing,
    and typed clients fail on strings in an array of numbers at a place far from the cause. The error says where it
    is and what to ask for: binary data, or `is_non_finite_text`, which makes them "NaN", "Infinity" and "-Infinity".

    NotInJson: NaN, an infinity, or BYTES that are not UTF-8. TooLarge: more text than `room_bytes`, refused before
    it is built where the count alone tells.
    """
    count = math.prod(tensor.shape)
    if 2 * count > room_bytes:
        raise _too_much_text(tensor.name, room_bytes)
    chunks = [b"["]
    room = room_bytes - 2
    for text in _texts(tensor, count, is_non_finite_text=is_non_finite_text):
        chunks.append(text)
        room -= len(text)
        if room < 0:
            raise _too_much_text(tensor.name, room_bytes)
        if len(text) > _CHUNK_ELEMENTS:
            yield
    chunks.append(b"]")
    return chunks


def _texts(tensor: Tensor, count: int, *, is_non_finite_text: bool) -> Iterable[bytes]:
    """Return the elements' texts, `_CHUNK_ELEMENTS` a time or a part of a long one, with the commas between them."""
    if tensor.datatype is Datatype.BYTES:
        return _texts_of_strings(tensor, count)
    array = numbers_of(tensor)
    if count <= _CHUNK_ELEMENTS:
        return (text_of_numbers(tensor, array, 0, is_non_finite_text=is_non_finite_text),)
    return _texts_of_numbers(tensor, array, is_non_finite_text=is_non_finite_text)


def _texts_of_strings(tensor: Tensor, count: int) -> Iterator[bytes]:
    offset = start = 0
    while start < count:
        elements, offset = take_elements(
            tensor.data, offset, min(_CHUNK_ELEMENTS, count - start), _CHUNK_BYTES
        )
        if start:
            yield b","
        yield from _quoted_in_pieces(_strings(tensor.name, elements, start))
        start += len(elements)


def _texts_of_numbers(
    tensor: Tensor, array: npt.NDArray[Any], *, is_non_finite_text: bool
) -> Iterator[bytes]:
    for start in range(0, len(array), _CHUNK_ELEMENTS):
        if start:
            yield b","
        chunk = array[start : start + _CHUNK_ELEMENTS]
        yield text_of_numbers(tensor, chunk, start, is_non_finite_text=is_non_finite_text)


def _too_much_text(name: str, room_bytes: int) -> TooLarge:
    return TooLarge(
        f"tensor {name!r} takes more than the {room_bytes} bytes that are left of the limit on JSON; "
        "use binary data"
    )


def _quoted_in_pieces(texts: list[str]) -> Iterator[bytes]:
    """Yield the JSON of `texts`, and of a long one only a part a time."""
    if sum(map(len, texts)) <= 2 * _CHUNK_BYTES:
        yield json_text(texts)[1:-1].encode("ascii")
        return
    mark = '"'
    for text in texts:
        for start in range(0, len(text) or 1, _CHUNK_BYTES):
            yield f"{mark}{quoted(text[start : start + _CHUNK_BYTES])[1:-1]}".encode("ascii")
            mark = ""
        mark = '","'
    yield b'"'


def _strings(name: str, elements: list[bytes], start: int) -> list[str]:
    texts: list[str] = []
    try:
        for element in elements:
            texts.append(element.decode())  # noqa: PERF401 - how far it came is told below
    except UnicodeDecodeError as exc:
        raise NotInJson(
            f"tensor {name!r}: BYTES element {start + len(texts)} is not UTF-8 ({exc.reason} at byte "
            f"{exc.start}), which JSON cannot hold; ask for binary data"
        ) from exc
    return texts
