"""Long JSON is read in steps, and means what it means to a parser that reads all of it at once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import CapameshError, InvalidRequest, NotInJson, TooLarge
from capamesh.protocol.oip import (
    InferRequest,
    InferResponse,
    decode_request,
    decoding,
    encode_response,
    json_data,
    json_steps,
    long_data,
)
from capamesh.protocol.oip.decoding import decode_request_in_steps
from capamesh.protocol.oip.encoding import encode_response_in_steps
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Limits, Tensor


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let all JSON be long, and pieces and windows so short that they end everywhere."""
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "AT_ONCE_BYTES", 0)
        patch.setattr(json_steps, "AT_ONCE_BYTES", 0)
        patch.setattr(json_steps, "_FIRST_TRY_CHARS", 3)
        patch.setattr(json_steps, "_WINDOW_CHARS", 7)
        patch.setattr(json_steps, "TOKENS_CHARS", 9)
        patch.setattr(long_data, "PIECE_CHARS", 24)
        patch.setattr(long_data, "TOKENS_CHARS", 24)
        yield


def _read(body: bytes, limits: Limits = DEFAULT_LIMITS) -> object:
    try:
        return decode_request("m", "", body, None, limits)
    except CapameshError as error:
        return type(error)


def _tensor(datatype: str, shape: list[int], data: str, name: str = "x") -> str:
    return f'{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}'


_NUMBERS = st.sampled_from(
    ["0", "1", "-1", "255", "2.5", "1e2", "[", "]", ",", '"a"', "true", "{}", " "]
)
_TEXTS = st.text(st.sampled_from('ab"\\[],é\U0001f600\n'), max_size=30)


@pytest.mark.full
@pytest.mark.usefixtures("_small")
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    datatype=st.sampled_from(["UINT8", "INT64", "FP32", "FP16", "BOOL", "BYTES"]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_data_is_read_as_by_a_parser_of_all_of_it(
    shape: list[int], datatype: str, data: st.DataObject
) -> None:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        values: list[object] = data.draw(st.lists(_TEXTS, min_size=count, max_size=count))
    else:
        most = 1 if datatype == "BOOL" else 120
        values = data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
    nested = np.array(values, dtype=object).reshape(shape).tolist()
    written = json.dumps(
        data.draw(st.sampled_from([values, nested])),
        ensure_ascii=data.draw(st.booleans()),
        indent=data.draw(st.sampled_from([None, 1])),
    )
    for _ in range(data.draw(st.integers(0, 2))):  # and not always right
        at = data.draw(st.integers(0, len(written)))
        written = written[:at] + data.draw(_NUMBERS) + written[at + data.draw(st.integers(0, 3)) :]
    body = f'{{"inputs":[{_tensor(datatype, shape, written)}],"id":"7"}}'.encode()
    found = _read(body)
    assert _read_whole(body) == found


def _read_whole(body: bytes) -> object:
    before = decoding.AT_ONCE_BYTES
    decoding.AT_ONCE_BYTES = 2**30  # type: ignore[misc]
    try:
        return _read(body)
    finally:
        decoding.AT_ONCE_BYTES = before  # type: ignore[misc]


@pytest.mark.pure
@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"inputs":[]} x', "Extra data at character 14"),
        ('{"inputs":[', "inputs must be objects, got ''"),
        ('{"inputs" []}', "Expecting ':'"),
        ('{"inputs":[5]}', "inputs must be objects|must be an object"),
        ('{"inputs":[{"data":[{"a":1}]}]}', "an object in a tensor's data"),
        ('{"inputs":[{"data":' + 40 * "[" + "}]}", "nested over 33 deep"),
        ('{"inputs":[{"data":[1', "a list without an end"),
        ('{"inputs":[{"name":"x","datatype":"INT8","shape":[2],"data":["a]}]}', "not JSON"),
        ('{"a":NaN}', "the literal NaN"),
    ],
)
def test_text_that_is_no_request_is_refused_with_its_place(body: str, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        decode_request("m", "", body.encode(), None)


def test_parts_other_than_data_may_not_be_long() -> None:
    long = "[" + "0," * 50_000 + "0]"
    for body in (
        f'{{"inputs":[],"x":{long}}}',
        f'{{"inputs":[],"parameters":{{"k":"{"v" * 100_000}"}}}}',
        f'{{"inputs":[],"outputs":[{{"name":"y","x":{long}}}]}}',
        f'{{"inputs":[{{"name":{long}}}]}}',
        "{" + '"a":1,' * 20_000 + '"inputs":[]}',
        '{"inputs":[' + "{}," * 30_000 + "{}]}",
        '{"inputs":[{' + '"a":1,' * 20_000 + '"name":"x"}]}',
    ):
        assert _read(body.encode()) is TooLarge, body[:60]


def test_data_too_short_for_its_shape_is_refused_before_it_is_read() -> None:
    body = f'{{"inputs":[{_tensor("FP32", [10**6], "[" + "0," * 99_999 + "0]")}]}}'.encode()
    with pytest.raises(InvalidRequest, match="1000000 elements, the data is too short for so many"):
        decode_request("m", "", body, None)


def test_long_requests_of_every_kind_arrive_whole() -> None:
    rng = np.random.default_rng(1)
    floats = rng.random((200, 150), np.float32)
    words = [f'{index} "é" \\' * (index % 9) for index in range(20_000)]
    body = json.dumps(
        {
            "id": "i",
            "inputs": [
                {"name": "a", "datatype": "FP32", "shape": [200, 150], "data": floats.tolist()},
                {"name": "b", "datatype": "BYTES", "shape": [20_000], "data": words},
                {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["\\x" * 200_000]},
                {"name": "d", "datatype": "INT8", "shape": [], "data": [7]},
            ],
            "outputs": [{"name": "y"}],
        }
    ).encode()
    asked = decode_request("m", "", body, None, Limits(max_json_bytes=2**24))
    a, b, c, d = asked.inputs
    assert np.array_equal(a.to_numpy(), floats)
    assert [each.decode() for each in b.to_numpy()] == words
    assert c.to_numpy()[0] == b"\\x" * 200_000
    assert (d.data, asked.id, asked.outputs[0].name) == (b"\7", "i", "y")


def test_no_step_reads_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = long_data.read_elements

    def counted(name: str, datatype: Datatype, flat: list[object], first: int = 0) -> bytes:
        sizes.append(len(flat))
        return whole(name, datatype, flat, first)

    monkeypatch.setattr(long_data, "read_elements", counted)
    body = f'{{"inputs":[{_tensor("BOOL", [10**6], "[" + "0," * 999_999 + "1]")}]}}'.encode()
    steps = decode_request_in_steps("m", "", body, None)
    taken = sum(1 for _ in steps)
    assert max(sizes) <= long_data.PIECE_CHARS
    assert sum(sizes) == 10**6
    assert taken >= len(sizes)


def test_long_answer_is_written_in_steps_and_reads_back() -> None:
    floats = np.random.default_rng(2).random(50_000)
    words = np.array([b"w" * (index % 7) for index in range(30_000)] + [b'"\\' * 200_000], object)
    response = InferResponse(
        "m", "1", "", (Tensor.from_numpy("y", floats), Tensor.from_numpy("z", words))
    )
    steps = encode_response_in_steps(response, InferRequest("m", "", "", ()))
    taken = 0
    try:
        while True:
            next(steps)
            taken += 1
    except StopIteration as done:
        buffers, json_bytes = done.value
    assert json_bytes is None
    assert taken > len(floats) // json_data._CHUNK_ELEMENTS
    y, z = json.loads(b"".join(buffers))["outputs"]
    assert y["data"] == floats.tolist()
    assert z["data"] == [each.decode() for each in words]


def test_value_without_a_json_number_comes_back_as_the_text_that_was_asked_for() -> None:
    rng = random.Random(3)
    special = [np.nan, np.inf, -np.inf, 0.1, -0.0]
    for datatype, dtype in (
        (Datatype.FP16, np.float16),
        (Datatype.FP32, np.float32),
        (Datatype.FP64, np.float64),
        (Datatype.BF16, np.float32),
    ):
        array = np.array([rng.choice(special) for _ in range(9000)], dtype)
        tensor = Tensor.from_numpy("y", array, datatype)
        response = InferResponse("m", "1", "", (tensor,))
        with pytest.raises(NotInJson, match='"non_finite_output": "text"'):
            encode_response(response, InferRequest("m", "", "", ()))
        buffers, _ = encode_response(
            response, InferRequest("m", "", "", (), is_non_finite_text=True)
        )
        given_back = json.loads(b"".join(buffers), parse_constant=pytest.fail)["outputs"][0]
        body = json.dumps({"inputs": [given_back]}).encode()
        assert decode_request("m", "", body, None).inputs == (tensor,)


def test_culprit_is_named_by_its_place_in_the_whole_tensor() -> None:
    data = "[" + "0," * 99_999 + "300]"
    body = f'{{"inputs":[{_tensor("UINT8", [100_000], data)}]}}'.encode()
    with pytest.raises(InvalidRequest, match="UINT8 element 99999 must be from 0 to 255, got 300"):
        decode_request("m", "", body, None)
    body = f'{{"inputs":[{_tensor("UINT8", [100_001], data)}]}}'.encode()
    with pytest.raises(InvalidRequest, match=r"100001 elements; .* or ends, at element 99999"):
        decode_request("m", "", body, None)
