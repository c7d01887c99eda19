"""Reads the grammar that an answer's text must follow, under whatever name a client's server has for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from capamesh.protocol.schema import Mismatch, json_value
from capamesh.router.requests.generation.bodies import StructuredOutputs
from capamesh.router.requests.generation.fields import Values, as_list, table, wrong
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.invalid_parameter import InvalidParameter

MOST_CHOICES: Final = 1024
"""The most texts of which an answer is one (guess)."""
_Guide = dict[str, Any]


def guide_of(
    values: Values, form: object = None, form_name: str = "response_format"
) -> dict[str, _Guide]:
    """Return what a node is asked of a grammar: nothing where there is none. Raises `InvalidParameter`.

    `form` is the value of `form_name` where that is no field of `values`.
    """
    found: dict[str, _Guide] = {}
    given = {**values, form_name: form} if form is not None else values
    readers = {**_READERS, form_name: _form}
    for name, read in readers.items():
        value = given.get(name)
        if value is not None and (guide := read(value, name)):
            found[name] = guide
    outputs = table(values, "structured_outputs") or {}
    for name in taken(outputs, StructuredOutputs, at="structured_outputs."):
        at = f"structured_outputs.{name}"
        if outputs[name] is not None and (guide := _OUTPUTS[name](outputs[name], at)):
            found[at] = guide
    if len(found) > 1:
        name = [*found][1]
        raise InvalidParameter(
            name,
            f"{' and '.join(found)} are given; an answer follows one grammar: leave out the others",
        )
    return {"guide": next(iter(found.values()))} if found else {}


def _form(given: object, at: str) -> _Guide:
    if not isinstance(given, dict):
        raise wrong(at, given, "an object is expected")
    values: Mapping[str, Any] = given
    match values.get("type"):
        case "text":
            return {}
        case "json_object" if values.get("schema") is None:
            return {"json": True}
        case "json_object":
            return {"schema": table(values, "schema", at=f"{at}.")}
        case "json_schema":
            holder, inside = values, at  # as /v1/responses has it
            if values.get("json_schema") is not None:
                holder, inside = (
                    table(values, "json_schema", at=f"{at}.") or {},
                    f"{at}.json_schema",
                )
            schema = table(holder, "schema", at=f"{inside}.")
            if schema is None:
                raise InvalidParameter(f"{inside}.schema", f"{inside}.schema is missing; add it")
            return {"schema": schema}
        case other:
            raise wrong(f"{at}.type", other, "text, json_object or json_schema is expected")


def _schema(given: object, at: str) -> _Guide:
    """Return a schema, which may be given as its text."""
    value = given
    if isinstance(given, str):
        try:
            value = json_value(given.encode())
        except (Mismatch, UnicodeEncodeError) as exc:
            raise InvalidParameter(at, f"{at} is no JSON: {str(exc)[:200]}") from exc
    if not isinstance(value, dict):
        raise wrong(at, given, "a JSON schema is expected: an object, or its text")
    return {"schema": value}


def _regex(given: object, at: str) -> _Guide:
    return {"regex": _text(given, at)}


def _rules(given: object, at: str) -> _Guide:
    return {"grammar": _text(given, at)}


def _text(given: object, at: str) -> str:
    if not isinstance(given, str) or not given:
        raise wrong(at, given, "a text is expected, of one character at least")
    return given


def _choice(given: object, at: str) -> _Guide:
    texts = as_list(given)
    if not 0 < len(texts) <= MOST_CHOICES:
        raise wrong(at, given, f"a list of 1 to {MOST_CHOICES} texts is expected")
    return {"choice": [_text(each, f"{at}[{place}]") for place, each in enumerate(texts)]}


def _any_object(given: object, _: str) -> _Guide:
    return {"json": True} if given else {}


_READERS: Final[Mapping[str, Callable[[object, str], _Guide]]] = {
    "response_format": _form,
    "guided_json": _schema,
    "json_schema": _schema,
    "guided_regex": _regex,
    "regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _rules,
    "grammar": _rules,
    "ebnf": _rules,
}
_OUTPUTS: Final[Mapping[str, Callable[[object, str], _Guide]]] = {
    "json": _schema,
    "json_object": _any_object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _rules,
}
