"""Strict msgpack."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts.packed import pack, unpack_strictly

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(plain_values)
def test_what_was_packed_comes_back(value: object) -> None:
    assert unpack_strictly(pack(value)) == value


@given(plain_values, st.data())
def test_a_truncated_value_is_refused(value: object, data: st.DataObject) -> None:
    raw = pack(value)
    kept = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError, match=r".*"):
        unpack_strictly(raw[:kept])


@given(plain_values, st.binary(min_size=1, max_size=3))
def test_bytes_after_the_value_are_refused(value: object, rest: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unpack_strictly(pack(value) + rest)


@given(st.binary(max_size=300))
def test_junk_is_a_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = unpack_strictly(raw)
    except ValueError:
        return
    assert raw
    assert isinstance(value, (type(None), bool, int, float, str, bytes, list, dict))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x82\xa1a\x01\xa1a\x02", "occurs twice"),
        (b"\x81\xc4\x01a\x01", "must be text"),
        (b"\x81\x01\x01", "not allowed for map key"),
        (b"\xd4\x05\x00", "max_ext_len"),
        (b"\xd6\xff\x00\x00\x00\x01", "max_ext_len"),
        (b"\xdd\xff\xff\xff\xff" + b"\x00" * 2000, "max_array_len"),
        (b"\xdc\x04\x01" + b"\x00" * 1025, "max_array_len"),
        (b"\xdf\xff\xff\xff\xff" + b"\x00" * 2000, "max_map_len"),
        (b"\xa1\xff", "utf-8"),
        (b"\xc1", "FormatError|header"),
        (b"\x91" * 60_000 + b"\x00", "StackError"),
        (b"\xdc\x04\x00" * 20_000, "StackError"),
    ],
)
def test_each_trick_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpack_strictly(raw)


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", {"a": {1}}])
def test_a_value_without_a_form_is_not_packed(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        pack(value)


def test_a_value_nested_without_end_is_not_packed() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r".+"):
        pack(endless)


def test_the_largest_array_is_read() -> None:
    assert unpack_strictly(msgpack.packb([0] * 1024)) == [0] * 1024
