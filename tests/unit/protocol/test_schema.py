from __future__ import annotations

from typing import Annotated

import pytest

from capamesh.protocol import schema
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, Table, read


class Item(Struct, frozen=True):
    size: Annotated[int, Meta(ge=0, le=9)]
    raw: bytes = b""


class Whole(Struct, frozen=True):
    name: Annotated[str, Meta(max_length=3), PLAIN]
    items: Annotated[tuple[Item, ...], Meta(max_length=2)] = ()
    price: float = 0.0


def test_fitting_map_becomes_a_struct_and_unknown_fields_are_skipped() -> None:
    values = {"name": "a", "items": [{"size": 1, "raw": b"x", "new": 1}], "price": 2, "new": {}}
    assert read(values, Whole) == Whole("a", (Item(1, b"x"),), 2.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name is missing; add it"),
        ({"name": "a", "items": [{}]}, "items[0].size is missing; add it"),
        ({"name": 1}, "name is 1, expected printable text of at most 3 characters"),
        (
            {"name": "\u202e"},
            "name is '\\u202e', expected printable text of at most 3 characters",
        ),
        (
            {"name": "a", "items": {}},
            "items is a table of 0 keys, expected a list of at most 2 entries",
        ),
        ({"name": "a", "items": [1]}, "items[0] is 1, expected a table with size, raw"),
        (
            {"name": "a", "items": [{"size": True}]},
            "items[0].size is true, expected a whole number from 0 to 9",
        ),
        (
            {"name": "a", "items": [{"size": 10}]},
            "items[0].size is 10, expected a whole number from 0 to 9",
        ),
        (
            {"name": "a", "items": [{}] * 3},
            "items is a list of 3, expected a list of at most 2 entries",
        ),
        (
            {"name": "a", "items": [{"size": 1}, {"size": 1, "raw": "eHh4"}]},
            "items[1].raw is 'eHh4', expected bytes",
        ),
        ({"name": "a", "price": "1"}, "price is '1', expected a number"),
    ],
)
def test_misfit_is_named_with_its_value_and_limit(values: dict[str, object], said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        read(values, Whole)
    assert str(caught.value) == said


def test_secret_is_told_by_its_type_alone() -> None:
    with pytest.raises(Mismatch) as caught:
        read({"name": b"s3cret"}, Whole, is_secret=True)
    assert (
        str(caught.value)
        == "name is of type bytes, expected printable text of at most 3 characters"
    )


class Many(Struct, frozen=True):
    items: tuple[Item, ...] = ()


def test_last_of_many_that_does_not_fit_is_found_without_a_look_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    problem = schema._Place.problem
    monkeypatch.setattr(
        schema._Place, "problem", lambda place: seen.append(place.value) or problem(place)
    )
    with pytest.raises(Mismatch, match=r"^items\[999\].size is -1, expected"):
        read({"items": [{"size": 1}] * 999 + [{"size": -1}]}, Many)
    assert set(map(str, seen)) == {"-1"}


@pytest.mark.parametrize(
    "key", ["x` - at `$.items[0].size", "` - at `$.none", "` - at `$[...]", "]"]
)
def test_unknown_key_that_looks_like_a_path_is_named_itself(key: str) -> None:
    class Strict(Table, frozen=True):
        items: tuple[Item, ...] = ()

    with pytest.raises(Mismatch) as caught:
        read({"items": [{"size": 1}], key: 1}, Strict)
    assert str(caught.value) == f'unknown key "{key}"; allowed keys are items'
