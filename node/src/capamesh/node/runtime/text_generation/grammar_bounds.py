"""Bounds what a grammar may be before the library sees it, which follows references and rules on the stack: too deep, and the process ends. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, cast

from capamesh.protocol.errors import InvalidRequest, TooLarge

MAX_PARTS: Final = 2048
"""The most objects and lists of the schemas of an answer (measured: 5,000 of them take three seconds to compile, for it grows as the square)."""
MAX_DEPTH: Final = 500
"""The most that a schema's depth may come to along its references (measured: 2,200 end the process where a stack has 8 MiB, 1,100 do not)."""
MAX_RULES: Final = 500
"""The most lines of a grammar (measured: 3,000 rules end the process, 1,000 do not)."""
_NESTED: Final = ("%json", "%lark")


def check_schemas(schemas: Iterable[object]) -> None:
    """Raise `TooLarge` if JSON schemas are more, or one is deeper, than the library can take: its references may follow one on the other."""
    parts = 0
    for schema in schemas:
        count, depth, references = _measure(schema)
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
