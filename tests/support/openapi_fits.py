"""Says where a value does not fit a JSON schema of the OpenAPI description, keys that it does not name included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from capamesh.router.http.documents import FILE

DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())


def answers_of(method: str, path: str, status: int) -> dict[str, Any]:
    """Return the contents that a route's answer of a status may have, by media type."""
    responses = DOCUMENT["paths"][path][method.lower()]["responses"]
    found = responses.get(str(status), responses["default"])
    if "$ref" in found:
        found = DOCUMENT["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return dict(found.get("content", {}))


def misfits(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Yield where and why a value does not fit a schema."""
    whole = {**_closed(schema), "components": _CLOSED}
    for error in jsonschema.Draft202012Validator(whole).iter_errors(value):
        yield f"{error.json_path}: {error.message}"


def _closed(part: Any) -> Any:
    """Return a part of a schema in which an object has no keys but those that are described."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(each) for name, each in part.items()}
    return {"additionalProperties": False, **closed} if "properties" in part else closed


_CLOSED = _closed(DOCUMENT["components"])
