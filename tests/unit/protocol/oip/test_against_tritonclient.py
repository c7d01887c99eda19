"""An independent client's encoder and decoder as the reference."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from capamesh.protocol.oip import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from capamesh.protocol.tensors import Datatype, Tensor

with warnings.catch_warnings():
    # what the client's own dependencies deprecate is not this project's to fix
    warnings.simplefilter("ignore", DeprecationWarning)
    import tritonclient.http as triton
    from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

_SHAPES = [(), (0,), (2, 3)]
_SENDABLE = [
    (datatype, is_binary)
    for datatype in Datatype
    for is_binary in (True, False)
    if is_binary or datatype is not Datatype.BF16  # which the client refuses to send as JSON
]


def _array(datatype: Datatype, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return an array in the client's own dtype with the datatype's extremes among its values."""
    count = int(np.prod(shape))
    if datatype is Datatype.BYTES:
        words = [b"", "é".encode(), b"\0\0", b"abc\0", b"x" * 300, b"-"]
        array = np.empty(count, dtype=object)
        array[:] = (words * count)[:count]
        return array.reshape(shape)
    dtype = np.dtype(triton_to_np_dtype(datatype.value))
    if dtype.kind == "b":
        values = np.array([True, False, True])
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.array([info.max, info.min, 1], dtype)
    else:
        info = ml_dtypes.finfo(dtype)
        values = np.array([info.max, info.smallest_subnormal, -0.1], np.float64).astype(dtype)
    return np.resize(values, count).reshape(shape)


def _raw(array: np.ndarray[Any, Any], datatype: Datatype) -> bytes:
    if datatype is not Datatype.BYTES:
        return array.tobytes()
    return serialize_byte_tensor(array).item() if array.size else b""


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize(("datatype", "is_binary"), _SENDABLE)
def test_request_of_the_client_is_understood_and_ours_means_the_same(
    datatype: Datatype, is_binary: bool, shape: tuple[int, ...]
) -> None:
    array = _array(datatype, shape)
    theirs = triton.InferInput("x", list(shape), datatype.value)
    theirs.set_data_from_numpy(array, binary_data=is_binary)
    body, header_length = triton.InferenceServerClient.generate_request_body(
        [theirs],
        outputs=[
            triton.InferRequestedOutput("p", binary_data=True),
            triton.InferRequestedOutput("q", binary_data=False),
        ],
        request_id="r-1",
        sequence_id=5,
        sequence_start=True,
        priority=2,
        timeout=1000,
        parameters={"custom": "é"},
    )
    request = decode_request("m", "1", body, header_length)
    assert request == InferRequest(
        "m",
        "1",
        "r-1",
        (Tensor("x", datatype, shape, _raw(array, datatype)),),
        (RequestedOutput("p", is_binary=True), RequestedOutput("q", is_binary=False)),
        is_binary_default=False,
        parameters={
            "sequence_id": 5,
            "sequence_start": True,
            "sequence_end": False,
            "priority": 2,
            "timeout": 1000,
            "custom": "é",
        },
    )
    buffers, our_length = encode_request(
        request.inputs,
        outputs=request.outputs,
        is_binary=is_binary,
        id=request.id,
        parameters=request.parameters,
    )
    again = decode_request("m", "1", b"".join(buffers), our_length)
    assert (again.inputs, again.outputs) == (request.inputs, request.outputs)
    assert again.is_binary_default is is_binary


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", list(Datatype))
def test_client_reads_our_answer_exactly(
    datatype: Datatype, is_binary: bool, shape: tuple[int, ...]
) -> None:
    array = _array(datatype, shape)
    other = np.arange(4, dtype=np.int8)
    response = InferResponse(
        "m", "3", "", (Tensor.from_numpy("x", array), Tensor.from_numpy("z", other))
    )
    request = InferRequest("m", "", "r", (), (), is_binary)
    buffers, header_length = encode_response(response, request)
    body = b"".join(buffers)
    result = triton.InferenceServerClient.parse_response_body(body, header_length=header_length)
    assert result.get_response()["model_name"] == "m"
    assert result.get_response()["model_version"] == "3"
    assert result.get_response()["id"] == "r"
    theirs = result.as_numpy("x")
    assert theirs.shape == shape
    if datatype is Datatype.BYTES and not is_binary:
        theirs = np.array([text.encode() for text in theirs.reshape(-1)], dtype=object)
        assert theirs.tolist() == array.reshape(-1).tolist()
    elif datatype is Datatype.BYTES:
        assert theirs.reshape(-1).tolist() == array.reshape(-1).tolist()
    else:
        assert theirs.dtype == array.dtype
        assert theirs.tobytes() == array.tobytes()
    np.testing.assert_array_equal(result.as_numpy("z"), other)
    back = decode_response(body, header_length).outputs[0]
    assert bytes(back.data) == _raw(array, datatype)
