from __future__ import annotations

from typing import Annotated

import pytest

from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, read


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
        ({"name": 1}, "name is 1; it must be text"),
        ({"name": "abcd"}, "name is 'abcd'; it must be text of length <= 3"),
        (
            {"name": "\u202e"},
            "name is '\\u202e'; it must be text without control, bidirectional or invisible characters",
        ),
        ({"name": "a", "items": {}}, "items is {}; it must be an array"),
        ({"name": "a", "items": [1]}, "items[0] is 1; it must be a map"),
        ({"name": "a", "items": [{"size": True}]}, "items[0].size is True; it must be an integer"),
        ({"name": "a", "items": [{"size": 10}]}, "items[0].size is 10; it must be an integer <= 9"),
        (
            {"name": "a", "items": [{}] * 3},
            "items is of length 3; it must be an array of length <= 2",
        ),
        (
            {"name": "a", "items": [{"size": 1}, {"size": 1, "raw": "eHh4"}]},
            "items[1].raw is 'eHh4'; it must be bytes",
        ),
        ({"name": "a", "price": "1"}, "price is '1'; it must be a finite number"),
    ],
)
def test_misfit_is_named_with_its_value_and_limit(values: dict[str, object], said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        read(values, Whole)
    assert str(caught.value) == said


def test_secret_is_told_by_its_type_alone() -> None:
    with pytest.raises(Mismatch) as caught:
        read({"name": b"s3cret"}, Whole, is_secret=True)
    assert str(caught.value) == "name is bytes; it must be text"
