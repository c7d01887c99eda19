"""Tensors: their datatypes, their data, what they may hold, and the windows that a model declares."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensors import (
    MAX_CLASSES,
    Datatype,
    Limits,
    Tensor,
    TensorSpec,
    bf16_from_fp32,
    bf16_from_fp64,
    check_classifiable,
    checked,
    classified,
    fp32_from_bf16,
    has_classes,
    has_rows,
    join_elements,
)
from capamesh.protocol.tensors.classification import MAX_SCORES
from capamesh.protocol.windows import Windows, constant_data, one_element, windows_problem

_FIXED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]


@given(st.data(), st.sampled_from(_FIXED))
def test_numpy_array_of_any_fixed_datatype_and_shape_round_trips(
    data: st.DataObject, datatype: Datatype
) -> None:
    shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array = data.draw(npst.arrays(datatype.numpy_dtype, shapes))
    tensor = checked(Tensor.from_numpy("x", array, datatype))
    assert (tensor.datatype, tensor.shape) == (datatype, array.shape)
    assert tensor.size_bytes == array.nbytes
    back = tensor.to_numpy()
    assert back.dtype == datatype.numpy_dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=6), max_size=12), st.booleans())
def test_bytes_array_of_any_shape_round_trips(elements: list[bytes], is_column: bool) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    if is_column:
        array = array.reshape(-1, 1)
    tensor = checked(Tensor.from_numpy("x", array))
    assert tensor.datatype is Datatype.BYTES
    assert tensor.shape == array.shape
    back = tensor.to_numpy()
    assert back.shape == array.shape
    assert back.reshape(-1).tolist() == elements


def test_fixed_size_tensor_is_viewed_without_a_copy_and_cannot_be_written() -> None:
    raw = bytearray(8)
    array = Tensor("x", Datatype.FP32, (2,), raw).to_numpy()
    raw[:4] = np.float32(1.5).tobytes()
    assert array.tolist() == [1.5, 0.0]
    assert not array.flags.writeable
    assert not Tensor("x", Datatype.BYTES, (1,), b"\0\0\0\0").to_numpy().flags.writeable


def test_contiguous_little_endian_array_is_shared_and_any_other_is_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(Tensor.from_numpy("x", array).to_numpy(), array)
    columns = Tensor.from_numpy("x", array.T)
    assert columns.shape == (3, 2)
    assert columns.to_numpy().tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    swapped = Tensor.from_numpy("x", array.astype(">f4"))
    assert bytes(swapped.data) == array.tobytes()


def test_bytes_elements_have_a_four_byte_length_and_text_is_utf_8() -> None:
    array = np.array(["é", b"\xff\0"], dtype=object)
    assert bytes(Tensor.from_numpy("x", array).data) == b"\x02\0\0\0\xc3\xa9\x02\0\0\0\xff\0"
    assert bytes(Tensor.from_numpy("x", np.array(["ab"])).data) == b"\x02\0\0\0ab"


def test_bf16_takes_bit_patterns_floats_and_foreign_bfloat16_alike() -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    for array in (
        bits,
        np.array([1.0, -2.0], np.float16),
        np.array([1.0, -2.0], np.float32),
        np.array([1.0, -2.0], np.float64),
        np.array([1.0, -2.0], ml_dtypes.bfloat16),
    ):
        tensor = Tensor.from_numpy("x", array, Datatype.BF16)
        assert tensor.datatype is Datatype.BF16
        assert tensor.to_numpy().tolist() == bits.tolist()
    assert Tensor.from_numpy("x", np.zeros(1, ml_dtypes.bfloat16)).datatype is Datatype.BF16


@pytest.mark.parametrize(
    ("array", "datatype", "said"),
    [
        (np.zeros(2, np.int64), Datatype.INT32, "an array of int64 is INT64, not INT32; cast it"),
        (np.zeros(2, np.int32), Datatype.BF16, "an array of int32 cannot become BF16"),
        (np.array(["a", 5], object), None, "element 1 is int; BYTES takes bytes or text"),
        (np.array(["\ud800"], object), None, "element 0 is text that UTF-8 cannot encode"),
        *[
            (np.zeros(1, dtype), None, "has no datatype in the protocol")
            for dtype in ("complex64", "datetime64[s]", "V3")
        ],
    ],
)
def test_array_that_is_no_tensor_is_refused(
    array: Any, datatype: Datatype | None, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Tensor.from_numpy("x", array, datatype)


_GOOD = Tensor("x", Datatype.FP32, (2, 3), bytes(24))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_GOOD.replace(data=bytes(23)), r"FP32 of shape \[2, 3\] needs 24 bytes, got 23"),
        (_GOOD.replace(shape=(2, -3)), r"shape \[2, -3\]; every dimension must be from 0 to"),
        (_GOOD.replace(shape=(2**40,), data=b""), f"needs {2**42} bytes, got 0"),
        (_GOOD.replace(shape=(2**62, 2**62)), f"needs {2**126} bytes, got 24"),
        (_GOOD.replace(shape=(1,) * 33), "has 33 dimensions; the limit is 32"),
        (_GOOD.replace(shape=(0, 2**62), data=b""), "non-zero dimensions span"),
        (
            _GOOD.replace(shape=(2**26 + 1, 0), data=b""),
            f"non-zero dimensions span {2**28 + 4} bytes, the limit is {2**28}",
        ),
        (_GOOD.replace(name=""), "1 to 1024 characters, got 0"),
        (_GOOD.replace(name="n" * 1025), "1 to 1024 characters, got 1025"),
        (Tensor("b", Datatype.BOOL, (3,), b"\0\1\2"), "BOOL element 2 is the byte 2"),
        (Tensor("s", Datatype.BYTES, (2,), b"\0\0\0\0"), "need at least 8 bytes"),
        (
            Tensor("s", Datatype.BYTES, (1,), b"\4\0\0\0abc"),
            "claims 4 bytes and would end at byte 8",
        ),
        (Tensor("s", Datatype.BYTES, (1,), b"\1\0\0\0ab"), "1 bytes are left after its 1"),
        (Tensor("s", Datatype.BYTES, (0,), b"\0\0\0\0"), "4 bytes are left after its 0"),
        (
            Tensor("s", Datatype.BYTES, (2,), b"\1\0\0\0a\0\0\0"),
            "ends in the length of BYTES element 1",
        ),
    ],
)
def test_disagreement_is_named_with_its_numbers(tensor: Tensor, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        checked(tensor)


def test_more_texts_than_an_event_loop_should_read_are_too_large() -> None:
    texts = Tensor("s", Datatype.BYTES, (3,), bytes(12))
    checked(texts, Limits(max_texts=3))
    assert checked(_GOOD, Limits(max_message_bytes=24)) is _GOOD
    with pytest.raises(TooLarge, match="has 24 bytes; the limit of a message is 23"):
        checked(_GOOD, Limits(max_message_bytes=23))
    with pytest.raises(
        TooLarge, match="'s': 3 BYTES elements in this message; the limit is 2: split"
    ):
        checked(texts, Limits(max_texts=2))


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_bytes_cut_anywhere_are_refused(elements: list[bytes]) -> None:
    raw = join_elements(elements)
    shape = (len(elements),)
    checked(Tensor("s", Datatype.BYTES, shape, raw))
    for end in range(len(raw)):
        with pytest.raises(InvalidRequest):
            checked(Tensor("s", Datatype.BYTES, shape, raw[:end]))


@given(
    st.sampled_from(Datatype),
    st.lists(st.integers(-1, 2**65) | st.integers(0, 3), max_size=34),
    st.binary(max_size=32),
)
def test_junk_either_passes_and_can_be_read_or_is_an_invalid_request(
    datatype: Datatype, shape: list[int], data: bytes
) -> None:
    tensor = Tensor("x", datatype, tuple(shape), data)
    try:
        checked(tensor)
    except (InvalidRequest, TooLarge):
        return
    assert tensor.to_numpy().shape == tuple(shape)


def test_wrong_truth_is_found_wherever_it_is_without_memory_of_the_data_s_size() -> None:
    data = bytearray(8 * 2**20)
    for index in (len(data) - 1, 2**20, 2**20 - 1):  # each before the one that was found last
        data[index] = 2
        tracemalloc.start()
        try:
            with pytest.raises(InvalidRequest, match=f"BOOL element {index} is the byte 2;"):
                checked(Tensor("b", Datatype.BOOL, (len(data),), data))
            assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        finally:
            tracemalloc.stop()


def test_every_fixed_size_datatype_is_as_wide_as_its_little_endian_numpy_dtype() -> None:
    for datatype in Datatype:
        if datatype is Datatype.BYTES:
            assert datatype.itemsize_bytes is None
            assert datatype.numpy_dtype == np.dtype(object)
        else:
            assert datatype.itemsize_bytes == datatype.numpy_dtype.itemsize
            assert datatype.numpy_dtype.newbyteorder("<") == datatype.numpy_dtype


def test_numpy_dtypes_of_either_byte_order_have_their_datatype() -> None:
    assert (Datatype.of_name("FP32"), Datatype.of_name("fp32")) == (Datatype.FP32, None)
    assert Datatype.of_numpy(np.float32) is Datatype.FP32
    assert Datatype.of_numpy(np.dtype(">f4")) is Datatype.FP32
    assert Datatype.of_numpy(np.dtype(">u8")) is Datatype.UINT64
    assert Datatype.of_numpy(np.dtype(bool)) is Datatype.BOOL
    assert Datatype.of_numpy(np.dtype(ml_dtypes.bfloat16)) is Datatype.BF16
    for text in ("O", "S5", "U5"):
        assert Datatype.of_numpy(np.dtype(text)) is Datatype.BYTES
    for datatype in set(Datatype) - {Datatype.BF16}:
        assert Datatype.of_numpy(datatype.numpy_dtype) is datatype


def test_spec_says_why_a_tensor_does_not_fit() -> None:
    spec = TensorSpec("x", Datatype.FP32, (-1, 30))
    assert spec.accepts(Datatype.FP64, (7, 30)) == "tensor 'x' is FP64, the model takes FP32"
    assert spec.accepts(Datatype.FP32, (30,)) == (
        "tensor 'x' has shape [30], the model takes [-1, 30] (-1 is any size); one row alone has shape [1, 30]"
    )
    for shape in ((7, 31), (31,), (7, 30, 1), ()):
        assert spec.accepts(Datatype.FP32, shape) == (
            f"tensor 'x' has shape {list(shape)}, the model takes [-1, 30] (-1 is any size)"
        )


_ALL_BITS = np.arange(2**16, dtype=np.uint16)


def test_every_bit_pattern_survives_the_way_to_fp32_and_back_but_signalling_nans_turn_quiet() -> (
    None
):
    values = fp32_from_bf16(_ALL_BITS)
    back = bf16_from_fp32(values)
    is_nan = np.isnan(values)
    assert (back[~is_nan] == _ALL_BITS[~is_nan]).all()
    assert (back[is_nan] == _ALL_BITS[is_nan] | 0x40).all()


def test_rounding_is_that_of_an_independent_bfloat16_on_random_bit_patterns() -> None:
    bits = np.random.default_rng(20).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(bf16_from_fp32(values), theirs)


def test_ties_go_to_the_even_pattern_and_what_is_beyond_the_range_to_infinity() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32)
    rounded = bf16_from_fp32(bits.view(np.float32))
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80]
    above_tie = 1.0 + 2.0**-8 + 2.0**-40  # which FP32 cannot tell from the tie
    assert bf16_from_fp64(np.array([above_tie])).tolist() == [0x3F81]
    assert bf16_from_fp32(np.array([above_tie], np.float32)).tolist() == [0x3F80]


@given(st.floats(-3e38, 3e38) | st.floats(-1e-38, 1e-38))
def test_fp64_goes_to_the_nearest_bfloat16_by_exact_arithmetic(value: float) -> None:
    got = int(bf16_from_fp64(np.array([value]))[0])
    distance = _distance(got, value)
    for other in (got - 1, got + 1):
        if other & 0x7FFF < 0x7F80 and 0 <= other < 2**16:
            other_distance = _distance(other, value)
            assert distance < other_distance or (distance == other_distance and got % 2 == 0)


def _distance(bits: int, value: float) -> Fraction:
    near = float(fp32_from_bf16(np.array([bits], np.uint16))[0])
    return abs(Fraction(near) - Fraction(value))


SOUND = TensorSpec("input", Datatype.FP32, (-1, -1))
RATE = TensorSpec("sr", Datatype.INT64, ())
WINDOWS = Windows("input", 512, 64, 16_000, (("sr", 16_000),))


@pytest.mark.parametrize(
    ("windows", "inputs", "said"),
    [
        (WINDOWS, [SOUND, RATE], None),
        (WINDOWS, [TensorSpec("input", Datatype.INT16, (1, 1, 576)), RATE], None),
        (replace(WINDOWS, input="x"), [SOUND, RATE], "input 'x' is not one of the model's"),
        (WINDOWS, [replace(SOUND, datatype=Datatype.BYTES), RATE], "is text"),
        (WINDOWS, [replace(SOUND, shape=()), RATE], "shape []"),
        (WINDOWS, [replace(SOUND, shape=(-1, 512)), RATE], "must take 576 samples"),
        (WINDOWS, [replace(SOUND, shape=(2, -1)), RATE], "all others one element"),
        (replace(WINDOWS, samples=2**18 + 1), [SOUND, RATE], "at most 1048576 and 16384"),
        (replace(WINDOWS, context=4097), [SOUND, RATE], "16388 bytes"),
        (replace(WINDOWS, constants=()), [SOUND, RATE], "input 'sr' has no constant"),
        (WINDOWS, [SOUND], "the constant 'sr' is not another input"),
        (replace(WINDOWS, constants=(("sr", 0.5),)), [SOUND, RATE], "'sr' is 0.5"),
        (replace(WINDOWS, constants=(("sr", 1e300),)), [SOUND, RATE], "INT64"),
        (WINDOWS, [SOUND, replace(RATE, shape=(2,))], "shape [2]"),
    ],
)
def test_windows_that_do_not_fit_are_told_why(
    windows: Windows, inputs: list[TensorSpec], said: str | None
) -> None:
    problem = windows_problem(windows, inputs)
    assert said in problem if said else problem == ""


def test_constants_are_raw_bytes_of_their_datatype_or_none_beyond_it() -> None:
    for datatype, value, code in (
        (Datatype.BOOL, 1, "<?"),
        (Datatype.UINT8, 255, "<B"),
        (Datatype.FP16, 0.5, "<e"),
    ):
        spec = TensorSpec("c", datatype, (1, -1))
        assert constant_data(spec, value) == struct.pack(code, value)
    assert one_element((1, -1)) == (1, 1)
    for datatype, value in (
        (Datatype.UINT8, 256),
        (Datatype.BF16, 1),
        (Datatype.BYTES, 1),
        (Datatype.FP16, 1e6),
        (Datatype.INT8, float("nan")),
    ):
        assert constant_data(TensorSpec("c", datatype, ()), value) is None


def texts(
    array: Any, most: int, *labels: str, datatype: Datatype | None = None, is_by_rows: bool = True
) -> Any:
    given = Tensor.from_numpy("y", np.asarray(array), datatype)
    found = classified(given, most, labels, is_by_rows=is_by_rows)
    assert (found.name, found.datatype) == ("y", Datatype.BYTES)
    return found.to_numpy().tolist()


CUBE = np.arange(8, dtype=np.int32).reshape(2, 2, 2)


def test_largest_scores_of_each_row_come_first_with_index_and_label() -> None:
    scores = np.array([[1, 5, 10, 4], [0.5, 0.25, -1, 0]], np.float32)
    assert texts(scores, 2, "cat", "", "cow") == [
        [b"10.000000:2:cow", b"5.000000:1"],
        [b"0.500000:0:cat", b"0.250000:1"],
    ]
    assert texts(np.array([[0, 2**64 - 1]], np.uint64), 99) == [[b"18446744073709551615:1", b"0:0"]]
    # equal ones keep their order, and NaN counts as minus infinity
    scores = np.array([[7, np.nan, 7, -np.inf, np.inf]], np.float32)
    assert texts(scores, 5) == [[b"inf:4", b"7.000000:0", b"7.000000:2", b"nan:1", b"-inf:3"]]
    (row,) = texts(np.random.default_rng(7).integers(0, 3, (1, 1000)), 500)
    found = [tuple(map(int, text.split(b":"))) for text in row]
    assert found == sorted(found, key=lambda each: (-each[0], each[1]))


def test_all_dimensions_after_the_rows_are_the_scores_of_a_row() -> None:
    assert texts(CUBE, 1) == [[b"3:3"], [b"7:3"]]
    assert texts(np.array([1, 3], np.int32), 2) == [[b"1:0"], [b"3:0"]]
    assert texts(CUBE, 2, is_by_rows=False) == [b"7:7", b"6:6"]
    assert texts(np.float32(3), 2, is_by_rows=False) == [b"3.000000:0"]
    for shape in ((0, 3), (2, 0), (0,)):
        for is_by_rows in (True, False):
            assert np.size(texts(np.zeros(shape, np.float32), 2, is_by_rows=is_by_rows)) == 0


def test_output_has_classes_where_a_row_has_several_numbers() -> None:
    for datatype, shape, expected in (
        (Datatype.FP32, (-1, 3), True),
        (Datatype.UINT8, (3,), True),
        (Datatype.FP32, (), True),
        (Datatype.INT64, (-1,), False),
        (Datatype.FP32, (-1, 1), False),
        (Datatype.BYTES, (-1, 3), False),
        (Datatype.BOOL, (3,), False),
    ):
        assert has_classes(TensorSpec("y", datatype, shape)) is expected
    # and an open first dimension counts rows
    rows = {((-1, 3), 2): True, ((1, 3), 2): False, ((3,), 1): False, ((), 2): True, ((), 1): False}
    assert {
        (shape, dimensions): has_rows(TensorSpec("y", Datatype.FP32, shape), dimensions)
        for shape, dimensions in rows
    } == rows


def test_what_is_no_score_and_too_many_scores_or_classes_are_refused() -> None:
    for datatype in (Datatype.BYTES, Datatype.BOOL):
        said = f"output 'y' is {datatype}, which are no scores: ask for it without classification"
        with pytest.raises(InvalidRequest, match=said):
            check_classifiable("y", datatype)
        with pytest.raises(InvalidRequest, match=said):
            classified(Tensor("y", datatype, (1,), b"\0"), 1, is_by_rows=True)
    for shape, most, said in (
        ((1, MAX_SCORES + 1), 1, f"has {MAX_SCORES + 1} scores"),
        ((MAX_CLASSES + 1, 1), 5, f"would have {MAX_CLASSES + 1} classes"),
    ):
        large = Tensor("y", Datatype.UINT8, shape, bytes(max(shape)))
        with pytest.raises(TooLarge, match=said):
            classified(large, most, is_by_rows=True)
