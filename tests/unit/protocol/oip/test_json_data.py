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


@pytest.mark.parametrize(
    ("datatype", "text", "error"),
    [
        (Datatype.INT32, "[1, 1.5]", "INT32 element 1 must be an integer, got 1.5"),
        (Datatype.INT32, "[1, 1.0]", "INT32 element 1 must be an integer, got 1.0"),
        (Datatype.INT32, "[1, true]", "INT32 element 1 must be an integer, got True"),
        (Datatype.INT32, '[1, "2"]', "INT32 element 1 must be an integer, got '2'"),
        (Datatype.FP32, "[1, null]", "FP32 element 1 must be a number, got None"),
        (Datatype.FP32, "[1, false]", "FP32 element 1 must be a number, got False"),
        (Datatype.FP32, '["1", 2]', "FP32 element 0 must be a number, got '1'"),
        (Datatype.FP32, "[1, [2]]", r"FP32 element 1 must be a number, got \[2\]"),
        (Datatype.BOOL, "[true, 2]", "BOOL element 1 must be from 0 to 1, got 2"),
        (Datatype.BOOL, "[true, 1.0]", "BOOL element 1 must be true, false, 0 or 1, got 1.0"),
        (Datatype.BYTES, '["a", 5]', "BYTES element 1 must be a string, got 5"),
        (
            Datatype.BYTES,
            '["a", "b\\ud800"]',
            "BYTES element 1 has half of a surrogate pair at char",
        ),
        (Datatype.FP16, "[1, 65520]", "FP16 element 1 must be within the range of FP16, got 65520"),
        (Datatype.BF16, "[1, 3.4e38]", "BF16 element 1 must be within the range of BF16, got 3.4e"),
        (
            Datatype.FP32,
            "[1, -1e39]",
            r"FP32 element 1 must be within the range of FP32, got -1e\+39",
        ),
        (Datatype.FP64, "[1, 1e999]", "FP64 element 1 must be within the range of FP64, got inf"),
        (
            Datatype.FP64,
            f"[1, {10**400}]",
            "FP64 element 1 must be within the range of FP64, got 100",
        ),
        (Datatype.BF16, f"[1, {10**400}]", "BF16 element 1 must be within the range of BF16"),
    ],
)
def test_value_the_datatype_cannot_hold_is_refused_by_index_and_value(
    datatype: Datatype, text: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"tensor 'x': {error}"):
        _read(datatype, (2,), text)


def test_largest_floats_of_each_width_are_within_the_range() -> None:
    assert _read(Datatype.FP16, (1,), "[65519.99]").tolist() == [65504.0]
    assert _read(Datatype.FP32, (1,), "[3.4028235e38]").tolist() == [3.4028234663852886e38]
    assert _read(Datatype.BF16, (1,), "[3.3895e38]").tolist() == [0x7F7F]


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


def test_booleans_are_true_false_one_or_zero() -> None:
    assert _read(Datatype.BOOL, (4,), "[true, false, 1, 0]").tolist() == [True, False, True, False]
    assert _written(np.array([True, False])) == "[true,false]"


def test_strings_are_utf_8_both_ways() -> None:
    array = _read(Datatype.BYTES, (3,), '["", "é\\u20ac", "\\u0000\\""]')
    assert array.tolist() == [b"", "é€".encode(), b'\0"']
    assert _written(array) == '["","\\u00e9\\u20ac","\\u0000\\""]'


def test_narrow_floats_are_written_as_their_own_shortest_text() -> None:
    assert _written(np.array([0.1, 1 / 3, 16777216, -0.0, 1e-45], np.float32)) in {
        "[0.1,0.33333334,16777216.0,-0.0,1e-45]",
        "[0.1,0.33333334,1.6777216e+07,-0.0,1e-45]",
    }
    assert _written(np.array([0.1, 1 / 3, 65504], np.float16)) in {
        "[0.1,0.3333,65504.0]",
        "[0.1,0.3333,6.55e+04]",
        "[0.1,0.3333,65500.0]",
    }
    assert _written(np.array([1.0, -2.5]), Datatype.BF16) == "[1.0,-2.5]"
    assert _written(np.array([0.1, 1e300])) in {"[0.1,1e300]", "[0.1,1e+300]"}


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


def test_hundred_thousand_random_fp32_patterns_read_back_to_the_same_bits() -> None:
    bits = np.random.default_rng(22).integers(0, 2**32, 100_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    text = write_data(Tensor.from_numpy("x", values), 2**24)
    assert _read(Datatype.FP32, values.shape, text).tobytes() == values.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", [Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64])
def test_value_without_a_json_number_is_an_error_that_says_to_use_binary(
    value: float, datatype: Datatype
) -> None:
    dtype = np.float64 if datatype is Datatype.BF16 else datatype.numpy_dtype
    error = (
        f"tensor 'x': {datatype} element 1 is {value}, which JSON cannot hold; ask for binary data"
    )
    with pytest.raises(NotInJson, match=error):
        _written(np.array([0, value], dtype), datatype)


def test_bytes_that_are_not_utf_8_are_an_error_that_says_to_use_binary() -> None:
    error = "BYTES element 1 is not UTF-8 .invalid start byte at byte 1.*; ask for binary data"
    with pytest.raises(NotInJson, match=error):
        _written(np.array([b"a", b"b\xff"], dtype=object))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 3), "[1,2,3,4,5,6]"),
        ((2, 3), "[[1,2,3],[4,5,6]]"),
        ((1, 2, 3), "[[[1,2,3],[4,5,6]]]"),
        ((2, 3, 1), "[[[1],[2],[3]],[[4],[5],[6]]]"),
        ((6,), "[1,2,3,4,5,6]"),
    ],
)
def test_data_may_be_flat_or_nested_as_the_shape(shape: tuple[int, ...], text: str) -> None:
    array = _read(Datatype.UINT8, shape, text)
    assert array.shape == shape
    assert array.tobytes() == b"\1\2\3\4\5\6"


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
        ((2,), "5", "data must be a list, got 5"),
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


def test_tensors_longer_than_a_chunk_are_whole() -> None:
    for array in (np.arange(150_000, dtype=np.int32), np.arange(150_000, dtype=np.float32)):
        assert json.loads(write_data(Tensor.from_numpy("x", array), 2**22)) == array.tolist()
