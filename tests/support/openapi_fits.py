"""Says where a value does not fit the JSON schema of an OpenAPI description, keys that it does not name included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from capamesh.router.http.documents import FILE

DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def answers_of(method: str, path: str, status: int) -> dict[str, Any]:
    """Return the contents that a route's answer of a status may have, by media type."""
    responses = DOCUMENT["paths"][path][method.lower()]["responses"]
    found = responses.get(str(status), responses["default"])
    return dict(_resolved(found).get("content", {}))


def misfits(value: Any, schema: dict[str, Any], at: str = "body") -> Iterator[str]:
    """Yield where and why a value does not fit a schema."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        options = [list(misfits(value, each, at)) for each in schema["anyOf"]]
        if all(options):
            yield from min(options, key=len)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    kind = schema.get("type")
    if kind is not None:
        is_bool = isinstance(value, bool) and kind in {"integer", "number"}
        if is_bool or not isinstance(value, TYPES[kind]):
            yield f"{at}: {value!r} is no {kind}"
            return
    is_number = isinstance(value, int | float)
    if is_number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: {value!r} is out of range"
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from misfits(each, schema.get("items", {}), f"{at}[{number}]")
    if isinstance(value, dict) and kind == "object":
        yield from _misfits_of_keys(value, schema, at)


def _misfits_of_keys(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{at}: {key} is missing"
    rest = schema.get("additionalProperties", "properties" not in schema)
    for key, each in value.items():
        if key in properties or isinstance(rest, dict):
            yield from misfits(each, properties.get(key, rest), f"{at}.{key}")
        elif not rest:
            yield f"{at}: {key} is not described"


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = DOCUMENT
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)
