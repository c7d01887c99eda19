"""Bounds what a grammar may be before the library sees it, which follows references and rules on the stack: too deep, and the process ends. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from capamesh.protocol.errors import InvalidRequest, TooLarge

MAX_PARTS: Final = 2048
"""The most objects and lists of the schemas of an answer (measured: 5,000 of them take three seconds to compile, for it grows as the square)."""
MAX_DEPTH: Final = 500
"""The most that a schema's depth may come to along its references (measured: 2,200 end the process where a stack has 8 MiB, 1,100 do not)."""
MAX_RULES: Final = 500
"""The most lines of a grammar (measured: 3,000 rules end the process, 1,000 do not)."""
MAX_PATTERNS: Final = 8
"""The most patterns that one text may have to match (measured: 10 take 40 ms, 12 half a second, and 32 minutes: the library counts none of it)."""
MAX_MULTIPLE: Final = 10_000
"""The most that the different values of multipleOf may come to as a product (measured: each of 100,000 takes 0.7 seconds and 47 MiB)."""
_NESTED: Final = ("%json", "%lark", "%regex")
_OPERATORS: Final = re.compile(
    r"""
    "(?:\\.|[^"\\])*"             # what is text to the library
    | /(?:\\.|[^/\\])+/
    | <[^<>\s]+>
    | (?:\#|//)[^\n&~]*
    | (?P<operator>&|~(?!\s*\d))  # a number of times is no operator
    """,
    re.VERBOSE | re.DOTALL,
)
_JOINING: Final = ("allOf", "anyOf", "oneOf", "$ref")
_NO_BOUNDS: Final = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "type", "discriminator"),
        *("$schema", "$id", "$comment", "$defs", "definitions", "readOnly", "writeOnly"),
    }
)
"""The keywords that ask nothing of a text."""


def check_schemas(schemas: Iterable[object]) -> None:
    """Raise `TooLarge` if JSON schemas are more, or one is deeper, than the library can take: its references may follow one on the other."""
    parts = 0
    for schema in schemas:
        count, depth, references = _measure(schema)
        _check_patterns(schema)
        parts += count
        if parts > MAX_PARTS:
            raise TooLarge(
                f"the schemas of the answer have more than {MAX_PARTS} objects and lists: make them smaller"
            )
        if depth * (1 + references) > MAX_DEPTH:
            raise TooLarge(
                f"a schema of the answer is {depth} deep and has {references} references, which could come to a depth of"
                f" {depth * (1 + references)}; it may be {MAX_DEPTH}: use fewer of $defs"
            )


def check_schema_text(text: str) -> None:
    """Check a schema's JSON as `check_schemas` does. Raises `TooLarge`; `InvalidRequest`: it is no JSON."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"the json_schema of the answer cannot be used: {str(exc)[:200]}"
        ) from exc
    check_schemas((schema,))


def check_rules(text: str) -> None:
    """Check a grammar of rules, in Lark. Raises `TooLarge`; `InvalidRequest`: it has schemas or grammars within, whose depth is not known."""
    lines = text.count("\n")
    if lines > MAX_RULES:
        raise TooLarge(f"the grammar has {lines} lines; it may have {MAX_RULES}")
    for name in _NESTED:
        if name in text:
            raise InvalidRequest(
                f"the grammar has {name}, which is not taken within another: send a schema, or rules alone"
            )
    for found in _OPERATORS.finditer(text):
        if found["operator"]:
            raise InvalidRequest(
                f"the grammar has {found['operator']}, which is not taken outside of texts: write the rules without"
            )


def _check_patterns(schema: object) -> None:
    """Raise `TooLarge` if a value may have to fit too much at once: the library looks at all that it comes to together."""
    patterns: set[str] = set()
    multiples: set[float] = set()
    is_joined = False
    for part in _parts(schema):
        patterns.update(
            each for key in ("pattern", "format") if isinstance(each := part.get(key), str)
        )
        multiple = part.get("multipleOf")
        if isinstance(multiple, int | float):
            multiples.add(multiple)
        names = part.get("patternProperties")
        if isinstance(names, dict):
            patterns.update(cast("dict[str, Any]", names))
            is_joined = True
        joining = [key for key in _JOINING if key in part]
        members = part.get("allOf")
        if joining and (
            part.keys() - _NO_BOUNDS - {joining[0]}
            or (isinstance(members, list) and len(cast("list[object]", members)) > 1)
        ):
            is_joined = True
    if is_joined and len(patterns) > MAX_PATTERNS:
        raise TooLarge(
            f"a schema of the answer has {len(patterns)} patterns and formats, which allOf, patternProperties or others may join; it may have"
            f" {MAX_PATTERNS}: leave some out"
        )
    product = math.prod(max(each, 1) for each in multiples)
    if product > MAX_MULTIPLE:
        raise TooLarge(
            f"a schema of the answer has values of multipleOf whose product is {product:g}; it may be {MAX_MULTIPLE}"
        )


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            values = cast("dict[str, Any]", part)
            left += values.values()
            yield values
        elif isinstance(part, list):
            left += cast("list[object]", part)


def _measure(schema: object) -> tuple[int, int, int]:
    """Return the objects and lists of a schema, how deep they are in one another, and its references to different places."""
    count = deepest = 0
    references: set[str] = set()
    left: list[tuple[object, int]] = [(schema, 1)]
    while left:
        part, depth = left.pop()
        if isinstance(part, dict):
            values = cast("dict[str, Any]", part)
            reference = values.get("$ref")
            if isinstance(reference, str):
                references.add(reference)
            left += [(each, depth + 1) for each in values.values()]
        elif isinstance(part, list):
            left += [(each, depth + 1) for each in cast("list[object]", part)]
        else:
            continue
        count += 1
        deepest = max(deepest, depth)
    return count, deepest, len(references)
