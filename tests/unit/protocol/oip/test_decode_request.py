from __future__ import annotations

import json
import sys

import pytest

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.oip import (
    InferRequest,
    RequestedOutput,
    decode_request,
    parse_header_length,
)
from capamesh.protocol.tensors import Datatype, Limits, Tensor


def _decoded(message: object, binary: bytes = b"", **limits: int) -> InferRequest:
    header = json.dumps(message).encode()
    return decode_request("m", "", header + binary, len(header), Limits(**limits))


def _binary(size_bytes: object, **fields: object) -> dict[str, object]:
    return {
        "name": "x",
        "datatype": "FP32",
        "shape": [2],
        "parameters": {"binary_data_size": size_bytes},
    } | fields


def _given(**fields: object) -> dict[str, object]:
    return {"name": "x", "datatype": "INT32", "shape": [2], "data": [1, 2]} | fields


def test_request_of_json_alone() -> None:
    body = (
        b'{"id":"7","parameters":{"priority":3,"note":"n","ratio":0.5,"on":true},'
        b'"inputs":[{"name":"x","datatype":"INT32","shape":[2,1],"data":[1,-2]}],'
        b'"outputs":[{"name":"a"},{"name":"b","parameters":{"binary_data":true}}]}'
    )
    assert decode_request("m", "3", body, None) == InferRequest(
        "m",
        "3",
        "7",
        (Tensor("x", Datatype.INT32, (2, 1), b"\1\0\0\0\xfe\xff\xff\xff"),),
        (RequestedOutput("a"), RequestedOutput("b", is_binary=True)),
        is_binary_default=False,
        parameters={"priority": 3, "note": "n", "ratio": 0.5, "on": True},
    )


def test_json_and_binary_inputs_mix_and_binary_ones_are_views_of_the_body() -> None:
    inputs = [_binary(8), _given(name="y"), _binary(3, name="z", datatype="UINT8", shape=[3])]
    header = json.dumps({"inputs": inputs}).encode()
    body = bytearray(header + b"abcdefgh" + b"xyz")
    x, y, z = decode_request("m", "", body, len(header)).inputs
    assert (x.name, y.name, z.name) == ("x", "y", "z")
    assert (x.data, y.data, z.data) == (b"abcdefgh", b"\1\0\0\0\2\0\0\0", b"xyz")
    body[len(header)] = ord("A")
    body[-1] = ord("Z")
    assert (x.data, z.data) == (b"Abcdefgh", b"xyZ")


def test_null_stands_for_an_absent_optional_key_and_unknown_keys_are_ignored() -> None:
    tensor = _given(parameters=None, content_type="np")
    request = _decoded(
        {"id": None, "parameters": None, "outputs": None, "x": 1, "inputs": [tensor]}
    )
    assert (request.id, request.outputs, dict(request.parameters)) == ("", (), {})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "no JSON in a body of 0 bytes"),
        (b'{"inputs":[]} x', "not JSON: Extra data at character 14 of 15"),
        (b'{"id":"\xff"}', "not UTF-8: invalid start byte at byte 7 of 10"),
        (b"[NaN]", "the literal NaN, which is not JSON"),
        (b"[" * 60_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "a number that is too long"),
        (b'{"inputs":[],"parameters":{"k":1e999}}', "parameter 'k' must be .*, got inf"),
    ],
)
def test_lax_json_is_refused(text: bytes, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        decode_request("m", "", text, None)


def test_json_as_deep_as_the_parser_allows_is_still_only_an_invalid_request() -> None:
    for depth in range(sys.getrecursionlimit() - 400, sys.getrecursionlimit(), 7):
        nested = b"[" * depth + b"]" * depth
        body = b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":' + nested + b"}]}"
        with pytest.raises(InvalidRequest):
            decode_request("m", "", body, None)


def test_limits_are_errors_that_name_them() -> None:
    with pytest.raises(TooLarge, match="2 inputs; the limit is 1"):
        _decoded({"inputs": [_given(), _given(name="y")]}, max_tensors=1)
    texts = [_given(name=name, datatype="BYTES", data=["a", "b"]) for name in "xy"]
    with pytest.raises(TooLarge, match="'y': 4 BYTES elements in this message; the limit is 3"):
        _decoded({"inputs": texts}, max_texts=3)
    with pytest.raises(TooLarge, match="2 outputs; the limit is 1"):
        _decoded({"inputs": [], "outputs": [{"name": "a"}, {"name": "b"}]}, max_tensors=1)
    with pytest.raises(TooLarge, match="the body has 14 bytes; the limit is 13"):
        _decoded({"inputs": []}, max_message_bytes=13)
    with pytest.raises(TooLarge, match="the JSON has 14 bytes; the limit is 13"):
        _decoded({"inputs": []}, max_json_bytes=13)
    with pytest.raises(InvalidRequest, match="has 1 dimensions; the limit is 0"):
        _decoded({"inputs": [_given()]}, max_dims=0)


def test_error_stays_short_however_long_the_value_is() -> None:
    for value in ("v" * 100_000, [[["v" * 100] * 9] * 9] * 9, {"k" * 1000: "v" * 1000}):
        with pytest.raises(InvalidRequest) as caught:
            _decoded({"inputs": [_given(data=["1", value])]})
        assert len(caught.value.message) < 500
        with pytest.raises(InvalidRequest) as caught:
            _decoded({"inputs": value})
        assert len(caught.value.message) < 500


def test_header_length_is_read_strictly() -> None:
    assert parse_header_length(None) is None
    assert parse_header_length(" 152 ") == 152
    for text in ("", "-1", "+1", "1.0", "0x10", "1_000", "1 2", "\u0661", "9" * 19):
        with pytest.raises(InvalidRequest, match="must be the JSON's length in bytes"):
            parse_header_length(text)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"shape": [2**40], "data": []}, f"has {2**40} elements, the data has 0"),
        ({"shape": [2**63]}, f"from 0 to {2**63 - 1}, got {2**63} in"),
        ({"shape": [10**4000, 10**4000]}, "integer from 0 to .*, got 1000"),
        ({"shape": [0, 2**62], "data": []}, "non-zero dimensions span"),
        ({"shape": [-1]}, "integer from 0 to .*, got -1 in"),
        ({"shape": [2.0]}, "integer from 0 to .*, got 2.0"),
        ({"shape": [True]}, "integer from 0 to .*, got True"),
        ({"shape": 2}, "shape must be a list of integers, got 2"),
        ({"shape": [1] * 33}, "has 33 dimensions; the limit is 32"),
        ({"datatype": "FLOAT"}, "datatype must be one of BOOL, .*got 'FLOAT'"),
        ({"datatype": None}, "datatype must be one of .*got None"),
        *[({"name": n}, r"inputs\[0\].name must be text") for n in (5, "", "n" * 1025, "\ud800")],
        ({"data": None}, "neither data nor binary"),
        ({"parameters": []}, "parameters must be an object, got"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
    ],
)
def test_malformed_input_is_refused_with_the_value(fields: dict[str, object], error: str) -> None:
    tensor = {
        key: value for key, value in _given(**fields).items() if key != "data" or value is not None
    }
    with pytest.raises(InvalidRequest, match=error):
        _decoded({"inputs": [tensor]})


@pytest.mark.parametrize(
    ("size", "data", "fields", "error"),
    [
        (8, bytes(7), {}, "binary_data_size 8, but only 7 of the 7 bytes"),
        (8, bytes(9), {}, "9 bytes follow the JSON, but .* sum to 8"),
        (-8, b"", {}, "binary_data_size must be an integer of 0 or more, got -8"),
        (8.0, bytes(8), {}, "must be an integer of 0 or more, got 8.0"),
        (True, bytes(1), {}, "must be an integer of 0 or more, got True"),
        (2**80, bytes(8), {}, f"binary_data_size {2**80}, but only 8"),
        (10**4000, bytes(8), {}, r"binary_data_size 10+\.\.\.0+, but only 8 of"),
        (8, bytes(8), {"data": [1, 2]}, "both data and binary_data_size"),
        (0, b"", {"shape": [2**40]}, f"needs {2**42} bytes, got 0"),
    ],
)
def test_malformed_binary_input_is_refused_with_the_value(
    size: object, data: bytes, fields: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        _decoded({"inputs": [_binary(size, **fields)]}, data)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"inputs": [_given(), _given()]}, r"inputs\[1\] repeats the name 'x'"),
        ({"inputs": [3]}, r"inputs\[0\] must be an object, got 3"),
        ({"inputs": {}}, "'inputs' must be a list of tensors, got {}"),
        ({"inputs": None}, "'inputs' must be a list of tensors, got None"),
        ([], r"must be an object, got \[\]"),
        *[({"id": each}, "'id' must be text, got") for each in (7.5, 2**64, True, "\udfff")],
        ({"parameters": []}, r"'parameters' must be an object, got \[\]"),
        *[
            (
                {"parameters": {"k": value}},
                "parameter 'k' must be a string, a finite number of up to",
            )
            for value in (None, "\ud800", 2**64)
        ],
        ({"parameters": {"header": {}}}, "parameter 'header' must be"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false, got 1"),
        *[
            (
                {"parameters": {"non_finite_output": value}},
                "non_finite_output must be 'error' or 'text'",
            )
            for value in ("null", True, "")
        ],
        ({"outputs": {}}, "'outputs' must be a list, got {}"),
        ({"outputs": ["a"]}, r"outputs\[0\] must be an object, got 'a'"),
        ({"outputs": [{}]}, r"outputs\[0\].name must be text"),
        ({"outputs": [{"name": "a"}] * 2}, r"outputs\[1\] repeats the name 'a'"),
        ({"outputs": [{"name": "a", "parameters": 1}]}, "'a': parameters must be an object, got 1"),
        *[
            ({"outputs": [{"name": "a", "parameters": {key: value}}]}, error)
            for key, value, error in (
                ("classification", -1, "must be a whole number from 0 to 8192, got -1"),
                ("classification", True, "must be a whole number from 0 to 8192, got True"),
                ("classification", 8193, "must be a whole number from 0 to 8192, got 8193"),
                ("shared_memory_region", "r", "shared_memory_region is not supported"),
                ("binary_data", 1, "binary_data must be true or false, got 1"),
            )
        ],
    ],
)
def test_malformed_request_is_refused_with_the_value(message: object, error: str) -> None:
    if isinstance(message, dict):
        message = {"inputs": [], **message}
    with pytest.raises(InvalidRequest, match=error):
        _decoded(message)


@pytest.mark.parametrize("header_length", [-1, 3, 2**70])
def test_json_length_outside_the_body_is_refused_with_both_numbers(header_length: int) -> None:
    with pytest.raises(
        InvalidRequest, match=f"is {header_length}; .* from 0 to the body's 2 bytes"
    ):
        decode_request("m", "", b"{}", header_length)


def test_what_is_asked_for_beside_the_inputs_is_read() -> None:
    outputs = [{"name": "y", "parameters": {"classification": 3}}, {"name": "z"}]
    parameters = {
        "binary_data_output": True,
        "non_finite_output": "text",
        "headers": {"Content-Type": "application/json"},  # as some proxies add them
        "k": 1,
    }
    asked = _decoded({"inputs": [], "id": -(2**63), "outputs": outputs, "parameters": parameters})
    assert (asked.id, asked.classes) == ("-9223372036854775808", (3, 0))
    assert asked.is_binary_default is asked.is_non_finite_text is True
    assert asked.parameters == {"k": 1}
    plain = {"inputs": [], "outputs": outputs[1:], "parameters": {"headers": "h"}}
    asked = _decoded(plain)
    assert (asked.classes, asked.is_non_finite_text) == ((), False)
    assert asked.parameters == {"headers": "h"}
