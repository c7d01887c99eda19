"""Requests of a form that is known are read as the decoder reads them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.oip import InferRequest, RequestForms, decode_request
from capamesh.protocol.oip.forms import MAX_FORMS, MAX_JSON_BYTES


def binary(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    """Return the JSON of an input whose data follows it."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def body_of(request: dict[str, Any], data: bytes) -> tuple[bytes, int]:
    """Return a body and the bytes of JSON in it."""
    head = json.dumps(request).encode()
    return head + data, len(head)


REQUEST = {
    "inputs": [binary("x", "FP32", [1, 2], 8), binary("y", "UINT8", [3], 3)],
    "outputs": [{"name": "z", "parameters": {"binary_data": True}}],
    "parameters": {"priority": 3, "binary_data_output": True, "non_finite_output": "text"},
}


def learnt(request: dict[str, Any], data: bytes) -> RequestForms:
    """Return forms that were shown one request."""
    forms = RequestForms()
    body, length = body_of(request, data)
    forms.learn(body, length, decode_request("m", "1", body, length))
    return forms


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_request_of_a_known_form_is_read_as_the_decoder_reads_it(kind: type) -> None:
    forms = learnt(REQUEST, b"12345678abc")
    body, length = body_of(REQUEST, b"87654321cba")
    read = forms.read("other", "2", kind(body), length)
    assert read == decode_request("other", "2", body, length)
    assert isinstance(read, InferRequest)
    np.testing.assert_array_equal(read.inputs[1].to_numpy(), np.frombuffer(b"cba", np.uint8))


def test_other_forms_are_not_taken_for_it() -> None:
    forms = learnt(REQUEST, b"12345678abc")
    body, length = body_of(REQUEST, b"12345678abc")
    assert forms.read("m", "", body + b"d", length) is None
    assert forms.read("m", "", body[:-1], length) is None
    assert forms.read("m", "", body[:length], len(body)) is None
    assert forms.read("m", "", body, length - 1) is None
    assert forms.read("m", "", body, None) is None
    assert forms.read("m", "", body.replace(b"FP32", b"INT8"), length) is None


@pytest.mark.parametrize(
    ("request_", "data"),
    [
        ({"inputs": [binary("x", "FP32", [1], 4)], "id": "7"}, bytes(4)),
        ({"inputs": [binary("x", "BOOL", [2], 2)]}, b"\0\1"),
        ({"inputs": [binary("x", "BYTES", [1], 5)]}, b"\1\0\0\0a"),
        ({"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}, b""),
        ({"inputs": [binary("x" * 400, "INT8", [1], 1), binary("y" * 700, "INT8", [1], 1)]}, b"ab"),
    ],
)
def test_request_that_has_to_be_looked_at_each_time_is_not_learnt(
    request_: dict[str, Any], data: bytes
) -> None:
    assert len(learnt(request_, data)) == 0


def test_all_in_json_is_not_learnt() -> None:
    forms = RequestForms()
    request = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [0], "data": []}]}
    body = json.dumps(request).encode()
    forms.learn(body, None, decode_request("m", "", body, None))
    assert len(forms) == 0


def test_oldest_form_makes_room() -> None:
    forms = RequestForms()
    for count in range(MAX_FORMS + 1):
        body, length = body_of({"inputs": [binary(f"x{count}", "INT8", [1], 1)]}, b"a")
        assert length <= MAX_JSON_BYTES
        forms.learn(body, length, decode_request("m", "", body, length))
    assert len(forms) == MAX_FORMS
    assert forms.read("m", "", *body_of({"inputs": [binary("x0", "INT8", [1], 1)]}, b"a")) is None
    assert forms.read("m", "", *body_of({"inputs": [binary("x1", "INT8", [1], 1)]}, b"a"))
