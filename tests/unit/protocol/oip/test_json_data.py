from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import InvalidRequest, NotInJson, TooLarge
from capamesh.protocol.oip.json_data import read_data, write_data
from capamesh.protocol.tensors import Datatype, Tensor

_ROOM_BYTES = 2**20


def _read(datatype: Datatype, shape: tuple[int, ...], text: str) -> np.ndarray[Any, Any]:
    raw = read_data("x", datatype, shape, json.loads(text))
    return Tensor("x", datatype, shape, raw).to_numpy()


def _written(array: np.ndarray[Any, Any], datatype: Datatype | None = None) -> str:
    return write_data(Tensor.from_numpy("x", array, datatype), _ROOM_BYTES)


def test_integers_are_exact_to_the_last_of_64_bits() -> None:
    lowest, highest = -(2**63), 2**63 - 1
    array = _read(Datatype.INT64, (3,), f"[{lowest}, {highest}, 9007199254740993]")
    assert array.tolist() == [lowest, highest, 9007199254740993]
    assert _written(array) == f"[{lowest},{highest},9007199254740993]"
    array = _read(Datatype.UINT64, (2,), f"[{2**64 - 1}, {2**53 + 1}]")
    assert array.tolist() == [2**64 - 1, 2**53 + 1]
    assert _written(array) == f"[{2**64 - 1},{2**53 + 1}]"


@pytest.mark.parametrize(
    "datatype", [d for d in Datatype if d.numpy_dtype.kind in "iu" and d is not Datatype.BF16]
)
def test_integers_one_beyond_the_range_are_refused_by_index_and_value(datatype: Datatype) -> None:
    info = np.iinfo(datatype.numpy_dtype)
    low, high = int(info.min), int(info.max)
    assert _read(datatype, (2,), f"[{low}, {high}]").tolist() == [low, high]
    for value in (low - 1, high + 1, 10**30):
        error = f"tensor 'x': {datatype} element 1 must be from {low} to {high}, got {value}"
        with pytest.raises(InvalidRequest, match=error):
            _read(datatype, (2,), f"[0, {value}]")


@given(
    st.lists(
        st.floats(width=64) | st.integers(-(10**400), 10**400) | st.floats(width=32),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["FP16", "FP32", "FP64"]),
)
def test_few_floats_are_read_as_many_are(numbers: list[float], name: str) -> None:
    datatype = Datatype(name)
    many = [*numbers, *[0.0] * 100]

    def read(flat: list[float]) -> bytes | str:
        try:
            return read_data("x", datatype, (len(flat),), flat)
        except InvalidRequest as error:
            return error.message

    few, of_many = read(numbers), read(many)
    if isinstance(of_many, str):
        assert few == of_many
    else:
        assert few == of_many[: len(numbers) * datatype.numpy_dtype.itemsize]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=8), st.sampled_from(["FP16", "FP32", "FP64"]))
def test_every_finite_float_reads_back_to_the_same_bits(patterns: list[int], name: str) -> None:
    dtype = Datatype(name).numpy_dtype
    bits = np.array(patterns, np.uint64)
    values = bits.view(dtype)
    values = values[np.isfinite(values)]
    text = _written(values)
    assert _read(Datatype(name), values.shape, text).tobytes() == values.tobytes()


def test_every_finite_16_bit_float_reads_back_to_the_same_bits() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    half = bits[np.isfinite(bits.view(np.float16))]
    text = _written(half.view(np.float16))
    assert _read(Datatype.FP16, half.shape, text).tobytes() == half.tobytes()
    brain = bits[bits & 0x7F80 != 0x7F80]
    text = _written(brain, Datatype.BF16)
    assert _read(Datatype.BF16, brain.shape, text).tobytes() == brain.tobytes()


def test_more_text_than_the_room_is_too_large() -> None:
    array = np.full(100, 123456, np.int32)
    text = _written(array)
    tensor = Tensor.from_numpy("x", array)
    assert write_data(tensor, len(text)) == text
    for room_bytes in (10, len(text) - 2):
        with pytest.raises(TooLarge, match=f"more than the {room_bytes} bytes that are left"):
            write_data(tensor, room_bytes)
    words = Tensor.from_numpy("x", np.array([b"abcdef"], dtype=object))
    with pytest.raises(TooLarge, match="more than the 9 bytes"):
        write_data(words, 9)


@pytest.mark.parametrize(
    ("datatype", "text", "error"),
    [
        ("INT32", "[1, 1.0]", "must be an integer, got 1.0"),
        ("INT32", "[1, true]", "must be an integer, got True"),
        ("INT32", '[1, "2"]', "must be an integer, got '2'"),
        ("FP32", "[1, null]", "must be a number, got None"),
        ("FP32", "[1, false]", "must be a number, got False"),
        ("FP32", "[1, [2]]", r"must be a number, got \[2\]"),
        ("BOOL", "[true, 2]", "must be from 0 to 1, got 2"),
        ("BOOL", "[true, 1.0]", "must be true, false, 0 or 1, got 1.0"),
        ("BYTES", '["a", 5]', "must be a string, got 5"),
        ("BYTES", '["a", "b\\ud800"]', "has half of a surrogate pair at char"),
        ("FP16", "[1, 65520]", "must be within the range of FP16, got 65520"),
        ("BF16", "[1, 3.4e38]", "must be within the range of BF16, got 3.4e"),
        ("FP32", "[1, -1e39]", r"must be within the range of FP32, got -1e\+39"),
        ("FP64", "[1, 1e999]", "must be within the range of FP64, got inf"),
        ("FP64", f"[1, {10**400}]", "must be within the range of FP64, got 100"),
        ("BF16", f"[1, {10**400}]", "must be within the range of BF16"),
    ],
)
def test_value_the_datatype_cannot_hold_is_refused_by_index_and_value(
    datatype: str, text: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"tensor 'x': {datatype} element 1 {error}"):
        _read(Datatype(datatype), (2,), text)


def test_value_that_json_cannot_hold_is_an_error_that_says_to_use_binary() -> None:
    for datatype in (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64):
        dtype = np.float64 if datatype is Datatype.BF16 else datatype.numpy_dtype
        for value in (np.nan, np.inf, -np.inf):
            error = f"tensor 'x': {datatype} element 1 is {value}, which JSON cannot hold; ask for"
            with pytest.raises(NotInJson, match=error):
                _written(np.array([0, value], dtype), datatype)
    error = "BYTES element 1 is not UTF-8 .invalid start byte at byte 1.*; ask for binary data"
    with pytest.raises(NotInJson, match=error):
        _written(np.array([b"a", b"b\xff"], dtype=object))


def test_narrow_floats_are_written_as_their_own_shortest_text() -> None:
    for dtype, texts in (
        (np.float32, ["0.1", "0.33333334", "-0.0"]),
        (np.float16, ["0.1", "0.3333"]),
    ):
        assert _written(np.array([float(text) for text in texts], dtype)) == f"[{','.join(texts)}]"
    assert _written(np.array([1.0, -2.5]), Datatype.BF16) == "[1.0,-2.5]"


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (2, 3, 1), (6,), ()])
def test_data_may_be_flat_or_nested_as_the_shape(shape: tuple[int, ...]) -> None:
    expected = np.arange(np.prod(shape, dtype=int), dtype=np.uint8).reshape(shape)
    for nested in (expected.tolist(), expected.reshape(-1).tolist()):
        np.testing.assert_array_equal(_read(Datatype.UINT8, shape, json.dumps(nested)), expected)


@pytest.mark.parametrize(
    ("shape", "text", "error"),
    [
        ((2, 3), "[1,2,3,4,5]", r"shape \[2, 3\] has 6 elements, the data has 5"),
        ((2, 3), "[[1,2,3],[4,5]]", "needs lists of 3 at depth 1, item 1 has 2"),
        ((2, 3), "[[1,2],[3,4],[5,6]]", "needs 2 lists at the top, the data has 3"),
        ((2, 3), "[[1,2,3],4]", "must be lists at depth 1, item 1 is 4"),
        ((2, 3), "[1,[2,3],4,5,6,7]", r"element 1 must be an integer, got \[2, 3\]"),
        ((2, 1, 3), "[[[1,2,3]],[4]]", "must be lists at depth 2, item 1 is 4"),
        ((6,), "[[1,2,3,4,5,6]]", r"shape \[6\] has 6 elements, the data has 1"),
        ((2, 0), "[[],[1]]", "needs lists of 0 at depth 1, item 1 has 1"),
        ((2,), '"ab"', "data must be a list, got 'ab'"),
        ((), "[1, 2]", r"shape \[\] has 1 elements, the data has 2"),
        ((), "{}", "element 0 must be an integer, got {}"),
    ],
)
def test_nesting_that_is_not_the_shape_is_refused_at_its_place(
    shape: tuple[int, ...], text: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        _read(Datatype.INT64, shape, text)
