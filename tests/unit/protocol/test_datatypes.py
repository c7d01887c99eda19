from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype, TensorSpec


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


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "V3"])
def test_numpy_dtype_without_a_datatype_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(InvalidRequest, match="has no datatype in the protocol"):
        Datatype.of_numpy(np.dtype(dtype))


def test_spec_accepts_any_size_where_it_says_minus_one() -> None:
    spec = TensorSpec("x", Datatype.FP32, (-1, 30))
    assert spec.accepts(Datatype.FP32, (7, 30)) is None
    assert spec.accepts(Datatype.FP32, (0, 30)) is None
    assert spec.accepts(Datatype.FP32, [1, 30]) is None


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
