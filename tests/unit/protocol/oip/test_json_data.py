"""Tensors in JSON, at once and in steps: what they mean to a parser of all of it, or why they are refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

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
from capamesh.protocol.oip.json_data import read_data, write_data
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype, Limits, Tensor

_ROOM_BYTES = 2**20


def _read(datatype: Datatype, shape: tuple[int, ...], text: str) -> np.ndarray[Any, Any]:
    raw = read_data("x", datatype, shape, json.loads(text))
    return Tensor("x", datatype, shape, raw).to_numpy()


def _written(array: np.ndarray[Any, Any], datatype: Datatype | None = None) -> str:
    return write_data(Tensor.from_numpy("x", array, datatype), _ROOM_BYTES)


def test_integers_are_exact_to_the_last_of_64_bits() -> None:
    lowest, highest = -(2**63), 2**63 - 1
    for datatype, values in (
        (Datatype.INT64, [lowest, highest, 2**53 + 1]),
        (Datatype.UINT64, [2**64 - 1, 2**53 + 1]),
    ):
        text = json.dumps(values, separators=(",", ":"))
        array = _read(datatype, (len(values),), text)
        assert (array.tolist(), _written(array)) == (values, text)


def test_integers_one_beyond_the_range_are_refused_by_index_and_value() -> None:
    for datatype in Datatype:
        if datatype.numpy_dtype.kind not in "iu" or datatype is Datatype.BF16:
            continue
        info = np.iinfo(datatype.numpy_dtype)
        low, high = int(info.min), int(info.max)
        assert _read(datatype, (2,), f"[{low}, {high}]").tolist() == [low, high]
        for value in (low - 1, high + 1, 10**30):
            error = f"tensor 'x': {datatype} element 1 must be from {low} to {high}, got {value}"
            with pytest.raises(InvalidRequest, match=error):
                _read(datatype, (2,), f"[0, {value}]")


@given(
    st.lists(
        st.floats(width=64) | st.integers(-(10**400), 10**400) | st.floats(width=32),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["FP16", "FP32", "FP64"]),
)
def test_few_floats_are_read_as_many_are(numbers: list[float], name: str) -> None:
    datatype = Datatype(name)
    many = [*numbers, *[0.0] * 100]

    def read(flat: list[float]) -> bytes | str:
        try:
            return read_data("x", datatype, (len(flat),), flat)
        except InvalidRequest as error:
            return error.message

    few, of_many = read(numbers), read(many)
    if isinstance(of_many, str):
        assert few == of_many
    else:
        assert few == of_many[: len(numbers) * datatype.numpy_dtype.itemsize]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=8), st.sampled_from(["FP16", "FP32", "FP64"]))
def test_every_finite_float_reads_back_to_the_same_bits(patterns: list[int], name: str) -> None:
    dtype = Datatype(name).numpy_dtype
    bits = np.array(patterns, np.uint64)
    values = bits.view(dtype)
    values = values[np.isfinite(values)]
    text = _written(values)
    assert _read(Datatype(name), values.shape, text).tobytes() == values.tobytes()


def test_every_finite_16_bit_float_reads_back_to_the_same_bits() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    half = bits[np.isfinite(bits.view(np.float16))]
    text = _written(half.view(np.float16))
    assert _read(Datatype.FP16, half.shape, text).tobytes() == half.tobytes()
    brain = bits[bits & 0x7F80 != 0x7F80]
    text = _written(brain, Datatype.BF16)
    assert _read(Datatype.BF16, brain.shape, text).tobytes() == brain.tobytes()


def test_more_text_than_the_room_is_too_large() -> None:
    array = np.full(100, 123456, np.int32)
    text = _written(array)
    tensor = Tensor.from_numpy("x", array)
    assert write_data(tensor, len(text)) == text
    words = Tensor.from_numpy("x", np.array([b"abcdef"], dtype=object))
    for tried, room_bytes in ((tensor, 10), (tensor, len(text) - 2), (words, 9)):
        with pytest.raises(TooLarge, match=f"more than the {room_bytes} bytes"):
            write_data(tried, room_bytes)


@pytest.mark.parametrize(
    ("datatype", "text", "error"),
    [
        ("INT32", "[1, 1.0]", "must be an integer, got 1.0"),
        ("INT32", "[1, true]", "must be an integer, got True"),
        ("INT32", '[1, "2"]', "must be an integer, got '2'"),
        ("FP32", "[1, null]", "must be a number, got None"),
        ("FP32", "[1, false]", "must be a number, got False"),
        ("FP32", "[1, [2]]", r"must be a number, got \[2\]"),
        ("BOOL", "[true, 2]", "must be from 0 to 1, got 2"),
        ("BOOL", "[true, 1.0]", "must be true, false, 0 or 1, got 1.0"),
        ("BYTES", '["a", 5]', "must be a string, got 5"),
        ("BYTES", '["a", "b\\ud800"]', "has half of a surrogate pair at char"),
        ("FP16", "[1, 65520]", "must be within the range of FP16, got 65520"),
        ("BF16", "[1, 3.4e38]", "must be within the range of BF16, got 3.4e"),
        ("FP32", "[1, -1e39]", r"must be within the range of FP32, got -1e\+39"),
        ("FP64", "[1, 1e999]", "must be within the range of FP64, got inf"),
        ("FP64", f"[1, {10**400}]", "must be within the range of FP64, got 100"),
        ("BF16", f"[1, {10**400}]", "must be within the range of BF16"),
    ],
)
def test_value_the_datatype_cannot_hold_is_refused_by_index_and_value(
    datatype: str, text: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"tensor 'x': {datatype} element 1 {error}"):
        _read(Datatype(datatype), (2,), text)


def test_value_that_json_cannot_hold_is_an_error_that_says_to_use_binary() -> None:
    for datatype in (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64):
        dtype = np.float64 if datatype is Datatype.BF16 else datatype.numpy_dtype
        for value in (np.nan, np.inf, -np.inf):
            error = f"tensor 'x': {datatype} element 1 is {value}, which JSON cannot hold; ask for"
            with pytest.raises(NotInJson, match=error):
                _written(np.array([0, value], dtype), datatype)
    error = "BYTES element 1 is not UTF-8 .invalid start byte at byte 1.*; ask for binary data"
    with pytest.raises(NotInJson, match=error):
        _written(np.array([b"a", b"b\xff"], dtype=object))


def test_narrow_floats_are_written_as_their_own_shortest_text() -> None:
    for dtype, text in ((np.float32, "0.1,0.33333334,-0.0"), (np.float16, "0.1,0.3333")):
        assert _written(np.array([float(each) for each in text.split(",")], dtype)) == f"[{text}]"
    assert _written(np.array([1.0, -2.5]), Datatype.BF16) == "[1.0,-2.5]"


def test_data_may_be_flat_or_nested_as_the_shape() -> None:
    for shape in ((2, 3), (1, 2, 3), (2, 3, 1), (6,), ()):
        expected = np.arange(np.prod(shape, dtype=int), dtype=np.uint8).reshape(shape)
        for nested in (expected.tolist(), expected.reshape(-1).tolist()):
            found = _read(Datatype.UINT8, shape, json.dumps(nested))
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "text", "error"),
    [
        ((2, 3), "[1,2,3,4,5]", r"shape \[2, 3\] has 6 elements, the data has 5"),
        ((2, 3), "[[1,2,3],[4,5]]", "needs lists of 3 at depth 1, item 1 has 2"),
        ((2, 3), "[[1,2],[3,4],[5,6]]", "needs 2 lists at the top, the data has 3"),
        ((2, 3), "[[1,2,3],4]", "must be lists at depth 1, item 1 is 4"),
        ((2, 3), "[1,[2,3],4,5,6,7]", r"element 1 must be an integer, got \[2, 3\]"),
        ((2, 1, 3), "[[[1,2,3]],[4]]", "must be lists at depth 2, item 1 is 4"),
        ((6,), "[[1,2,3,4,5,6]]", r"shape \[6\] has 6 elements, the data has 1"),
        ((2, 0), "[[],[1]]", "needs lists of 0 at depth 1, item 1 has 1"),
        ((2,), '"ab"', "data must be a list, got 'ab'"),
        ((), "[1, 2]", r"shape \[\] has 1 elements, the data has 2"),
        ((), "{}", "element 0 must be an integer, got {}"),
    ],
)
def test_nesting_that_is_not_the_shape_is_refused_at_its_place(
    shape: tuple[int, ...], text: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        _read(Datatype.INT64, shape, text)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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


def _outcome(body: bytes, limits: Limits = DEFAULT_LIMITS) -> object:
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
@pytest.mark.usefixtures("small")
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
    found = _outcome(body)
    assert _outcome_whole(body) == found


def _outcome_whole(body: bytes) -> object:
    before = decoding.AT_ONCE_BYTES
    decoding.AT_ONCE_BYTES = 2**30  # type: ignore[misc]
    try:
        return _outcome(body)
    finally:
        decoding.AT_ONCE_BYTES = before  # type: ignore[misc]


@pytest.mark.pure
@pytest.mark.usefixtures("small")
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
        assert _outcome(body.encode()) is TooLarge, body[:60]


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
    ended: list[Any] = []

    def run() -> Iterator[None]:
        ended.append((yield from steps))

    assert len(list(run())) > len(floats) // json_data._CHUNK_ELEMENTS
    ((buffers, json_bytes),) = ended
    assert json_bytes is None
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
    body = f'{{"inputs":[{_tensor("FP32", [10**6], "[" + "0," * 99_999 + "0]")}]}}'.encode()
    with pytest.raises(InvalidRequest, match="1000000 elements, the data is too short for so many"):
        decode_request("m", "", body, None)  # before it is read
    body = f'{{"inputs":[{_tensor("UINT8", [100_001], data)}]}}'.encode()
    with pytest.raises(InvalidRequest, match=r"100001 elements; .* or ends, at element 99999"):
        decode_request("m", "", body, None)
