"""Arrays of other libraries, in by DLPack without a copy, and out as arrays that others take over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capamesh.client.arrays import arrays_of, tensors_of
from capamesh.client.asks import ask_infer
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import InferRequest, InferResponse, decode_response, encode_response
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec


class Foreign:
    """An array of another library, as torch's are: numpy knows of it by DLPack alone."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self._array = array
        self._device = device
        self.asked: list[dict[str, Any]] = []

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if isinstance(self._array, Exception):
            raise self._array
        if self._device[0] != 1:
            assert options["dl_device"] == (1, 0)
            options["dl_device"] = None
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Foreign(BufferError("requires grad")), "a Foreign that numpy cannot take over: requires"),
        (Foreign(BufferError("no copy"), device=(2, 0)), "cannot take over: no copy; give it as a"),
        (Foreign(ValueError("bfloat16")), "bfloat16; give it as a numpy array, such as"),
    ],
)
def test_array_that_cannot_be_taken_over_says_what_to_do(given: Foreign, said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"input 'X' is {said}|{said}"):
        ask_infer("m", {"X": given})


def answered(array: Any, *, is_binary: bool, datatype: Datatype | None = None) -> Any:
    tensor = Tensor.from_numpy("y", array, datatype)
    asked = InferRequest("m", "", "", (tensor,), is_binary_default=is_binary)
    buffers, json_bytes = encode_response(InferResponse("m", "1", "", (tensor,)), asked)
    body = np.frombuffer(bytearray(b"".join(buffers)), np.uint8).data
    return body, decode_response(body, json_bytes)


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        ROWS,
        np.arange(5, dtype=np.int64),
        np.array([True, False]),
        np.array([1.5], np.float16),
        np.zeros((0, 3), np.uint8),
    ],
    ids=lambda array: str(array.dtype),
)
def test_outputs_are_the_caller_s_own_and_others_take_them_over(
    array: Any, is_binary: bool
) -> None:
    _, response = answered(array, is_binary=is_binary)
    output = arrays_of(response.outputs)["y"]
    assert output.flags.writeable
    assert output.flags.aligned
    np.testing.assert_array_equal(np.from_dlpack(Foreign(output)), array)
    np.testing.assert_array_equal(output, array)
    output[...] = 0


def test_output_lies_in_the_answer_where_it_is_aligned_there() -> None:
    body, response = answered(np.arange(5, dtype=np.uint8), is_binary=True)
    output = arrays_of(response.outputs)["y"]
    assert np.shares_memory(output, np.frombuffer(body, np.uint8))
    for other, datatype in ((np.float32([1.5]), Datatype.BF16), (np.array([b"a"], object), None)):
        _, response = answered(other, is_binary=True, datatype=datatype)
        assert arrays_of(response.outputs)["y"].flags.writeable


def test_array_of_another_library_goes_without_a_copy_or_is_cast_where_that_is_asked_for() -> None:
    (tensor,) = tensors_of({"X": Foreign(ROWS)})
    assert (tensor.datatype, tensor.shape) == (Datatype.FP32, (2, 3))
    assert np.shares_memory(tensor.to_numpy(), ROWS)
    on_device = Foreign(ROWS, device=(2, 0))
    (tensor,) = tensors_of({"X": on_device})
    assert tensor.to_numpy().tolist() == ROWS.tolist()
    specs = {"X": TensorSpec("X", Datatype.FP32, (-1, 3))}
    (tensor,) = tensors_of({"X": Foreign(ROWS.astype(np.float64))}, specs, is_cast=True)
    assert (tensor.datatype, tensor.to_numpy().tolist()) == (Datatype.FP32, ROWS.tolist())
