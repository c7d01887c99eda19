"""Requests whose form is known, in binary and in JSON, are read as the decoder reads them; what is wrong is left to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.oip import InferRequest, RequestForms, TextForms, decode_request
from capamesh.protocol.oip.decoding import decode_request_in_steps
from capamesh.protocol.oip.forms import MAX_FORMS, MAX_INPUTS, MAX_JSON_BYTES, KnownInputs
from capamesh.protocol.oip.text_forms import MAX_AROUND_BYTES, MAX_BODY_BYTES, MAX_TEXT_FORMS
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensors import DEFAULT_LIMITS

# data behind the JSON


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


def learnt(*bodies: tuple[bytes, int | None]) -> RequestForms:
    """Return forms that were shown these requests."""
    forms = RequestForms()
    for body, length in bodies:
        forms.learn(body, length, decode_request("m", "1", body, length))
    return forms


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_request_of_a_known_form_is_read_as_the_decoder_reads_it(kind: type) -> None:
    forms = learnt(body_of(REQUEST, b"12345678abc"))
    body, length = body_of(REQUEST, b"87654321cba")
    read = forms.read("other", "2", kind(body), length)
    assert isinstance(read, InferRequest)
    assert read == decode_request("other", "2", body, length)
    other = body.replace(b"FP32", b"INT8"), length
    cut = (body[:-1], length), (body[:length], len(body)), (body, length - 1), (body, None)
    for bad, its_length in (other, *cut, (body + b"d", length)):
        assert forms.read("m", "", kind(bad), its_length) is None


def test_oldest_form_makes_room() -> None:
    names = [f"x{count}" for count in range(MAX_FORMS + 1)]
    bodies = [body_of({"inputs": [binary(name, "INT8", [1], 1)]}, b"a") for name in names]
    forms = learnt(*bodies)
    assert max(length for _, length in bodies) <= MAX_JSON_BYTES
    assert len(forms) == MAX_FORMS
    assert [forms.read("m", "", *each) is None for each in bodies[:2]] == [True, False]


# data in the JSON, input by input


def in_json(
    shape: object = (1, 2), data: object = (1.5, 2.5), *, name: object = "x", datatype: str = "FP32"
) -> dict[str, Any]:
    """Return the JSON of an input that has its data there."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def read_by(known: KnownInputs, *inputs: dict[str, Any]) -> InferRequest | str:
    """Return a request of these inputs as it is read with what is known, or why it is refused."""
    body = memoryview(json.dumps({"inputs": inputs}).encode())
    try:
        return run_through(decode_request_in_steps("m", "", body, None, DEFAULT_LIMITS, known))
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
    known, two = KnownInputs(), (in_json(), in_json([2], [1, 2], name="y", datatype="INT8"))
    first = read_by(known, *two)
    monkeypatch.setattr("capamesh.protocol.oip.decoding.checked", pytest.fail)
    assert isinstance(first, InferRequest)
    assert read_by(known, *two) == first
    assert read_by(known, in_json(), in_json()) == "inputs[1] repeats the name 'x'"


def test_inputs_of_texts_and_with_long_names_are_not_remembered_and_the_oldest_makes_room() -> None:
    known = KnownInputs()
    read_by(known, in_json([1], ["a"], datatype="BYTES"), in_json(name="y" * 129))
    assert len(known) == 0
    for count in range(MAX_INPUTS + 1):
        read_by(known, in_json(name=f"x{count}"))
    assert len(known) == MAX_INPUTS
    found = [known.read(in_json([1, 2], [1, 2], name=name)) is None for name in ("x0", "x1")]
    assert found == [True, False]


def test_request_that_has_to_be_looked_at_each_time_is_not_learnt() -> None:
    plain = {"inputs": [binary("x", "INT8", [1], 1)]}
    long = [binary("x" * 400, "INT8", [1], 1), binary("y" * 700, "INT8", [1], 1)]
    for request, data in (
        ({"inputs": [binary("x", "BOOL", [2], 2)]}, b"\0\1"),
        ({"inputs": [binary("x", "BYTES", [1], 5)]}, b"\1\0\0\0a"),
        ({"inputs": [in_json([1], [1])]}, b""),
        ({"inputs": long}, b"ab"),
        ({**plain, "id": "7"}, b"a"),
    ):
        assert len(learnt(body_of(request, data))) == 0
    assert len(learnt(body_of(plain, b"a"))) == 1
    whole, _ = body_of({"inputs": [in_json([0], [])]}, b"")
    assert len(learnt((whole, None))) == 0


# texts that are JSON throughout

TEXT: dict[str, Any] = {
    "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2]}],
    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
    "parameters": {"priority": 3, "non_finite_output": "text"},
}
COMPACT = json.dumps(TEXT, separators=(",", ":")).encode()
SPACED = json.dumps(TEXT).encode()
NUMBERS = b"[1.5,-2]"


def texts(*bodies: bytes) -> TextForms:
    """Return forms that were shown these requests."""
    forms = TextForms()
    for body in bodies:
        forms.learn(body, decode_request("m", "1", body, None))
    return forms


def read(
    forms: TextForms, body: bytes | memoryview, most_bytes: int = 2**20
) -> InferRequest | None:
    return forms.read("m", "1", body, most_bytes)


def input_of(**fields: object) -> bytes:
    tensor = {"name": "x", "datatype": "INT8", "shape": [2], "data": [1, 2], **fields}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (COMPACT, COMPACT.replace(NUMBERS, b"[0.1,3e-7]")),
        (SPACED, SPACED.replace(b"[1.5, -2]", b"[ 7,\n-0.0 ]")),
        (input_of(shape=[1, 2], data=[[1, 2]]), input_of(shape=[1, 2], data=[[3, -4]])),
        (input_of(shape=[], data=[1]), input_of(shape=[], data=[4])),
    ],
)
def test_text_of_a_known_form_is_read_as_the_decoder_reads_it(
    known: bytes, asked: bytes, kind: type
) -> None:
    found = read(texts(known), kind(asked))
    assert found is not None
    assert found == decode_request("m", "1", asked, None)


@pytest.mark.parametrize(
    "numbers",
    [
        b"[1.5,2,3]",
        b'[1.5,"NaN"]',
        b"[1.5,1e99]",
        b"[1.5,%b]" % (b"9" * 5000),
        b"[1.5,02]",
        b"[1.5,\xff]",
        b"[[1.5,2]]",
        b"[1.5,2][]",
        b" " * MAX_BODY_BYTES + NUMBERS,
    ],
)
def test_text_that_is_wrong_or_of_another_form_is_left_to_the_decoder(numbers: bytes) -> None:
    forms = texts(COMPACT)
    asked = [COMPACT.replace(NUMBERS, numbers), COMPACT.replace(b"FP32", b"INT8"), COMPACT + b" "]
    assert [read(forms, each) for each in asked] == [None] * 3
    assert read(forms, COMPACT, len(COMPACT)) is not None
    assert read(forms, COMPACT, len(COMPACT) - 1) is None
    known = input_of(shape=[1, 2], data=[[1, 2]])
    assert read(texts(known), known.replace(b"[[1, 2]]", b"[1, 2][]")) is None


def test_text_that_has_to_be_read_whole_each_time_is_not_learnt() -> None:
    first = TEXT["inputs"][0]
    for body in (
        json.dumps({**TEXT, "id": "7"}).encode(),
        json.dumps({"inputs": [first, {**first, "name": "z"}]}).encode(),
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
    ):
        assert len(texts(body)) == 0, body[:80]


def test_oldest_text_makes_room_and_a_list_that_is_not_the_inputs_data_is_not_taken_for_it() -> (
    None
):
    bodies = [input_of(name=f"x{number}") for number in range(MAX_TEXT_FORMS + 1)]
    forms = texts(*bodies)
    assert len(forms) == MAX_TEXT_FORMS
    assert [read(forms, each) is None for each in bodies[:2]] == [True, False]
    other = {"other": {"data": []}, "inputs": [binary("x", "INT8", [0], 0)]}
    body = json.dumps(other).encode()
    assert read(texts(body), body.replace(b"[]", b"[1]", 1)) is None


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
    found = read(texts(COMPACT), asked)
    assert found is None or found == wanted
