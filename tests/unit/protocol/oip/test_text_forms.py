"""Requests in JSON whose form is known are read as the decoder reads them, and what it refuses is left to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.oip import InferRequest, TextForms, decode_request
from capamesh.protocol.oip.text_forms import MAX_AROUND_BYTES, MAX_BODY_BYTES, MAX_TEXT_FORMS

MOST_BYTES = 2**20
REQUEST: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2]}],
    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
    "parameters": {"priority": 3, "non_finite_output": "text"},
}
COMPACT = json.dumps(REQUEST, separators=(",", ":")).encode()
SPACED = json.dumps(REQUEST).encode()
NUMBERS = COMPACT[COMPACT.index(b"[1.5") : COMPACT.index(b"-2]") + 3]


def learnt(*bodies: bytes) -> TextForms:
    """Return forms that were shown these requests."""
    forms = TextForms()
    for body in bodies:
        forms.learn(body, decode_request("m", "1", body, None))
    return forms


def read(forms: TextForms, body: bytes | memoryview) -> InferRequest | None:
    return forms.read("m", "1", body, MOST_BYTES)


def input_of(**fields: object) -> bytes:
    tensor = {"name": "x", "datatype": "INT8", "shape": [2], "data": [1, 2], **fields}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (COMPACT, COMPACT.replace(b"[1.5,-2]", b"[0.1,3e-7]")),
        (SPACED, SPACED.replace(b"[1.5, -2]", b"[ 7,\n-0.0 ]")),
        (input_of(shape=[1, 2], data=[[1, 2]]), input_of(shape=[1, 2], data=[[3, -4]])),
        (input_of(shape=[], data=[1]), input_of(shape=[], data=[4])),
    ],
)
def test_request_of_a_known_form_is_read_as_the_decoder_reads_it(
    known: bytes, asked: bytes, kind: type
) -> None:
    found = read(learnt(known), kind(asked))
    assert found is not None
    assert found == decode_request("m", "1", asked, None)


@pytest.mark.parametrize(
    "asked",
    [
        COMPACT.replace(NUMBERS, b"[1.5,2,3]"),
        COMPACT.replace(NUMBERS, b'[1.5,"NaN"]'),
        COMPACT.replace(NUMBERS, b"[1.5,1e99]"),
        COMPACT.replace(NUMBERS, b"[1.5,%b]" % (b"9" * 5000)),
        COMPACT.replace(NUMBERS, b"[1.5,02]"),
        COMPACT.replace(NUMBERS, b"[1.5,\xff]"),
        COMPACT.replace(NUMBERS, b"[[1.5,2]]"),
        COMPACT.replace(NUMBERS, b"[1.5,2][]"),
        COMPACT.replace(NUMBERS, b" " * MAX_BODY_BYTES + NUMBERS),
        COMPACT.replace(b"FP32", b"INT8"),
        COMPACT + b" ",
    ],
)
def test_text_that_is_wrong_or_of_another_form_is_left_to_the_decoder(asked: bytes) -> None:
    assert read(learnt(COMPACT), asked) is None
    known = input_of(shape=[1, 2], data=[[1, 2]])
    assert read(learnt(known), known.replace(b"[[1, 2]]", b"[1, 2][]")) is None


def test_text_over_the_limit_on_json_is_left_to_the_decoder() -> None:
    forms = learnt(COMPACT)
    assert forms.read("m", "1", COMPACT, len(COMPACT)) is not None
    assert forms.read("m", "1", COMPACT, len(COMPACT) - 1) is None


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({**REQUEST, "id": "7"}).encode(),
        json.dumps(
            {"inputs": [*REQUEST["inputs"], {**REQUEST["inputs"][0], "name": "z"}]}
        ).encode(),
        input_of(datatype="BOOL", data=[True, False]),
        input_of(datatype="BYTES", data=["a", "b"]),
        input_of(shape=[2, 1], data=[[1], [2]]),
        input_of(name="data"),
        input_of(name='a\\"b'),
        input_of(shape=[], data=1),
        input_of(x={"data": [1, 2]}),
        input_of(name="x" * MAX_AROUND_BYTES),
        input_of(shape=[MAX_BODY_BYTES], data=[1] * MAX_BODY_BYTES),
        SPACED.replace(b'"data": [', b'"data":  ['),
        SPACED.replace(b'"data"', b'"d\\u0061ta"'),
    ],
)
def test_request_that_has_to_be_read_whole_each_time_is_not_learnt(body: bytes) -> None:
    assert len(learnt(body)) == 0


def test_list_that_is_not_the_inputs_data_is_not_taken_for_it() -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [0], "parameters": {"binary_data_size": 0}}
    body = json.dumps({"other": {"data": []}, "inputs": [tensor]}).encode()
    forms = learnt(body)
    assert read(forms, body.replace(b"[]", b"[1]", 1)) is None


def test_oldest_form_makes_room() -> None:
    bodies = [input_of(name=f"x{number}") for number in range(MAX_TEXT_FORMS + 1)]
    forms = learnt(*bodies)
    assert repr(forms) == f"TextForms({MAX_TEXT_FORMS})"
    assert read(forms, bodies[0]) is None
    assert read(forms, bodies[1]) is not None


@given(
    at=st.integers(0, len(COMPACT)),
    dropped=st.integers(0, 12),
    added=st.lists(st.sampled_from([*'[]1,-":{} \0\\x', "2.5", "data", "e9"]), max_size=6),
)
def test_form_reads_nothing_that_the_decoder_reads_otherwise(
    at: int, dropped: int, added: list[str]
) -> None:
    asked = COMPACT[:at] + "".join(added).encode() + COMPACT[at + dropped :]
    try:
        wanted = decode_request("m", "1", asked, None)
    except CapameshError:
        wanted = None
    found = read(learnt(COMPACT), asked)
    assert found is None or found == wanted
