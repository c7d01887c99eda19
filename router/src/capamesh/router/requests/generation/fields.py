"""Reads single fields of a JSON object within their bounds; an error names the field, its value and the limit. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.schema import Mismatch, json_value, shown
from capamesh.router.requests.invalid_parameter import InvalidParameter

Values = Mapping[str, Any]
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def object_of(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is. Raises `InvalidRequest`."""
    try:
        value = json_value(body)
    except Mismatch as exc:
        raise InvalidRequest(str(exc)) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"the JSON must be an object, got {shown(value)}")
    return cast("dict[str, Any]", value)


def as_object(value: object) -> dict[str, Any]:
    """Return a value that is an object; any other has no fields."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """Return a value that is a list; any other has no entries."""
    return cast("list[object]", value) if isinstance(value, list) else []


def json_bytes(value: object, param: str) -> bytes:
    """Return a value as JSON in UTF-8. Raises `InvalidParameter` for `param`: it is nested too deep, or holds half a character."""
    try:
        return _ENCODER.encode(value).encode()
    except (RecursionError, ValueError) as exc:  # a UnicodeEncodeError is a ValueError
        raise InvalidParameter(
            param, f"{param} cannot be passed on as JSON: {str(exc)[:200]}"
        ) from exc


def wrong(param: str, value: object, expected: str) -> InvalidParameter:
    """Return the error of a field whose value is not what is expected."""
    return InvalidParameter(param, f"{param} is {shown(value)}; {expected}")


def number(values: Values, name: str, least: float, most: float, *, at: str = "") -> float | None:
    """Return a number from `least` to `most`; None: it is left out. Raises `InvalidParameter`, which names it behind `at`."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) not in {int, float} or not least <= value <= most:
        raise wrong(f"{at}{name}", value, f"a number from {least:g} to {most:g} is expected")
    return float(value)


def whole(values: Values, name: str, least: int, most: int, *, at: str = "") -> int | None:
    """Return a whole number from `least` to `most`; None: it is left out. Raises `InvalidParameter`."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise wrong(f"{at}{name}", value, f"a whole number from {least} to {most} is expected")
    return value


def flag(values: Values, name: str, *, at: str = "") -> bool:
    """Return whether a field is true; it is false where it is left out. Raises `InvalidParameter`."""
    value = values.get(name)
    if value is not None and type(value) is not bool:
        raise wrong(f"{at}{name}", value, "true or false is expected")
    return bool(value)


def text(values: Values, name: str, most: int, *, at: str = "") -> str | None:
    """Return a text of at most `most` characters; None: it is left out. Raises `InvalidParameter`."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise wrong(f"{at}{name}", value, "a text is expected")
    if len(value) > most:
        raise InvalidParameter(
            f"{at}{name}", f"{at}{name} has {len(value)} characters; at most {most} are taken"
        )
    return value


def table(values: Values, name: str, *, at: str = "") -> dict[str, Any] | None:
    """Return an object; None: it is left out. Raises `InvalidParameter`."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not dict:
        raise wrong(f"{at}{name}", value, "an object is expected")
    return cast("dict[str, Any]", value)


def items(values: Values, name: str, most: int, *, at: str = "") -> list[object] | None:
    """Return a list of at most `most` things; None: it is left out. Raises `InvalidParameter`."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not list:
        raise wrong(f"{at}{name}", value, "a list is expected")
    found = cast("list[object]", value)
    if len(found) > most:
        raise InvalidParameter(
            f"{at}{name}", f"{at}{name} has {len(found)} entries; at most {most} are taken"
        )
    return found


def model_of(values: Values) -> str:
    """Return the name of the model. Raises `InvalidParameter`."""
    model = values.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidParameter("model", "model is missing; name one: GET /v1/models lists them")
    return model
