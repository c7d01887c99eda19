from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.msgpack_codec import MAX_MAP_ITEMS, pack, shown, unpack, unpack_strictly

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
        for read in (unpack, unpack_strictly):
            with pytest.raises(ValueError, match=r".+"):
                read(changed, max_array_items=5)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_a_plain_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = unpack(raw, max_array_items=100)
    except ValueError:
        return
    assert type(value) in {type(None), bool, int, float, str, bytes, list, dict}
    shown(value)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
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
    ],
)
def test_each_trick_is_refused(raw: bytes, why: str) -> None:
    for read in (unpack, unpack_strictly):
        with pytest.raises(ValueError, match=why):
            read(raw, max_array_items=3)


def test_doubled_and_binary_keys_are_refused_only_where_signed() -> None:
    doubled, binary = b"\x82\xa1a\x01\xa1a\x02", b"\x81\xc4\x01a\x01"
    assert unpack(doubled, max_array_items=0) == {"a": 2}
    assert unpack(binary, max_array_items=0) == {b"a": 1}
    with pytest.raises(ValueError, match="'a' occurs twice"):
        unpack_strictly(doubled, max_array_items=0)
    with pytest.raises(ValueError, match="a map key is bytes; it must be text"):
        unpack_strictly(binary, max_array_items=0)


def test_map_has_its_limit() -> None:
    full = {str(number): None for number in range(MAX_MAP_ITEMS)}
    assert unpack(pack(full), max_array_items=0) == full
    with pytest.raises(ValueError, match="max_map_len"):
        unpack(pack({**full, "one more": 1}), max_array_items=0)


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", {"a": {1}}])
def test_value_without_a_form_is_not_packed(value: object) -> None:
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
