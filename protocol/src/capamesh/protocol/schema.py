"""Reads decoded values into structs, and says what does not fit. The only importer of msgspec. Pure.

A schema is a frozen struct whose annotations carry the limits. A field without a default is required, and nothing is
converted but a whole number into a float: a bool is no integer, text is no bytes. A `Struct` skips fields that it does
not have, for a newer peer may send them; a `Table` refuses them, for a person meant another key.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from datetime import date, datetime, time
from functools import cache
from itertools import repeat
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta, Raw, Struct, field, inspect

from capamesh.protocol.plain_text import PLAIN_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "DISTINCT",
    "PLAIN",
    "Meta",
    "Mismatch",
    "Raw",
    "Struct",
    "Table",
    "encode_json",
    "field",
    "given",
    "json_reader",
    "json_value",
    "meaning",
    "msgpack_reader",
    "plain_values",
    "quoted",
    "read",
    "shown",
]

_Value = TypeVar("_Value")

PLAIN: Final = Meta(pattern=PLAIN_PATTERN)
"""The mark of a stranger's text: it has no character that could drive a terminal or turn a line around."""

_SHOWN_CHARS: Final = 80  # guess: enough to find the value again
_SHOWN_VALUES: Final = 8  # guess: a shape, or a short list of names
_SHOWN_BITS: Final = 100  # guess; Python refuses to print a number of more than 4,300 digits

_BELOW: Final = " - at `"
"""Stands in msgspec's complaints of what is inside a value, before its path."""
_STEP: Final = re.compile(r"\.[A-Za-z0-9_]+|\[[0-9]+\]")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Mismatch(ValueError):
    """A value does not fit its schema; the text names the field's path, its value and the limit."""


DISTINCT: Final = Meta(extra_json_schema={"uniqueItems": True})
"""The mark of a list in a `Table` whose entries are all different."""


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a file that people write: a key that it does not have is refused."""

    def __post_init__(self) -> None:
        """Check what annotations cannot say; the ValueError of an overriding method begins with the key."""
        for name in _distinct_fields(type(self)):
            for value, count in Counter(
                cast("Sequence[object]", getattr(self, name) or ())
            ).items():
                if count > 1:
                    raise ValueError(f"{name} has {shown(value)} {count} times; name it once")


def meaning(words: str) -> Meta:
    """Return a mark of a type: `words` say what is expected where its limits alone would say it worse."""
    return Meta(extra={"meaning": words})


def read(values: object, schema: type[_Value], *, is_secret: bool = False) -> _Value:
    """Return `values` as a `schema`, a struct or a dataclass, or a dict or tuple of them.

    Raises `Mismatch` at the first field that does not fit; of what is secret it tells the value's type alone.
    """
    try:
        return msgspec.convert(values, schema, builtin_types=(bytes,))
    except msgspec.ValidationError as exc:
        raise Mismatch(_said(values, schema, str(exc), is_secret=is_secret)) from exc


def msgpack_reader(schema: type[_Value]) -> Callable[[bytes], _Value]:
    """Return a function that reads one msgpack value as a `schema`, in one call of C.

    Lists grow with what is there, not with what a header claims. The function raises `ValueError`, whose text names the
    field that does not fit, or `RecursionError` for what is nested too deep.
    """
    return msgspec.msgpack.Decoder(schema).decode


def json_value(text: bytes) -> object:
    """Return the value that `text`, in UTF-8, is as JSON, in one call of C: 3 to 5 times as quick as `json` (measured).

    Raises `Mismatch`: it is no JSON, or nested too deep.
    """
    try:
        return cast("object", msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Mismatch(f"not JSON: {exc}") from exc
    except RecursionError as exc:
        raise Mismatch("the JSON is nested too deeply; flatten it") from exc


def json_reader(schema: type[_Value]) -> Callable[[bytes], _Value]:
    """Return a function that reads JSON, in UTF-8, as a `schema`, in one call of C.

    The function raises `ValueError`, whose text names the field that does not fit, or `RecursionError` for what is nested too deep.
    """
    return msgspec.json.Decoder(schema).decode


def encode_json(value: object) -> bytes:
    """Return plain values as JSON in UTF-8, in one call of C. Raises `UnicodeEncodeError`: a text has half a surrogate pair."""
    return msgspec.json.encode(value)


def plain_values(value: object) -> dict[str, Any]:
    """Return a struct or a dataclass, and what is in it, as the plain values that `read` takes."""
    return cast("dict[str, Any]", msgspec.to_builtins(value, builtin_types=(bytes,)))


def given(table: Struct) -> dict[str, Any]:
    """Return the values that a table was given, by the names of its fields: those that are not None."""
    values = {name: getattr(table, name) for name in table.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}


def shown(value: object) -> str:
    """Return a refused value for a message: short, and without walking into it.

    A table nested thousands deep cannot be printed, nor a number of thousands of digits.
    """
    match value:
        case dict():
            return f"a table of {len(cast('dict[object, object]', value))} keys"
        case list() | tuple():
            values = cast("Sequence[object]", value)
            is_plain = not any(isinstance(each, dict | list | tuple) for each in values)
            if not (0 < len(values) <= _SHOWN_VALUES and is_plain):
                return f"a list of {len(values)}"
            text = f"[{', '.join(map(shown, values))}]"
        case bool():
            text = str(value).lower()
        case int() if value.bit_length() > _SHOWN_BITS:
            text = f"a number of {value.bit_length()} bits"
        case str() if len(value) > _SHOWN_CHARS:
            return f"{value[:_SHOWN_CHARS]!r}… ({len(value)} characters)"
        case bytes():
            text = f"{len(value)} bytes"
        case datetime() | date() | time():
            text = f"the time {value.isoformat()}"
        case _:
            text = repr(value)
    return text[:_SHOWN_CHARS]


def quoted(name: str) -> str:
    """Return a name as TOML writes it, short."""
    short = name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}…"
    return short if _BARE.fullmatch(short) else f'"{repr(short)[1:-1]}"'


class _Place(NamedTuple):
    """A place in a document: its path for people, what stands there, and what may."""

    path: str
    value: object
    kind: Any

    def at(self, name: str) -> str:
        """Return the path of what is called `name` in this place."""
        return f"{self.path}.{quoted(name)}" if self.path else quoted(name)

    def inside(self) -> Iterator[_Place]:
        """Yield the places in this one whose type is known."""
        table, items = _table_or_list(self.value)
        for kind in _options(self.kind):
            arguments = get_args(kind)
            if table is not None:
                kinds = {name: each for name, (each, _) in _fields(kind).items()}
                if get_origin(kind) is dict:
                    kinds = dict.fromkeys(table, arguments[1])
                for name in kinds:
                    if name in table:
                        yield _Place(self.at(name), table[name], kinds[name])
            elif items is not None and get_origin(kind) in {list, tuple}:
                is_fixed = get_origin(kind) is tuple and arguments[-1] is not Ellipsis
                item_kinds = arguments if is_fixed else repeat(arguments[0])
                for index, (item, each) in enumerate(zip(items, item_kinds, strict=False)):
                    yield _Place(f"{self.path}[{index}]", item, each)

    def problem(self) -> Exception | None:
        """Return msgspec's complaint, or None where the value fits."""
        try:
            msgspec.convert(self.value, self.kind, builtin_types=(bytes,))
        except msgspec.ValidationError as exc:
            return exc
        return None


def _said(values: object, schema: object, complaint: str, *, is_secret: bool) -> str:
    """Return what is wrong at the innermost place that does not fit, and what would be right there."""
    whole = _Place("", values, schema)
    place = _place_of(complaint, whole)
    if place.problem() is None:  # an unknown key that looks like a path
        place = whole
    while _BELOW in str(place.problem()):
        inner = next((each for each in place.inside() if each.problem()), None)
        if inner is None:  # an unknown key that looks like a path
            break
        place = inner
    table, _ = _table_or_list(place.value)
    if table is not None and (said := _keys_said(place, table)):
        return said
    if (problem := place.problem()) and problem.__cause__:  # a check of the schema's own
        return f"{place.path}.{problem.__cause__}".removeprefix(".")
    seen = f"of type {type(place.value).__name__}" if is_secret else shown(place.value)
    return f"{place.path or 'it'} is {seen}, expected {_expected(place.kind)}"


def _place_of(complaint: str, whole: _Place) -> _Place:
    """Return the place that msgspec's complaint names, as far as it does: names in a dict are not told."""
    place = whole
    for step in _STEP.findall(complaint.rpartition(_BELOW)[2].partition("[...]")[0]):
        path = f"{place.path}{step}".removeprefix(".")
        inner = next((each for each in place.inside() if each.path == path), None)
        if inner is None:
            break
        place = inner
    return place


def _keys_said(place: _Place, given: dict[str, object]) -> str:
    """Return what is wrong with the keys of a table: one unknown, one missing, one that is no such name; or ""."""
    for kind in _options(place.kind):
        fields = _fields(kind)
        if fields and issubclass(kind, Table):
            for key in given:
                if key not in fields:
                    near = difflib.get_close_matches(key[:_SHOWN_CHARS], fields, 1)
                    hint = f" (did you mean {near[0]}?)" if near else ""
                    return (
                        f"unknown key {place.at(key)}{hint}; allowed keys are {', '.join(fields)}"
                    )
        for name, (_, is_required) in fields.items():
            if is_required and name not in given:
                return f"{place.at(name)} is missing; add it"
        if get_origin(kind) is dict:
            key_kind = get_args(kind)[0]
            for key in given:
                if _Place("", key, key_kind).problem():
                    return f"{place.path or 'it'} has the key {shown(key)}, expected {_expected(key_kind)}"
    return ""


@cache
def _distinct_fields(table: type[Table]) -> tuple[str, ...]:
    """Return the names of the lists in a table that are marked `DISTINCT`."""
    hints = get_type_hints(table, include_extras=True)
    return tuple(
        name
        for name in hints
        if any(DISTINCT in get_args(each) for each in (hints[name], *get_args(hints[name])))
    )


def _table_or_list(value: object) -> tuple[dict[str, object] | None, list[object] | None]:
    """Return `value` as what it is, None for what it is not."""
    return (
        cast("dict[str, object]", value) if isinstance(value, dict) else None,
        cast("list[object]", value) if isinstance(value, list) else None,
    )


def _options(kind: object) -> Iterator[Any]:
    """Yield the types that a value may have, without their limits."""
    if get_origin(kind) is Annotated:
        yield from _options(get_args(kind)[0])
    elif get_origin(kind) in {Union, UnionType}:
        for option in get_args(kind):
            yield from _options(option)
    else:
        yield kind


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return type and whether it is required of each field of a struct or dataclass, by its name in a document."""
    described = inspect.type_info(kind)
    if not isinstance(described, inspect.StructType | inspect.DataclassType):
        return {}
    hints = get_type_hints(kind, include_extras=True)
    return {each.encode_name: (hints[each.name], each.required) for each in described.fields}


def _expected(kind: object) -> str:
    """Return what a type takes, for a message."""
    return _meaning_of(inspect.type_info(kind))


def _meaning_of(kind: inspect.Type) -> str:  # noqa: PLR0911 - a line a type
    match kind:
        case inspect.Metadata(extra={"meaning": str(words)}):
            return words
        case inspect.Metadata():
            return _meaning_of(kind.type)
        case inspect.UnionType():
            options = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            return " or ".join(map(_meaning_of, options))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType(pattern=pattern):
            text = "printable text" if pattern == PLAIN_PATTERN else "text"
            return f"{text}{_count(kind, 'characters')}"
        case inspect.BytesType():
            return _count(kind, "bytes").removeprefix(" of ") or "bytes"
        case inspect.VarTupleType() | inspect.ListType():
            return f"a list{_count(kind, 'entries')}{_each(kind.item_type)}"
        case inspect.TupleType():
            return f"a list of {', '.join(map(_meaning_of, kind.item_types))}"
        case inspect.DictType():
            return f"a table{_count(kind, 'entries')}{_each(kind.value_type)}"
        case inspect.EnumType():
            return f"one of {', '.join(str(each.value) for each in kind.cls)}"
        case inspect.LiteralType():
            return " or ".join(map(repr, kind.values))
        case inspect.StructType() | inspect.DataclassType():
            return f"a table with {', '.join(each.encode_name for each in kind.fields)}"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _each(kind: inspect.Type) -> str:
    is_table = isinstance(kind, inspect.StructType | inspect.DataclassType | inspect.AnyType)
    return "" if is_table else f", each {_meaning_of(kind)}"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f" above {_number(kind.gt)}" if kind.gt is not None else ""
    if kind.ge is not None:
        low = f" from {_number(kind.ge)}"
    high = "" if kind.le is None else f" to {_number(kind.le)}"
    return f"{low}{high}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _count(
    kind: inspect.StrType
    | inspect.BytesType
    | inspect.VarTupleType
    | inspect.ListType
    | inspect.DictType,
    unit: str,
) -> str:
    low, high = kind.min_length, kind.max_length
    if high is None:
        return f" of at least {low} {unit}" if low else ""
    if low == high:
        return f" of {high} {unit}"
    return f" of {low} to {high} {unit}" if low else f" of at most {high} {unit}"
