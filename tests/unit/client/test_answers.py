"""Answers: their errors, their bodies as they arrive, the classes and the arrays in them."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.client import ClassScore
from capamesh.client.answers import (
    Answer,
    Outputs,
    failure_of,
    read_held_list,
    read_metadata,
    read_models,
    read_nodes,
)
from capamesh.client.arrays import arrays_of, tensors_of
from capamesh.client.arriving import ALIGNMENT, ArrivingBody
from capamesh.client.asks import ask_infer
from capamesh.protocol.errors import CapameshError, InvalidRequest, ProtocolViolation, TooLarge
from capamesh.protocol.oip import (
    InferRequest,
    InferResponse,
    decode_request,
    decode_response,
    encode_response,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "inputs", "outputs", "shape", "datatype", "nodes", "version"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_is_a_violation(value: object) -> None:
    answer = Answer(200, json.dumps(value).encode())
    for read in (read_models, read_metadata, read_nodes, read_held_list):
        with contextlib.suppress(ProtocolViolation):
            read(answer)


@given(st.integers(100, 599), st.binary(max_size=400), st.none() | st.text(max_size=20))
def test_any_failure_is_an_error_of_the_tree(status: int, body: bytes, code: str | None) -> None:
    error = failure_of(Answer(status, body, code), "http://router:8000")
    assert isinstance(error, CapameshError)
    assert error.message


def test_failure_of_a_proxy_says_its_title_or_beginning_and_how_a_key_is_given() -> None:
    error = failure_of(Answer(502, b"<html>\n" + b"x" * 1000, "overloaded"), "http://r:1")
    assert error.message == f"http://r:1 answered with HTTP status 502: <html> {'x' * 293}"
    page = b"<html><head><title>401 Authorization Required</title></head><body>nginx</body></html>"
    said = failure_of(Answer(401, page), "http://r:1").message
    start = "http://r:1 answered with HTTP status 401: "
    assert said.startswith(
        f"{start}401 Authorization Required; a proxy in front of the router asks"
    )
    assert "--header 'Authorization: Bearer KEY'" in said
    ours = failure_of(Answer(401, b'{"error": "no key of this router"}'), "http://r:1")
    assert ours.message == f"{start}no key of this router"


LAST = "Fri, 31 Dec 1999 23:59:59 GMT"


@pytest.mark.parametrize(
    ("status", "code", "hint", "date", "seconds"),
    [
        (429, "too_many_requests", "3", None, 3.0),
        (503, "overloaded", "30", None, 30.0),
        (503, "no_endpoint", "1", None, 1.0),
        (503, "draining", "7", None, 7.0),
        (503, "keys_unavailable", "7", None, 7.0),
        (429, None, "2", None, 2.0),
        (503, None, LAST, None, 0.0),
        (503, "overloaded", None, None, 0.0),
        (503, None, LAST, LAST.replace("59 GMT", "29 GMT"), 30.0),
        (503, None, LAST, "Sat, 01 Jan 2000 00:00:00 GMT", 0.0),
        (503, None, LAST, "soon", 0.0),
        (503, None, LAST[:-4], LAST, 0.0),
        (503, None, "9" * 10, None, 0.0),
        (503, None, "-1", None, 0.0),
        (503, None, "²", None, 0.0),
    ],
)
def test_refusal_says_when_to_come_again_and_that_it_may_be_tried_again(
    status: int, code: str | None, hint: str | None, date: str | None, seconds: float
) -> None:
    answer = Answer(status, b'{"error": "full"}', code, retry_after=hint, date=date)
    error = failure_of(answer, "http://r:1")
    assert (error.is_retryable, error.retry_after_s) == (True, seconds)
    assert error.code == (code or error.code)
    assert error.message == (
        "full" if code else f"http://r:1 answered with HTTP status {status}: full"
    )


def address(view: memoryview, offset: int) -> int:
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0] + offset


def test_raw_tensors_begin_at_an_aligned_address() -> None:
    for json_bytes in (1, 16, 77):
        body = ArrivingBody(2_000, str(json_bytes), 2_000)
        body.add(b"a" * 700)
        assert (body.is_whole, body.missing_bytes) == (False, 1_300)
        body.add(b"b" * 1_300)
        assert (body.is_whole, body.missing_bytes) == (True, 0)
        view = body.view()
        assert (bytes(view), view.readonly) == (b"a" * 700 + b"b" * 1_300, False)
        assert address(view, json_bytes) % ALIGNMENT == 0
    for no_length in (None, "", "-1", "x", "²", "9" * 40):
        body = ArrivingBody(3, no_length, 3)
        body.add(b"abc")
        assert bytes(body.view()) == b"abc"


def test_body_takes_what_was_announced_or_up_to_the_limit() -> None:
    body = ArrivingBody(None, "2", 5)
    body.add(b"abc")
    assert (body.is_whole, body.missing_bytes, bytes(body.view())) == (False, 0, b"abc")
    body.add(b"de")
    with pytest.raises(TooLarge, match="more than 5 bytes"):
        body.add(b"f")
    with pytest.raises(TooLarge, match="the answer has 6 bytes; the limit is 5"):
        ArrivingBody(6, None, 5)
    assert ArrivingBody(0, None, 5).is_whole
    with pytest.raises(TooLarge, match="more than 2 bytes"):
        ArrivingBody(2, None, 5).add(b"abc")


ONE = {"X": np.ones(1, np.float32)}


def asked(**options: Any) -> dict[str, int]:
    """Return the outputs that are asked for, with how many classes of each."""
    ask = ask_infer("m", ONE, is_binary=False, **options)
    request = decode_request("m", "", b"".join(ask.buffers), None)
    names = [output.name for output in request.outputs]
    return dict(zip(names, request.classes or (0,) * len(names), strict=True))


def answered(*texts: Any, shape: list[int], datatype: str = "BYTES", name: str = "y") -> Outputs:
    body = {
        "model_name": "m",
        "outputs": [{"name": name, "datatype": datatype, "shape": shape, "data": list(texts)}],
    }
    ask = ask_infer("m", ONE, classes={"y": 3})
    return ask.read(Answer(200, json.dumps(body).encode()), "http://router")


def test_classes_that_cannot_be_asked_for_are_refused() -> None:
    wrong: dict[str, Any] = {
        "classes is 3; give outputs with how many, such as {'probabilities': 3}": 3,
        "classes of output 'y' is 0; a whole number from 1 to 8192 is expected": {"y": 0},
        "is 8193; ": {"y": 8193},
        "is True; ": {"y": True},
        "is '3'; ": {"y": "3"},
    }
    for said, classes in wrong.items():
        with pytest.raises(InvalidRequest, match=said):
            ask_infer("m", ONE, classes=classes)


def test_classes_of_each_row_come_as_values() -> None:
    outputs = answered("2.5:1:dog", "-1:0", "nan:7:a:b", "inf:3:", shape=[2, 2])
    first, second = outputs.classes["y"]
    assert first == [ClassScore(2.5, 1, "dog"), ClassScore(-1.0, 0, "")]
    assert math.isnan(second[0].score)
    assert (second[0].index, second[0].label) == (7, "a:b")
    assert second[1] == ClassScore(math.inf, 3, "")
    assert outputs["y"].tolist() == [[b"2.5:1:dog", b"-1:0"], [b"nan:7:a:b", b"inf:3:"]]


def test_classes_without_rows_are_one_row() -> None:
    assert answered("7:1:dog", shape=[1]).classes == {"y": [[ClassScore(7.0, 1, "dog")]]}
    assert answered(shape=[0, 3]).classes == {"y": []}
    assert answered(shape=[2, 0]).classes == {"y": [[], []]}
    assert answered("1", shape=[1], name="other").classes == {}
    (row,) = answered("1:0:\x1b[2Jcat\u202e", shape=[1]).classes["y"]
    assert row[0].label == "\ufffd[2Jcat\ufffd"


def test_text_that_is_no_class_breaks_the_protocol() -> None:
    for text in ("", "1", "x:1", "1:-1", "1:1.5", "1:\u0661", "1:" + "9" * 19, ":0"):
        with pytest.raises(ProtocolViolation, match=r"'y' is b'.*', and texts 'score:index:label'"):
            answered(text, shape=[1])
    with pytest.raises(ProtocolViolation, match=r"output 'y' is FP32\[1, 2\], and texts"):
        answered(1.0, 2.0, shape=[1, 2], datatype="FP32")
    with pytest.raises(ProtocolViolation, match=r"output 'y' is BYTES\[1, 1, 1\], and texts"):
        answered("1:0", shape=[1, 1, 1])


def test_outputs_of_classes_are_asked_for_with_how_many() -> None:
    assert asked(outputs=["n"]) == {"n": 0}
    assert asked(outputs=["n", "y"], classes={"y": 3, "z": 1}) == {"n": 0, "y": 3, "z": 1}


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


def test_array_that_cannot_be_taken_over_says_what_to_do() -> None:
    for error, device, said in (
        (BufferError("requires grad"), 1, "a Foreign that numpy cannot take over: requires"),
        (BufferError("no copy"), 2, "cannot take over: no copy; give it as a"),
        (ValueError("bfloat16"), 1, "bfloat16; give it as a numpy array, such as"),
    ):
        with pytest.raises(InvalidRequest, match=f"input 'X' is .*{said}"):
            ask_infer("m", {"X": Foreign(error, device=(device, 0))})


def came(array: Any, *, is_binary: bool, datatype: Datatype | None = None) -> Any:
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
    _, response = came(array, is_binary=is_binary)
    output = arrays_of(response.outputs)["y"]
    assert output.flags.writeable
    assert output.flags.aligned
    np.testing.assert_array_equal(np.from_dlpack(Foreign(output)), array)
    np.testing.assert_array_equal(output, array)
    output[...] = 0


def test_output_lies_in_the_answer_where_it_is_aligned_there() -> None:
    body, response = came(np.arange(5, dtype=np.uint8), is_binary=True)
    output = arrays_of(response.outputs)["y"]
    assert np.shares_memory(output, np.frombuffer(body, np.uint8))
    for other, datatype in ((np.float32([1.5]), Datatype.BF16), (np.array([b"a"], object), None)):
        _, response = came(other, is_binary=True, datatype=datatype)
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
