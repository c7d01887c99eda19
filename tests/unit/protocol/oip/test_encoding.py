from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.errors import (
    InvalidRequest,
    ModelUnavailable,
    NotInJson,
    ProtocolViolation,
    TooLarge,
)
from capamesh.protocol.oip import (
    IndexState,
    InferRequest,
    InferResponse,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    error_body,
    index_entry,
    model_config_body,
    model_metadata_body,
)
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec

_A = Tensor("a", Datatype.INT16, (2,), b"\1\0\2\0")
_B = Tensor("b", Datatype.BYTES, (), b"\1\0\0\0z")
_C = Tensor("c", Datatype.FP32, (0, 4), b"")
_RESPONSE = InferResponse("m", "3", "", (_A, _B, _C), {"took_ms": 1.5})


def _request(
    *outputs: RequestedOutput,
    is_binary_default: bool = False,
    id: str = "",  # noqa: A002 -- the protocol's own word
) -> InferRequest:
    return InferRequest("m", "", id, (), outputs, is_binary_default)


def _json(buffers: list[bytes | memoryview]) -> Any:
    return json.loads(buffers[0])


def test_answer_in_json_is_one_buffer_without_a_json_length() -> None:
    buffers, header_length = encode_response(_RESPONSE, _request(id="7"))
    assert header_length is None
    assert buffers == [
        b'{"model_name":"m","model_version":"3","id":"7","parameters":{"took_ms":1.5},"outputs":['
        b'{"name":"a","datatype":"INT16","shape":[2],"data":[1,2]},'
        b'{"name":"b","datatype":"BYTES","shape":[],"data":["z"]},'
        b'{"name":"c","datatype":"FP32","shape":[0,4],"data":[]}]}'
    ]


def test_answer_in_binary_passes_the_very_buffers_on() -> None:
    raw = bytearray(b"\1\0\2\0")
    response = InferResponse("m", "", "", (Tensor("a", Datatype.INT16, (2,), raw), _B, _C))
    buffers, header_length = encode_response(response, _request(is_binary_default=True))
    assert buffers[0] == (
        b'{"model_name":"m","outputs":['
        b'{"name":"a","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},'
        b'{"name":"b","datatype":"BYTES","shape":[],"parameters":{"binary_data_size":5}},'
        b'{"name":"c","datatype":"FP32","shape":[0,4],"parameters":{"binary_data_size":0}}]}'
    )
    assert header_length == len(buffers[0])
    raw[0] = 9
    assert buffers[1] == b"\x09\0\2\0"
    assert buffers[2] is _B.data
    assert buffers[3] == b""


def test_outputs_come_as_requested_in_the_order_and_form_that_each_asks_for() -> None:
    request = _request(
        RequestedOutput("c"),
        RequestedOutput("a", is_binary=False),
        RequestedOutput("b", is_binary=True),
        is_binary_default=True,
    )
    buffers, header_length = encode_response(_RESPONSE, request)
    outputs = _json(buffers)["outputs"]
    assert [output["name"] for output in outputs] == ["c", "a", "b"]
    assert [output.get("data") for output in outputs] == [None, [1, 2], None]
    assert buffers[1:] == [b"", b"\1\0\0\0z"]
    assert header_length == len(buffers[0])


def test_output_that_is_not_its_shape_is_the_peers_fault() -> None:
    response = InferResponse("m", "", "", (Tensor("a", Datatype.INT16, (2,), b"123"),))
    with pytest.raises(ProtocolViolation, match=r"malformed output: tensor 'a': INT16 .* got 3"):
        encode_response(response, _request())
    with pytest.raises(InvalidRequest, match="got 3"):
        encode_request(response.outputs)
    with pytest.raises(InvalidRequest, match=r"'m' has no output 'q'; it has \['a', 'b', 'c'\]"):
        encode_response(_RESPONSE, _request(RequestedOutput("q")))


def test_values_that_json_cannot_hold_are_refused_in_json_and_pass_in_binary() -> None:
    nan = Tensor.from_numpy("n", np.array([np.nan], np.float32))
    blob = Tensor.from_numpy("s", np.array([b"\xff"], dtype=object))
    response = InferResponse("m", "", "", (nan, blob))
    for name in ("n", "s"):
        with pytest.raises(NotInJson, match="ask for binary data"):
            encode_response(response, _request(RequestedOutput(name)))
    buffers, _ = encode_response(response, _request(is_binary_default=True))
    assert buffers[1:] == [nan.data, blob.data]
    with pytest.raises(InvalidRequest, match=r"JSON cannot hold {'k': nan}"):
        encode_response(InferResponse("m", "", "", (), {"k": float("nan")}), _request())


def test_more_json_than_the_limit_is_too_large_over_all_outputs_together() -> None:
    ones = [Tensor.from_numpy(name, np.ones(40, np.int8)) for name in "ab"]
    response = InferResponse("m", "", "", tuple(ones))
    with pytest.raises(TooLarge, match="tensor 'b' takes more than the 19 bytes that are left"):
        encode_response(response, _request(), Limits(max_json_answer_bytes=100))
    with pytest.raises(TooLarge, match="the limit is 200; use binary data"):
        encode_response(response, _request(), Limits(max_json_answer_bytes=200))


def test_malformed_answer_is_the_peers_fault_and_an_overlong_one_too_large() -> None:
    for body in (b"", b"[]", b"{}", b'{"outputs":[{}]}', b'{"model_name":1,"outputs":[]}'):
        with pytest.raises(ProtocolViolation, match="malformed answer: "):
            decode_response(body, None)
    with pytest.raises(ProtocolViolation, match="the literal NaN"):
        decode_response(b'{"outputs":[{"data":[NaN]}]}', None)
    with pytest.raises(TooLarge):
        decode_response(b'{"outputs":[]}', None, Limits(max_message_bytes=3))


def test_error_body_is_json_whatever_the_message_holds() -> None:
    for message in ("", 'a "quoted" é\n', "\ud800"):
        assert json.loads(error_body(message)) == {"error": message}
        told = json.loads(error_body(message, "too_large"))
        assert told == {"error": message, "code": "too_large"}


# classification


def test_request_asks_for_classes_of_the_outputs_that_say_how_many() -> None:
    outputs = [RequestedOutput("a"), RequestedOutput("b", is_binary=False), RequestedOutput("c")]
    buffers, _ = encode_request([], outputs=outputs, classes=[3, 2, 0], is_binary=False)
    assert _json(buffers)["outputs"] == [
        {"name": "a", "parameters": {"classification": 3}},
        {"name": "b", "parameters": {"binary_data": False, "classification": 2}},
        {"name": "c"},
    ]
    decoded = decode_request("m", "", bytes(buffers[0]), None)
    assert (decoded.outputs, decoded.classes) == (tuple(outputs), (3, 2, 0))


def test_output_that_a_node_did_not_classify_is_not_passed_on_as_it_is() -> None:
    request = InferRequest("m", "", "", (), (RequestedOutput("a"),), classes=(1,))
    with pytest.raises(ModelUnavailable, match="a version that does not classify output 'a'"):
        encode_response(_RESPONSE, request)
    request.classes = (0,)
    assert _json(encode_response(_RESPONSE, request)[0])["outputs"][0]["data"] == [1, 2]


_INPUTS = [TensorSpec("x", Datatype.FP32, (-1, 30)), TensorSpec("words", Datatype.BYTES, ())]
_OUTPUTS = [TensorSpec("label", Datatype.INT64, (-1,))]
LABELS = "labels.txt"
_ROWS_IN = [TensorSpec("x", Datatype.FP32, (-1, 30)), TensorSpec("k", Datatype.INT8, (-1, 2))]
_ROWS_OUT = [TensorSpec("y", Datatype.FP32, (-1, 3, 4))]


@pytest.mark.parametrize("rows", [0, 8])
def test_dims_of_a_model_that_takes_rows_leave_the_batch_out(rows: int) -> None:
    body = model_config_body("m", _ROWS_IN, _ROWS_OUT, max_batch_size=rows)
    assert body["max_batch_size"] == rows
    assert [one["dims"] for one in (*body["input"], *body["output"])] == [
        list(one.shape[1 if rows else 0 :]) for one in (*_ROWS_IN, *_ROWS_OUT)
    ]


def test_configuration_is_in_tritons_words() -> None:
    formats = {"x": "NHWC", "gone": "NCHW"}
    body = model_config_body("m", _INPUTS, _OUTPUTS, labelled=("label", "gone"), formats=formats)
    assert body == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 30], "format": "FORMAT_NHWC"},
            {"name": "words", "data_type": "TYPE_STRING", "dims": [], "format": "FORMAT_NONE"},
        ],
        "output": [
            {"name": "label", "data_type": "TYPE_INT64", "dims": [-1], "label_filename": LABELS}
        ],
        "model_transaction_policy": {"decoupled": False},
    }
    ensemble = model_config_body("m", _ROWS_IN, _ROWS_OUT, scheduling=Scheduling.ENSEMBLE)
    assert (ensemble["platform"], ensemble["backend"]) == ("ensemble", "")
    metadata = model_metadata_body("m", ["1"], [], [], scheduling=Scheduling.ENSEMBLE)
    assert metadata["platform"] == "ensemble"
    sequential = model_config_body("m", _ROWS_IN, _ROWS_OUT, scheduling=Scheduling.SEQUENCE)
    assert (sequential["platform"], sequential["sequence_batching"]) == ("onnxruntime_onnx", {})
    entry = index_entry("m", "2", IndexState.UNAVAILABLE, reason="out of memory")
    assert entry == {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "out of memory"}
