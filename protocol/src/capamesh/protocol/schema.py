"""Reads decoded values into structs, and says in the reader's words what does not fit. The only importer of msgspec. Pure.

A schema is a frozen struct whose annotations carry the limits. Fields that it does not have are skipped, a field
without a default is required, and nothing is converted but a whole number into a float: a bool is no integer, text
is no bytes.
"""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from capamesh.protocol.plain_text import PLAIN_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PLAIN", "Meta", "Mismatch", "Struct", "read", "shown"]

_Value = TypeVar("_Value")

PLAIN: Final = Meta(pattern=PLAIN_PATTERN)
"""Of text of a stranger: no character that could drive a terminal or turn a line around."""
_PLAIN_SAID: Final = "text without control, bidirectional or invisible characters"

_PLACE: Final = re.compile(r"(?P<reason>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[]+)")
_EXPECTED: Final = "Expected "
_WORDS: Final = {
    "`int`": "an integer",
    "`float`": "a finite number",
    "`str`": "text",
    "`bytes`": "bytes",
    "`bool`": "true or false",
    "`array`": "an array",
    "`object`": "a map",
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60  # characters of a refused value in a log line: a guess


class Mismatch(ValueError):
    """A value does not fit its schema; the text names the field's path, its value and the limit."""


def read(values: Mapping[str, object], schema: type[_Value], *, is_secret: bool = False) -> _Value:
    """Return `values` as a `schema`, a struct or a dataclass.

    Raises `Mismatch` at the first field that does not fit; of what is secret it tells the value's type alone.
    """
    try:
        return msgspec.convert(values, schema, builtin_types=(bytes,))
    except msgspec.ValidationError as exc:
        raise Mismatch(_said(values, str(exc), is_secret=is_secret)) from exc


def shown(value: object) -> str:
    """Return a refused value for a message: short, whatever it is."""
    return _short.repr(value)


def _said(values: Mapping[str, object], complaint: str, *, is_secret: bool) -> str:
    """Return msgspec's complaint with the value that it is of."""
    match = _PLACE.fullmatch(complaint)
    reason, path = (match["reason"], match["path"] or "") if match else (complaint, "")
    if missing := _MISSING.fullmatch(reason):
        return f"{path}.{missing[1]} is missing; add it".removeprefix(".")
    for theirs, ours in _WORDS.items():
        reason = reason.replace(theirs, ours)
    if "regex" in reason:
        reason = _EXPECTED + _PLAIN_SAID
    limit = reason.removeprefix(_EXPECTED).partition(", got ")[0]
    value = _at(values, path)
    if is_secret:
        return f"{path} is {type(value).__name__}; it must be {limit}"
    seen = f"of length {length}" if (length := _length(value, limit)) else shown(value)
    return f"{path} is {seen}; it must be {limit}"


def _length(value: object, limit: str) -> int:
    """Return the length of `value` where `limit` is one of the length of an array or of bytes; else 0."""
    is_of_length = " of length " in limit and isinstance(value, list | bytes)
    return len(cast("list[object] | bytes", value)) if is_of_length else 0


def _at(values: object, path: str) -> object:
    """Return what stands at `path`, None where nothing does."""
    for match in _STEP.finditer(path):
        index, key = match.groups()
        if index is not None and isinstance(values, list):
            values = cast("list[object]", values)[int(index)]
        elif key is not None and isinstance(values, dict):
            values = cast("dict[str, object]", values).get(key)
        else:
            return None
    return values
