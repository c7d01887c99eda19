"""Requests and answers of the protocol as another's client and a decoder of our own read them, whatever they hold."""

from __future__ import annotations

import json
import math
import sys
import warnings
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation, TooLarge
from capamesh.protocol.oip import (
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header_length,
)
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import Datatype, Limits, Tensor, join_elements


def _decoded(message: object, binary: bytes = b"", **limits: int) -> InferRequest:
    header = json.dumps(message).encode()
    return decode_request("m", "", header + binary, len(header), Limits(**limits))


def _binary(size_bytes: object, **fields: object) -> dict[str, object]:
    parameters = {"binary_data_size": size_bytes}
    return {"name": "x", "datatype": "FP32", "shape": [2], "parameters": parameters} | fields


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


def test_lax_json_is_refused() -> None:
    for text, error in (
        (b"", "no JSON in a body of 0 bytes"),
        (b'{"inputs":[]} x', "not JSON: Extra data at character 14 of 15"),
        (b'{"id":"\xff"}', "not UTF-8: invalid start byte at byte 7 of 10"),
        (b"[NaN]", "the literal NaN, which is not JSON"),
        (b"[" * 60_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "a number that is too long"),
        (b'{"inputs":[],"parameters":{"k":1e999}}', "parameter 'k' must be .*, got inf"),
    ):
        with pytest.raises(InvalidRequest, match=error):
            decode_request("m", "", text, None)


def test_json_as_deep_as_the_parser_allows_is_still_only_an_invalid_request() -> None:
    for depth in range(sys.getrecursionlimit() - 400, sys.getrecursionlimit(), 7):
        nested = b"[" * depth + b"]" * depth
        body = b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":' + nested + b"}]}"
        with pytest.raises(InvalidRequest):
            decode_request("m", "", body, None)


def test_limits_are_errors_that_name_them() -> None:
    two = [_given(), _given(name="y")]
    texts = [_given(name=name, datatype="BYTES", data=["a", "b"]) for name in "xy"]
    outputs = {"inputs": [], "outputs": [{"name": "a"}, {"name": "b"}]}
    for message, limits, kind, said in (
        ({"inputs": two}, {"max_tensors": 1}, TooLarge, "2 inputs; the limit is 1"),
        ({"inputs": texts}, {"max_texts": 3}, TooLarge, "'y': 4 BYTES elements in this message"),
        (outputs, {"max_tensors": 1}, TooLarge, "2 outputs; the limit is 1"),
        (
            {"inputs": []},
            {"max_message_bytes": 13},
            TooLarge,
            "the body has 14 bytes; the limit is 13",
        ),
        (
            {"inputs": []},
            {"max_json_bytes": 13},
            TooLarge,
            "the JSON has 14 bytes; the limit is 13",
        ),
        ({"inputs": two}, {"max_dims": 0}, InvalidRequest, "has 1 dimensions; the limit is 0"),
    ):
        with pytest.raises(kind, match=said):
            _decoded(message, **limits)


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
    for outside in (-1, 3, 2**70):
        with pytest.raises(InvalidRequest, match=f"is {outside}; .* from 0 to the body's 2 bytes"):
            decode_request("m", "", b"{}", outside)
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
    tensor = _given(**fields)
    if tensor["data"] is None:
        del tensor["data"]
    with pytest.raises(InvalidRequest, match=error):
        _decoded({"inputs": [tensor]})


@pytest.mark.parametrize(
    ("size", "count", "fields", "error"),
    [
        (8, 7, {}, "binary_data_size 8, but only 7 of the 7 bytes"),
        (8, 9, {}, "9 bytes follow the JSON, but .* sum to 8"),
        (-8, 0, {}, "binary_data_size must be an integer of 0 or more, got -8"),
        (8.0, 8, {}, "must be an integer of 0 or more, got 8.0"),
        (True, 1, {}, "must be an integer of 0 or more, got True"),
        (2**80, 8, {}, f"binary_data_size {2**80}, but only 8"),
        (10**4000, 8, {}, r"binary_data_size 10+\.\.\.0+, but only 8 of"),
        (8, 8, {"data": [1, 2]}, "both data and binary_data_size"),
        (0, 0, {"shape": [2**40]}, f"needs {2**42} bytes, got 0"),
    ],
)
def test_malformed_binary_input_is_refused_with_the_value(
    size: object, count: int, fields: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        _decoded({"inputs": [_binary(size, **fields)]}, bytes(count))


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
            ({"parameters": {"k": value}}, "'k' must be a string, a finite number of up to")
            for value in (None, "\ud800", 2**64)
        ],
        ({"parameters": {"header": {}}}, "parameter 'header' must be"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false, got 1"),
        *[
            ({"parameters": {"non_finite_output": value}}, "must be 'error' or 'text'")
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
    # null stands for what may be absent, and unknown keys are ignored
    nothing = dict.fromkeys(("id", "parameters", "outputs"))
    asked = _decoded({**nothing, "x": 1, "inputs": [_given(parameters=None, content_type="np")]})
    assert (asked.id, asked.outputs, dict(asked.parameters)) == ("", (), {})


_LIMITS = Limits(max_message_bytes=4096, max_json_bytes=2048, max_tensors=4, max_dims=4)

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(plain)
_shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
_parameters: st.SearchStrategy[Parameters] = st.dictionaries(
    _names.filter(lambda name: name != "binary_data_output"),
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=3,
)


@st.composite
def _tensors(draw: st.DrawFn, name: str) -> Tensor:
    datatype = draw(st.sampled_from(Datatype))
    shape = draw(_shapes)
    count = math.prod(shape)
    elements = draw(st.lists(_elements(datatype), min_size=count, max_size=count))
    if datatype is Datatype.BYTES:
        return Tensor(name, datatype, shape, join_elements(elements))
    return Tensor(name, datatype, shape, b"".join(elements))


def _elements(datatype: Datatype) -> st.SearchStrategy[bytes]:
    """Return single elements that JSON can hold, as raw bytes: finite floats, UTF-8 strings."""
    if datatype is Datatype.BYTES:
        return _names.map(str.encode)
    if datatype is Datatype.BOOL:
        return st.sampled_from([b"\0", b"\1"])
    size = datatype.itemsize_bytes or 0
    raw = st.binary(min_size=size, max_size=size)
    exponent_mask = {
        Datatype.FP16: 0x7C00,
        Datatype.BF16: 0x7F80,
        Datatype.FP32: 0x7F800000,
        Datatype.FP64: 0x7FF0000000000000,
    }.get(datatype)
    if exponent_mask is None:
        return raw
    return raw.filter(lambda bits: int.from_bytes(bits, "little") & exponent_mask != exponent_mask)


@st.composite
def _lists_of_tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    names = draw(st.lists(_names, unique=True, max_size=3))
    return tuple(draw(_tensors(name)) for name in names)


@given(
    _lists_of_tensors(),
    st.lists(
        st.builds(RequestedOutput, _names, st.none() | st.booleans()),
        max_size=3,
        unique_by=lambda output: output.name,
    ),
    _parameters,
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
def test_request_round_trips(
    inputs: tuple[Tensor, ...],
    outputs: list[RequestedOutput],
    parameters: Parameters,
    is_binary: bool,
    request_id: str,
) -> None:
    buffers, header_length = encode_request(
        inputs, outputs=outputs, is_binary=is_binary, id=request_id, parameters=parameters
    )
    assert (header_length is None) == (not is_binary or not inputs)
    back = decode_request("m", "1", b"".join(buffers), header_length)
    assert back == InferRequest("m", "1", request_id, inputs, tuple(outputs), is_binary, parameters)


@given(_lists_of_tensors(), _parameters, st.lists(st.booleans(), min_size=3, max_size=3))
def test_answer_round_trips_whatever_form_each_output_has(
    outputs: tuple[Tensor, ...], parameters: Parameters, forms: list[bool]
) -> None:
    wanted = tuple(
        RequestedOutput(tensor.name, is_binary)
        for tensor, is_binary in zip(outputs, forms, strict=False)
    )
    response = InferResponse("m", "1", "r", outputs, parameters)
    buffers, header_length = encode_response(response, InferRequest("m", "", "r", (), wanted))
    assert decode_response(b"".join(buffers), header_length) == response


@given(_lists_of_tensors().filter(bool), st.booleans())
def test_body_cut_anywhere_is_refused(inputs: tuple[Tensor, ...], is_binary: bool) -> None:
    buffers, header_length = encode_request(inputs, is_binary=is_binary)
    body = b"".join(buffers)
    for end in range(len(body)):
        with pytest.raises(InvalidRequest):
            decode_request("m", "", body[:end], header_length)
        with pytest.raises(ProtocolViolation):
            decode_response(body[:end], header_length)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 3)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(Datatype),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
_junk_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | _values,
        "datatype": st.sampled_from(Datatype) | _values,
        "shape": _shapes | _values,
        "data": st.lists(st.integers(-1, 2) | st.floats(-1, 1) | st.text(max_size=2), max_size=4)
        | _values,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 8) | _values, "k": _values}
        )
        | _values,
    },
)
_junk_messages = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | _values,
        "inputs": st.lists(_junk_tensors, max_size=3) | _values,
        "outputs": st.lists(_junk_tensors, max_size=3) | _values,
        "parameters": st.dictionaries(st.text(max_size=3), _values, max_size=2) | _values,
    },
)


@given(_junk_messages | _values, st.binary(max_size=16))
@example({"inputs": [{"name": "x", "datatype": "INT8", "shape": [0, 2**62], "data": []}]}, b"")
@example({"inputs": [{"name": "x", "datatype": "FP64", "shape": [], "data": 10**400}]}, b"")
def test_junk_messages_are_requests_that_can_be_read_or_are_refused(
    message: object, binary: bytes
) -> None:
    header = json.dumps(message).encode()
    _expect_documented(header + binary, len(header))
    _expect_documented(header[: len(binary)] + binary, len(binary))


def _expect_documented(body: bytes, header_length: int | None) -> None:
    with suppress(ProtocolViolation, TooLarge):
        decode_response(body, header_length, _LIMITS)
    with suppress(InvalidRequest, TooLarge):
        request = decode_request("m", "", body, header_length, _LIMITS)
        for tensor in request.inputs:
            assert tensor.to_numpy().shape == tensor.shape
            tensor.name.encode()
        answer = InferResponse("m", "", "", request.inputs, request.parameters)
        encode_response(answer, request)


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
    forms = {"p": True, "q": False}
    marks = {"sequence_id": 5, "sequence_start": True, "priority": 2, "timeout": 1000}
    body, header_length = triton.InferenceServerClient.generate_request_body(
        [theirs],
        outputs=[
            triton.InferRequestedOutput(name, binary_data=form) for name, form in forms.items()
        ],
        request_id="r-1",
        parameters={"custom": "é"},
        **marks,
    )
    request = decode_request("m", "1", body, header_length)
    assert request == InferRequest(
        "m",
        "1",
        "r-1",
        (Tensor("x", datatype, shape, _raw(array, datatype)),),
        tuple(RequestedOutput(name, is_binary=form) for name, form in forms.items()),
        is_binary_default=False,
        parameters={**marks, "sequence_end": False, "custom": "é"},
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
    told = result.get_response()
    assert (told["model_name"], told["model_version"], told["id"]) == ("m", "3", "r")
    theirs = result.as_numpy("x")
    assert theirs.shape == shape
    if datatype is Datatype.BYTES:
        words = [word if is_binary else word.encode() for word in theirs.reshape(-1)]
        assert words == array.reshape(-1).tolist()
    else:
        assert theirs.dtype == array.dtype
        assert theirs.tobytes() == array.tobytes()
    np.testing.assert_array_equal(result.as_numpy("z"), other)
    back = decode_response(body, header_length).outputs[0]
    assert bytes(back.data) == _raw(array, datatype)
