"""Plain JSON values as tensors, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import CapameshError, InvalidRequest, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.oip import InferRequest
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import Datatype, Limits, Tensor, TensorSpec
from capamesh.router.http.generate_body import (
    parse_generate,
    read_generate,
    write_error,
    write_generate_in_steps,
)

M, V = ModelName("m"), ModelVersion("1")
INPUTS = (
    TensorSpec("text", Datatype.BYTES, (-1, 1)),
    TensorSpec("x", Datatype.FP32, (-1, 3)),
    TensorSpec("n", Datatype.INT64, ()),
)


def read(body: object) -> InferRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_generate(parse_generate(raw), M, V, INPUTS, Limits())


def test_values_become_tensors_of_their_inputs_ranks() -> None:
    found = read({"text": "hello", "x": [1, 2, 3], "n": 7, "id": "a", "parameters": {"p": 1.5}})
    assert [(tensor.name, tensor.shape) for tensor in found.inputs] == [
        ("text", (1, 1)),
        ("x", (1, 3)),
        ("n", ()),
    ]
    assert found.inputs[0].to_numpy().tolist() == [[b"hello"]]
    assert found.inputs[1].to_numpy().tolist() == [[1, 2, 3]]
    assert (found.id, found.parameters, found.model, found.version) == ("a", {"p": 1.5}, "m", "1")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"[]", "object"),
        (b"{", "JSON"),
        ({"y": 1}, "'y' is no input of model 'm'; its inputs are text, x, n"),
        ({"x": "a"}, "x"),
        ({"x": [[1, 2], [3]]}, "x"),
        ({"x": None}, "x"),
        ({"x": {}}, "x"),
        ({"n": 1.5}, "n"),
        ({"id": []}, '"id" is'),
        ({"id": True}, '"id" is'),
        ({"parameters": []}, '"parameters" is an object'),
        ({"parameters": {"p": []}}, '"parameters" is an object'),
    ],
)
def test_body_that_does_not_fit_is_refused(body: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_junk_is_read_or_refused_and_raises_nothing_else(value: Any) -> None:
    for body in (value, {"x": value}, {"text": value}, {"n": value}, {"parameters": value}):
        try:
            read(json.dumps(body).encode())
        except CapameshError:
            continue


def written(asked_id: str, *outputs: Tensor, **limits: int) -> bytes:
    asked, answer = InferRequest(M, V, asked_id, ()), InferAnswer(V, outputs, 3, 4, LoadReport())
    return run_through(write_generate_in_steps(asked, answer, M, Limits(**limits)))


def test_answer_is_one_line_with_a_value_for_each_output() -> None:
    values = {"y": [[1.5, 2.0]], "one": [[7]], "none": np.zeros((0, 3)), "bad": [np.nan]}
    outputs = [Tensor.from_numpy(name, np.array(each)) for name, each in values.items()]
    text = Tensor.from_numpy("text", np.array([b"two\nlines"], np.object_), Datatype.BYTES)
    line = written("a", *outputs, text)
    assert b"\n" not in line
    assert json.loads(line) == {
        "model_name": "m",
        "model_version": "1",
        "id": "a",
        "y": [1.5, 2.0],
        "one": 7,
        "none": [],
        "bad": "NaN",
        "text": "two\nlines",
    }
    assert b'"id"' not in written("")


def test_answer_that_is_too_long_is_an_error() -> None:
    large = Tensor.from_numpy("y", np.ones((1, 1000), np.float32))
    with pytest.raises(TooLarge):
        written("", large, max_json_answer_bytes=100)


def test_error_tells_how_many_parts_came() -> None:
    error = InvalidRequest('it said "no"')
    error.parts = 3
    wanted = {"error": 'it said "no"', "code": "invalid_request", "parts": 3}
    assert json.loads(write_error(error)) == wanted
