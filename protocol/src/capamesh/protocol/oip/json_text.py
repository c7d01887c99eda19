"""JSON text, strictly: what this package accepts as JSON and how it writes it. Pure."""

from __future__ import annotations

import json
import reprlib
from json.encoder import encode_basestring_ascii
from typing import Final, NoReturn, cast

from capamesh.protocol.errors import InvalidRequest

quoted: Final = encode_basestring_ascii
"""Returns a string as JSON text, ASCII only."""


def _refuse_constant(literal: str) -> NoReturn:
    raise InvalidRequest(
        f"the JSON has the literal {literal}, which is not JSON; send that tensor as binary data"
    )


DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
"""Refuses what JSON does not have; for texts that are not long: it holds the interpreter until it has read all."""
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

_SHOWN_CHARS = 200
"""An error repeats at most this much of a value (guess)."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Return `value` for an error message: short, however long or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def is_unicode(text: str) -> bool:
    """Tell whether `text` can be UTF-8: JSON's escapes can also write half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_object(text: bytes | memoryview) -> dict[str, object]:
    """Return the JSON object that `text` is, in UTF-8. Of a repeated key, the last value counts.

    InvalidRequest: not UTF-8, not JSON, NaN or Infinity, nested too deeply, a number of thousands of
    digits, or something else than an object.
    """
    try:
        value: object = DECODER.decode(str(text, "utf-8"))
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"the JSON is not UTF-8: {exc.reason} at byte {exc.start} of {len(text)}"
        ) from exc
    except RecursionError as exc:
        raise InvalidRequest("the JSON is nested too deeply; flatten it") from exc
    except json.JSONDecodeError as exc:
        raise InvalidRequest(
            f"not JSON: {exc.msg} at character {exc.pos} of {len(exc.doc)}"
        ) from exc
    except ValueError as exc:
        raise InvalidRequest(f"the JSON has a number that is too long: {exc}") from exc
    if type(value) is not dict:
        raise InvalidRequest(f"the JSON must be an object, got {shown(value)}")
    return cast("dict[str, object]", value)


def json_text(value: object) -> str:
    """Return `value` as compact strict JSON. InvalidRequest: NaN or an infinity in it."""
    try:
        return _ENCODER.encode(value)
    except ValueError as exc:
        raise InvalidRequest(f"JSON cannot hold {shown(value)}: {exc}") from exc
