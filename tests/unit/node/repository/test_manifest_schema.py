"""The JSON schema of `capamesh.toml` and its parser accept and refuse the same.

The schema is read by the few keywords that it uses; for each of them the test makes the values at the
limit, and those one over it, and asks both.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from capamesh.node.repository import manifest, rule_tables
from capamesh.node.repository.manifest import parse_manifest
from capamesh.protocol.errors import ModelInvalid

SCHEMA: dict[str, Any] = json.loads(
    resources.files("capamesh.node.repository").joinpath("manifest.schema.json").read_text("utf-8")
)
MODEL: dict[str, Any] = {
    "description": "d",
    "providers": ["CPUExecutionProvider"],
    "allow_cpu_fallback": True,
    "max_queue": 5,
    "instances": 2,
    "pinned": True,
    "idempotent": False,
    "versions": "all",
    "batching": {
        "enabled": True,
        "max_rows": 8,
        "max_delay_us": 0,
        "ragged": [
            {
                "input": "a",
                "axis": 1,
                "pad": 0.5,
                "buckets": [1, 2],
                "mask": "m",
                "outputs": ["y", "z"],
            }
        ],
    },
    "sequence": {
        "idle_s": 1.5,
        "max_bytes": 10,
        "state": [{"input": "h", "output": "n", "axis": 0, "shape": [1, 4]}],
    },
    "warm_up": [{"shapes": {"a": [1, 2]}, "count": 2}, {"files": {"a": "a.npy"}}],
}
PIPELINE: dict[str, Any] = {
    "step": [{"model": "b", "version": 1, "inputs": {"x": "in"}, "outputs": {"y": "out"}}]
}
LATEST: dict[str, Any] = {"versions": {"latest": 2}}
SPECIFIC: dict[str, Any] = {"versions": {"specific": [1, 3]}}

AS_WELL_AS = {"type", "description", "default", "title", "$schema", "$defs", "$ref", "properties"}
AS_WELL_AS |= {"additionalProperties", "required", "items", "propertyNames", "oneOf", "const"}
AS_WELL_AS |= {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
AS_WELL_AS |= {"uniqueItems", "pattern", "minProperties", "maxProperties"}

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}

BOUNDS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


def resolved(schema: Any) -> Any:
    if "$ref" in schema:
        return SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def fits(value: Any, schema: Any) -> bool:
    """Whether `schema` accepts `value`, as far as the keywords that it may use go."""
    schema = resolved(schema)
    if "oneOf" in schema:
        return sum(fits(value, one) for one in schema["oneOf"]) == 1
    if "const" in schema:
        return bool(value == schema["const"])
    kind = schema["type"]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    size = len(value) if isinstance(value, str | list | dict) else value
    low, high = BOUNDS.get(kind, ("minimum", "maximum"))
    return schema.get(low, size) <= size <= schema.get(high, size) and all(insides(value, schema))


def insides(value: Any, schema: Any) -> Iterator[bool]:
    """Yield whether each part of `value` fits."""
    match value:
        case str():
            yield re.search(schema.get("pattern", ""), value) is not None
        case list():
            yield not schema.get("uniqueItems") or len(set(map(repr, value))) == len(value)
            yield from (fits(one, schema["items"]) for one in value)
        case dict():
            yield set(schema.get("required", ())) <= set(value)
            for key, one in value.items():
                if key in schema.get("properties", {}):
                    yield fits(one, schema["properties"][key])
                else:
                    yield bool(schema["additionalProperties"])
                    yield fits(key, schema.get("propertyNames", {"type": "string"}))
                    yield fits(one, schema["additionalProperties"] or {"const": one})
        case _:
            pass


def parses(document: dict[str, Any]) -> bool:
    try:
        parse_manifest(toml(document).encode(), "capamesh.toml", "m")
    except ModelInvalid:
        return False
    return True


def toml(document: dict[str, Any], path: str = "") -> str:
    """Return `document` with a line for each value, as the limit on lines asks."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in document.items():
        where = f"{path}.{json.dumps(key)}".removeprefix(".")
        if isinstance(value, dict):
            tables.append(f"[{where}]\n{toml(value, where)}")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            tables += [f"[[{where}]]\n{toml(one, where)}" for one in value]
        else:
            lines.append(f"{json.dumps(key)} = {inline(value)}\n")
    return "".join(lines + tables)


def inline(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",\n".join(map(inline, value)) + "]"
    return json.dumps(value)


Path = tuple[str | int, ...]


def places(value: Any, schema: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Yield each place of a document with the schema that applies there and its value."""
    schema = resolved(schema)
    if "oneOf" in schema:
        schema = next(resolved(one) for one in schema["oneOf"] if fits(value, one))
    yield path, schema, value
    if isinstance(value, dict):
        for key, one in value.items():
            inner = schema.get("properties", {}).get(key) or schema["additionalProperties"]
            yield from places(one, inner, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from places(one, schema["items"], (*path, index))


def others(schema: Any, value: Any) -> Iterator[Any]:
    """Yield values at the limits of `schema`, over them, and of other types."""
    yield from ([], {}, "", "x", True, 3, 1.5, ["x"], {"unknown": 1}, [1, 1])
    for low in ("minimum", "maximum"):
        if low in schema:
            limit = schema[low]
            yield from (limit, limit - 1, limit + 1)
    if "maxLength" in schema:
        for length in (schema["maxLength"], schema["maxLength"] + 1):
            yield "x" * length
            yield "x" * (length - 4) + ".npy"
            yield "x" * (length - 17) + "ExecutionProvider"
    if isinstance(value, list) and value:
        for count in (schema["maxItems"], schema["maxItems"] + 1):
            if isinstance(value[0], int):
                yield list(range(1, count + 1))
                yield [1] * count
            elif isinstance(value[0], str):
                yield [f"n{index}ExecutionProvider" for index in range(count)]
            elif "input" in value[0]:
                yield [{"input": f"i{n}", "output": f"o{n}"} for n in range(count)]
                yield [{"input": f"i{n}"} for n in range(count)]
            elif "model" in value[0]:
                yield [
                    {**value[0], "inputs": {"x": f"in{n}"}, "outputs": {"y": f"out{n}"}}
                    for n in range(count)
                ]
            else:
                yield [{}] * count
    if isinstance(value, dict):
        yield {**value, "unknown": 1}
        for key in value:
            yield {other: one for other, one in value.items() if other != key}
        if "maxProperties" in schema:
            for count in (schema["maxProperties"], schema["maxProperties"] + 1):
                yield {f"n{index}": f"o{index}" for index in range(count)}
                yield {f"n{index}": [1] for index in range(count)}
            for length in (1, 256, 257):
                yield {"x" * length: "o"}
                yield {"x" * length: [1]}


def documents() -> Iterator[tuple[Path, dict[str, Any]]]:
    for whole in (MODEL, PIPELINE, LATEST, SPECIFIC):
        for path, schema, value in places(whole, SCHEMA):
            for other in others(schema, value):
                if not path:
                    if isinstance(other, dict):
                        yield path, other
                    continue
                document = copy.deepcopy(whole)
                inner: Any = document
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = other
                yield path, document


def contradicts_itself(document: dict[str, Any]) -> bool:
    """Whether only the rules together are wrong, which no schema says: `rule_checks` has its own tests."""
    try:
        parse_manifest(toml(document).encode(), "f", "m")
    except ModelInvalid as exc:
        texts = ("ascending", "the second time", "has axes", "write 1 at axis", "is there twice")
        texts += (
            "both an input and a mask",
            "already; call it",
            "which runs no later",
            "elements, at",
        )
        return any(text in exc.message for text in (*texts, "has 6", "has 7", "has 8", "has 9"))
    return False


def test_examples_are_accepted_by_both() -> None:
    for document in (MODEL, PIPELINE, LATEST, SPECIFIC):
        assert fits(document, SCHEMA)
        assert parses(document)


def test_reader_and_schema_accept_the_same_values_at_every_key_and_limit() -> None:
    found: dict[bool, int] = {True: 0, False: 0}
    for path, document in documents():
        accepted = fits(document, SCHEMA)
        if accepted and contradicts_itself(document):
            continue
        assert parses(document) is accepted, (path, toml(document)[:600])
        found[accepted] += 1
    assert found[True] > 150
    assert found[False] > 500


@pytest.mark.parametrize(
    ("keys", "properties"),
    [
        (manifest.KEYS, SCHEMA["properties"]),
        (rule_tables._BATCHING, SCHEMA["properties"]["batching"]["properties"]),
        (rule_tables._SEQUENCE, SCHEMA["properties"]["sequence"]["properties"]),
        (rule_tables._RAGGED, SCHEMA["$defs"]["ragged"]["properties"]),
        (rule_tables._STATE, SCHEMA["$defs"]["state"]["properties"]),
        (rule_tables._WARM_UP, SCHEMA["$defs"]["warm_up"]["properties"]),
        (rule_tables._STEP, SCHEMA["$defs"]["step"]["properties"]),
    ],
)
def test_schema_has_the_keys_of_the_parser_in_their_order(
    keys: tuple[str, ...], properties: dict[str, Any]
) -> None:
    assert tuple(properties) == keys


def test_schema_uses_no_keyword_that_this_test_does_not_read() -> None:
    def keywords(schema: Any) -> Iterator[str]:
        if not isinstance(schema, dict):
            return
        for key, value in schema.items():
            yield key
            if key in {"properties", "$defs"}:
                for inner in value.values():
                    yield from keywords(inner)
            elif key == "oneOf":
                for inner in value:
                    yield from keywords(inner)
            elif key not in {"default", "const"}:
                yield from keywords(value)

    assert set(keywords(SCHEMA)) <= AS_WELL_AS
