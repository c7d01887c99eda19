"""Requests of a form that is known are read as the decoder reads them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import InferRequest, RequestForms, decode_request
from capamesh.protocol.oip.decoding import decode_request_in_steps
from capamesh.protocol.oip.forms import MAX_FORMS, MAX_INPUTS, MAX_JSON_BYTES, KnownInputs
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import DEFAULT_LIMITS


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


def test_oldest_form_makes_room() -> None:
    forms = RequestForms()
    for count in range(MAX_FORMS + 1):
        body, length = body_of({"inputs": [binary(f"x{count}", "INT8", [1], 1)]}, b"a")
        assert length <= MAX_JSON_BYTES
        forms.learn(body, length, decode_request("m", "", body, length))
    assert len(forms) == MAX_FORMS
    assert forms.read("m", "", *body_of({"inputs": [binary("x0", "INT8", [1], 1)]}, b"a")) is None
    assert forms.read("m", "", *body_of({"inputs": [binary("x1", "INT8", [1], 1)]}, b"a"))


# tensors in the JSON


def in_json(
    shape: object = (1, 2), data: object = (1.5, 2.5), *, name: object = "x", datatype: str = "FP32"
) -> dict[str, Any]:
    """Return the JSON of an input that has its data there."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def read_by(known: KnownInputs, *inputs: dict[str, Any]) -> InferRequest | str:
    """Return a request of these inputs as it is read with what is known, or why it is refused."""
    body = json.dumps({"inputs": inputs}).encode()
    try:
        return run_through(
            decode_request_in_steps("m", "", memoryview(body), None, DEFAULT_LIMITS, known)
        )
    except InvalidRequest as error:
        return error.message


CASES = [
    in_json(),
    in_json(data=[[3, 4]]),
    in_json([2], [True, False], datatype="BOOL"),
    in_json([], [7], datatype="INT64"),
    in_json([0, 5], []),
    in_json(data=[1, [2]]),
    in_json(data=[1, "x"]),
    in_json([2], [0, 2], datatype="BOOL"),
    in_json([True, 2]),
    in_json({"1": 2}),
    in_json(name=["x"]),
    in_json(name=True),
    in_json([1], ["a"], datatype="BYTES"),
    {"name": "x", "datatype": "FP32", "shape": [1, 2]},
    {"name": "x", "datatype": "FP32", "data": [1, 2]},
    {**in_json(), "parameters": {"binary_data_size": 8}},
]


@pytest.mark.parametrize("case", CASES)
def test_input_in_json_is_read_alike_whatever_is_known(case: dict[str, Any]) -> None:
    known = KnownInputs()
    plain = read_by(KnownInputs(), case)
    for each in (*CASES, *CASES):
        read_by(known, each)
    assert read_by(known, case) == plain


def test_input_that_is_known_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownInputs()
    first = read_by(known, in_json(), in_json([2], [1, 2], name="y", datatype="INT8"))
    monkeypatch.setattr("capamesh.protocol.oip.decoding.checked", pytest.fail)
    again = read_by(known, in_json(), in_json([2], [1, 2], name="y", datatype="INT8"))
    assert isinstance(first, InferRequest)
    assert again == first
    assert read_by(known, in_json(), in_json()) == "inputs[1] repeats the name 'x'"


def test_inputs_of_texts_and_with_long_names_are_not_remembered_and_the_oldest_makes_room() -> None:
    known = KnownInputs()
    read_by(known, in_json([1], ["a"], datatype="BYTES"), in_json(name="y" * 129))
    assert len(known) == 0
    for count in range(MAX_INPUTS + 1):
        read_by(known, in_json(name=f"x{count}"))
    assert len(known) == MAX_INPUTS
    assert known.read(in_json([1, 2], [1, 2], name="x0")) is None
    assert known.read(in_json([1, 2], [1, 2], name="x1")) is not None


@pytest.mark.parametrize(
    ("inputs", "data"),
    [
        ([binary("x", "BOOL", [2], 2)], b"\0\1"),
        ([binary("x", "BYTES", [1], 5)], b"\1\0\0\0a"),
        ([in_json([1], [1])], b""),
        ([binary("x" * 400, "INT8", [1], 1), binary("y" * 700, "INT8", [1], 1)], b"ab"),
    ],
)
def test_request_that_has_to_be_looked_at_each_time_is_not_learnt(
    inputs: list[dict[str, Any]], data: bytes
) -> None:
    assert len(learnt({"inputs": inputs}, data)) == 0
    plain = {"inputs": [binary("x", "INT8", [1], 1)]}
    assert len(learnt(plain, b"a")) == 1
    assert len(learnt({**plain, "id": "7"}, b"a")) == 0
    forms = RequestForms()
    body, _ = body_of({"inputs": [in_json([0], [])]}, b"")
    forms.learn(body, None, decode_request("m", "", body, None))
    assert len(forms) == 0
