from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype, Tensor, checked, join_elements, split_elements

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


def test_values_are_not_cast_silently() -> None:
    with pytest.raises(
        InvalidRequest, match="an array of int64 is INT64, not INT32; cast it first"
    ):
        Tensor.from_numpy("x", np.zeros(2, np.int64), Datatype.INT32)
    with pytest.raises(InvalidRequest, match="an array of int32 cannot become BF16"):
        Tensor.from_numpy("x", np.zeros(2, np.int32), Datatype.BF16)


def test_element_that_is_neither_bytes_nor_text_is_named() -> None:
    with pytest.raises(InvalidRequest, match="element 1 is int; BYTES takes bytes or text"):
        Tensor.from_numpy("x", np.array(["a", 5], dtype=object))
    with pytest.raises(InvalidRequest, match="element 0 is text that UTF-8 cannot encode"):
        Tensor.from_numpy("x", np.array(["\ud800"], dtype=object))


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        (Datatype.FP32, (2,), b"1234"),
        (Datatype.FP32, (2**70,), b""),
        (Datatype.BYTES, (2**40,), b"\0\0\0\0"),
        (Datatype.BYTES, (1,), b"\x05\0\0\0abc"),
    ],
)
def test_data_that_does_not_match_the_shape_is_refused_without_allocating(
    datatype: Datatype, shape: tuple[int, ...], data: bytes
) -> None:
    with pytest.raises(InvalidRequest):
        Tensor("x", datatype, shape, data).to_numpy()


def test_elements_are_split_from_a_slice_of_a_larger_buffer() -> None:
    raw = join_elements([b"", b"ab", b"\0"])
    assert raw == b"\0\0\0\0\x02\0\0\0ab\x01\0\0\0\0"
    assert split_elements(memoryview(b"xx" + raw)[2:], 3) == [b"", b"ab", b"\0"]
