"""What comes from files and peers: text, TOML and msgpack that is read by its schema, or refused with its place."""

from __future__ import annotations

from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.msgpack_codec import MAX_MAP_ITEMS, pack, shown, unpack, unpack_strictly
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, Table, read
from capamesh.protocol.toml_text import MAX_KEY_PARTS, read_toml


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


NAME = "expected printable text of at most 3 characters"
SIZE = "expected a whole number from 0 to 9"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name is missing; add it"),
        ({"name": 1}, f"name is 1, {NAME}"),
        ({"name": "\u202e"}, f"name is '\\u202e', {NAME}"),
        ({"items": {}}, "items is a table of 0 keys, expected a list of at most 2 entries"),
        ({"items": [1]}, "items[0] is 1, expected a table with size, raw"),
        ({"items": [{}]}, "items[0].size is missing; add it"),
        ({"items": [{"size": True}]}, f"items[0].size is true, {SIZE}"),
        ({"items": [{"size": 10}]}, f"items[0].size is 10, {SIZE}"),
        ({"items": [{}] * 3}, "items is a list of 3, expected a list of at most 2 entries"),
        ({"items": [{"size": 1}, {"size": 1, "raw": "eHh4"}]}, "items[1].raw is 'eHh4', expected bytes"),
        ({"price": "1"}, "price is '1', expected a number"),
    ],
)  # fmt: skip
def test_misfit_is_named_with_its_value_and_limit(values: dict[str, object], said: str) -> None:
    if values and "name" not in values:
        values = {"name": "a", **values}
    with pytest.raises(Mismatch) as caught:
        read(values, Whole)
    assert str(caught.value) == said
    with pytest.raises(Mismatch) as caught:
        read({"name": b"s3cret"}, Whole, is_secret=True)
    assert str(caught.value) == f"name is of type bytes, {NAME}"


@pytest.mark.parametrize(
    "key", ["x` - at `$.items[0].size", "` - at `$.none", "` - at `$[...]", "]"]
)
def test_unknown_key_that_looks_like_a_path_is_named_itself(key: str) -> None:
    class Strict(Table, frozen=True):
        items: tuple[Item, ...] = ()

    with pytest.raises(Mismatch) as caught:
        read({"items": [{"size": 1}], key: 1}, Strict)
    assert str(caught.value) == f'unknown key "{key}"; allowed keys are items'


class Inner(Table, frozen=True):
    size: int = 0


class Outer(Table, frozen=True):
    inner: Inner = Inner()
    text: str = ""


def test_document_becomes_a_struct() -> None:
    assert read_toml("inner.size = 2\ntext = 'é'".encode(), Outer, "f") == Outer(Inner(2), "é")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"text = 1", "f.toml: text is 1, expected text"),
        (b"texts = 1", "f.toml: unknown key texts (did you mean text?); allowed keys are inner, text"),
        (b"inner.siz = 1", "f.toml: unknown key inner.siz (did you mean size?); allowed keys are size"),
        (b"text = 'a'\ntext = 'b'", "f.toml is not TOML: Cannot overwrite a value"),
        (b"\xff", "f.toml is not TOML: 'utf-8' codec can't decode"),
        (b"text = " + b"[" * 10_000, "f.toml is not TOML: "),
        (b"size = " + b"9" * 5_000, "f.toml is not TOML: "),
    ],
)  # fmt: skip
def test_document_that_does_not_fit_is_refused_with_its_file(raw: bytes, said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        read_toml(raw, Outer, "f.toml")
    assert str(caught.value).startswith(said)


def test_key_of_many_parts_is_refused_with_its_line() -> None:
    for part in ("a.", '"a b" . ', "'\u00e9'.", "a-1\t."):
        most = f"\n{part * (MAX_KEY_PARTS - 1)}a = 1"
        with pytest.raises(Mismatch, match="unknown key"):
            read_toml(most.encode(), Outer, "f")
        with pytest.raises(Mismatch, match="f: line 2 has a key of over 16 parts; shorten it"):
            read_toml(f"\n[{part * MAX_KEY_PARTS}a]".encode(), Outer, "f")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_refused_or_read_and_raises_nothing_else(raw: bytes) -> None:
    said = "f"
    try:
        read_toml(raw, Outer, "f")
    except Mismatch as exc:
        said = str(exc)
    assert said.startswith("f")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(plain_values)
def test_packed_value_comes_back(value: object) -> None:
    raw = pack(value)
    assert unpack(raw, max_array_items=5) == value
    assert unpack_strictly(raw, max_array_items=5) == value


@settings(max_examples=40, deadline=None)
@given(plain_values, st.data())
def test_bytes_that_are_cut_off_or_longer_are_refused(value: object, data: st.DataObject) -> None:
    raw = pack(value)
    kept = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for changed in (kept, raw + b"\0"):
        for unpacked in (unpack, unpack_strictly):
            with pytest.raises(ValueError, match=r".+"):
                unpacked(changed, max_array_items=5)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_a_plain_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = unpack(raw, max_array_items=100)
    except ValueError:
        return
    assert type(value) in {type(None), bool, int, float, str, bytes, list, dict}
    shown(value)


def test_each_trick_is_refused() -> None:
    for raw, why in (
        (b"", "incomplete"),
        (b"\xc1", "FormatError|header"),
        (b"\xa1\xff", "utf-8"),
        (b"\x81\x01\x01", "not allowed for map key"),
        (b"\xd4\x05\x00", "max_ext_len"),
        (b"\xc7\x00\x05", "extension of type 5 and 0 bytes"),
        (b"\xc7\x00\xff", "timestamp"),
        (b"\xdd\xff\xff\xff\xff" + bytes(100), "max_array_len"),
        (b"\x94" + bytes(4), "max_array_len"),
        (b"\x91" * 60_000 + b"\x00", "StackError"),
    ):
        for unpacked in (unpack, unpack_strictly):
            with pytest.raises(ValueError, match=why):
                unpacked(raw, max_array_items=3)


def test_doubled_and_binary_keys_are_refused_where_signed_and_too_many_everywhere() -> None:
    doubled, binary = b"\x82\xa1a\x01\xa1a\x02", b"\x81\xc4\x01a\x01"
    assert unpack(doubled, max_array_items=0) == {"a": 2}
    assert unpack(binary, max_array_items=0) == {b"a": 1}
    with pytest.raises(ValueError, match="'a' occurs twice"):
        unpack_strictly(doubled, max_array_items=0)
    with pytest.raises(ValueError, match="a map key is bytes; it must be text"):
        unpack_strictly(binary, max_array_items=0)
    full = {str(number): None for number in range(MAX_MAP_ITEMS)}
    assert unpack(pack(full), max_array_items=0) == full
    with pytest.raises(ValueError, match="max_map_len"):
        unpack(pack({**full, "one more": 1}), max_array_items=0)


def test_value_without_a_form_is_not_packed() -> None:
    for value in (object(), 2**64, "\ud800", {"a": {1}}):
        endless: list[object] = [value]
        endless.append(endless)
        for each in (value, endless):
            with pytest.raises(ValueError, match=r".+"):
                pack(each)


def test_value_is_shown_shortly_however_long_or_deep_it_is() -> None:
    deep = unpack(b"\x91" * 1000 + b"\xc0", max_array_items=1)
    # some versions of Python raise RecursionError for repr(deep)
    assert shown(deep) == "[[[...]]]"
    assert len(shown("x" * 10**6)) == 60
    assert len(shown({"k": ["y" * 1000] * 1000})) < 500
    assert (shown(5), shown("a"), shown(None)) == ("5", "'a'", "None")
