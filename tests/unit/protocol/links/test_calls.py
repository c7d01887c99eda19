from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import InvalidRequest, Overloaded, ProtocolViolation, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.call_decoder import MAX_KNOWN_CALLS, CallDecoder
from capamesh.protocol.links.call_encoder import MAX_KNOWN_META_BYTES, CallEncoder
from capamesh.protocol.links.calls import (
    MAX_PRIORITY,
    ControlAction,
    ControlCall,
    InferAnswer,
    InferCall,
    LoadReport,
    decode_answer,
    decode_call,
    decode_load,
    encode_answer,
    encode_call,
    encode_control,
    encode_load,
    load_with,
)
from capamesh.protocol.links.sequence_mark import MAX_SEQUENCE_CHARS, SequenceMark
from capamesh.protocol.links.tensor_descriptions import MAX_KNOWN, MAX_KNOWN_BYTES, KnownLayouts
from capamesh.protocol.msgpack_codec import pack, unpack
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import MAX_CLASSES, Datatype, Limits, Tensor

LIMITS = Limits()
NOTHING = memoryview(b"")
DEEP = b"\x91" * 1000 + b"\xc0"
"""Lists in lists, about as deep as the unpacker goes: `repr` of it raises `RecursionError`."""

TRACE = f"00-{'0a' * 16}-{'0b' * 8}-01"

_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).map(plain)
_counts = st.integers(0, 2**64 - 1)
_loads = st.builds(LoadReport, *[_counts] * 15)
_marks = st.builds(SequenceMark, st.integers(0, 2**64 - 1) | _text, st.booleans(), st.booleans())


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from([Datatype.FP32, Datatype.INT8, Datatype.BOOL, Datatype.BYTES]))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = 1
    for dim in shape:
        count *= dim
    if datatype is Datatype.BYTES:
        data = b"".join(
            len(element).to_bytes(4, "little") + element
            for element in draw(st.lists(st.binary(max_size=3), min_size=count, max_size=count))
        )
    elif datatype is Datatype.BOOL:
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        size = count * (datatype.itemsize_bytes or 0)
        data = draw(st.binary(min_size=size, max_size=size))
    return Tensor(draw(_text), datatype, shape, data)


_many = st.lists(_tensors(), max_size=3).map(tuple)
_calls = st.builds(
    InferCall,
    _text.map(ModelName),
    st.sampled_from(["", "1", "20"]).map(ModelVersion),
    _many,
    st.lists(_text, max_size=3).map(tuple),
    st.integers(0, MAX_PRIORITY),
    st.booleans(),
    st.none() | _marks,
    st.booleans(),
    st.just(()),
    st.sampled_from(["", TRACE]),
    st.booleans(),
).flatmap(
    lambda call: st.sampled_from(
        [(), (0,) * len(call.outputs), (MAX_CLASSES,) * len(call.outputs)]
    ).map(lambda classes: call.replace(classes=classes))
)
_answers = st.builds(
    InferAnswer,
    _text.map(ModelVersion),
    _many,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    _loads,
)


def body_of(parts: list) -> memoryview:  # type: ignore[type-arg]
    return memoryview(b"".join(parts))


@settings(max_examples=40, deadline=None)
@given(_calls, st.none() | st.integers(-(2**63), 2**64 - 1), _answers)
def test_call_and_answer_come_back_as_they_were(
    call: InferCall, budget_ms: int | None, answer: InferAnswer
) -> None:
    meta, body = encode_call(call, budget_ms)
    assert decode_call(meta, body_of(body), LIMITS) == (call, budget_ms)
    meta, body = encode_answer(answer)
    assert decode_answer(meta, body_of(body), LIMITS) == answer
    assert decode_load(encode_load(answer.load)) == answer.load
    for action in ControlAction:
        change = ControlCall(action, call.model, call.version)
        assert decode_call(encode_control(change), NOTHING, LIMITS) == (change, None)


def test_tensors_are_views_of_the_body_and_are_sent_without_a_copy() -> None:
    data = bytearray(b"\0\0\x80\x3f")
    call = InferCall(ModelName("m"), ModelVersion(""), (Tensor("x", Datatype.FP32, (1,), data),))
    meta, body = encode_call(call)
    assert body[0] is data
    received = bytearray(data)
    back, _ = decode_call(meta, memoryview(received), LIMITS)
    received[0] = 9
    assert bytes(back.inputs[0].data) == bytes(received)


def expect_documented(meta: bytes, body: bytes) -> None:
    with contextlib.suppress(InvalidRequest, TooLarge):
        call, _ = decode_call(meta, memoryview(body), LIMITS)
        for tensor in call.inputs:
            assert tensor.to_numpy().shape == tensor.shape
    with contextlib.suppress(ProtocolViolation, TooLarge):
        decode_answer(meta, memoryview(body), LIMITS)
    with contextlib.suppress(ProtocolViolation):
        decode_load(meta)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-1, 9)
    | st.floats()
    | st.sampled_from(["m", "1", "FP32", "BYTES", ""])
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=1), inner),
    max_leaves=8,
)
_tensor_like = st.tuples(
    _text | _values,
    st.sampled_from(Datatype) | _values,
    st.lists(st.integers(-1, 3) | st.sampled_from([2**62, 2**64 - 1]), max_size=4) | _values,
    st.integers(-1, 9) | _values,
).map(list)


@settings(max_examples=80, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "m": _text | _values,
            "v": _text | _values,
            "i": st.lists(_tensor_like, max_size=3) | _values,
            "o": st.lists(_tensor_like, max_size=3) | _values,
            "b": st.integers(-5, 5) | _values,
            "q": st.integers(0, 5) | _values,
            "r": st.integers(0, 5) | _values,
            "l": st.lists(st.integers(0, 5), max_size=7) | _values,
        },
    )
    | _values,
    st.binary(max_size=60),
)
def test_junk_raises_only_what_is_documented(raw: object, body: bytes) -> None:
    expect_documented(pack(raw), body)
    expect_documented(body, body)


def test_nesting_too_deep_to_print_is_refused_like_any_junk() -> None:
    whole = {"m": "m", "v": "1", "i": [], "o": [], "b": 0, "q": 0, "r": 0, "l": [0] * 6}
    for key in whole:
        good = {name: value for name, value in whole.items() if name not in {key, "b"}}
        packed = pack(good)
        meta = bytes([packed[0] + 1]) + packed[1:] + pack(key) + DEEP
        assert isinstance(unpack(meta, max_array_items=10), dict)
        expect_documented(meta, b"")
        described = pack({**good, "i": [None], "o": [None]}).replace(b"\x91\xc0", DEEP)
        expect_documented(described, b"")


def test_additions_of_a_later_version_are_ignored_and_so_is_a_trace_that_is_none() -> None:
    raw = {"m": "m", "i": [["x", "INT8", [1], 1, "more"]], "new": {"a": 1}, "b": 7}
    call, budget_ms = decode_call(pack(raw), memoryview(b"\5"), LIMITS)
    assert budget_ms == 7
    assert call.inputs == (Tensor("x", Datatype.INT8, (1,), b"\5"),)
    more = list(range(1, 19))
    assert decode_load(pack({"l": more})) == LoadReport(*range(1, 16))
    for count in range(6, 15):  # and what an earlier one leaves out is none
        reported = decode_load(pack({"l": more[:count]}))
        assert reported == (*more[:count], *[0] * (15 - count))
        assert reported.bulk_in_flight == (9 if count > 8 else 0)
    for trace in (7, "", "x", TRACE + "0", TRACE.replace("a", "A"), TRACE[:-1] + "0", ["0"] * 55):
        call, _ = decode_call(pack({"m": "m", "i": [], "t": trace}), NOTHING, LIMITS)
        assert isinstance(call, InferCall)
        assert call.trace == ""


def test_texts_of_all_tensors_are_counted_together() -> None:
    inputs = tuple(Tensor(name, Datatype.BYTES, (2,), bytes(8)) for name in ("a", "b"))
    meta, body = encode_call(
        InferCall(ModelName("m"), ModelVersion(""), inputs, ()), budget_ms=None
    )
    whole = memoryview(b"".join(body))
    decode_call(meta, whole, Limits(max_texts=4))
    with pytest.raises(TooLarge, match="'b': 4 BYTES elements in this message; the limit is 3"):
        decode_call(meta, whole, Limits(max_texts=3))
    meta, body = encode_answer(InferAnswer(ModelVersion("1"), inputs, 0, 0, LoadReport()))
    with pytest.raises(ProtocolViolation, match="4 BYTES elements"):
        decode_answer(meta, memoryview(b"".join(body)), Limits(max_texts=3))


def test_known_layouts_are_so_many() -> None:
    known = KnownLayouts()
    for count in range(MAX_KNOWN + 1):
        known.learn(b"%d" % count, [Tensor("x", Datatype.INT8, (1,), b"a")])
    known.learn(bytes(MAX_KNOWN_BYTES + 1), [Tensor("x", Datatype.INT8, (1,), b"a")])
    assert len(known) == MAX_KNOWN
    assert b"0" not in known
    assert known[b"1"].parts == (("x", Datatype.INT8, (1,), 0, 1),)


def test_description_that_only_equals_a_known_one_is_not_taken_for_it() -> None:
    known = KnownLayouts()
    raw = {"v": "1", "o": [["x", "INT8", [1], 1]], "q": 0, "r": 0, "l": [0] * 6}
    decode_answer(pack(raw), memoryview(b"a"), LIMITS, known)
    assert len(known) == 1
    for entry in (["x", "INT8", [True], 1], ["x", "INT8", [1], True], ["x", "INT8", [1.0], 1]):
        with pytest.raises(ProtocolViolation, match="name, datatype, shape, size are expected"):
            decode_answer(pack({**raw, "o": [entry]}), memoryview(b"a"), LIMITS, known)


@settings(max_examples=40, deadline=None)
@given(_calls, _calls, st.none() | st.integers(0, 10_000))
def test_calls_that_were_seen_before_are_written_and_read_as_the_first_time(
    first: InferCall, second: InferCall, budget_ms: int | None
) -> None:
    encoder, decoder = CallEncoder(), CallDecoder(LIMITS)
    for name in InferCall.__slots__:
        names = ("outputs", "classes") if name in ("outputs", "classes") else (name,)
        mixed = first.replace(**{each: getattr(second, each) for each in names})
        for call in (first, mixed):
            meta, body = encode_call(call, budget_ms)
            assert decoder.decode(meta, body_of(body)) == (call, budget_ms)
            known, parts = encoder.encode(call, budget_ms or 0)
            assert (decode_call(known, body_of(parts), LIMITS), parts) == (
                (call, budget_ms or 0),
                body,
            )


def test_known_calls_are_so_many_and_none_is_long_or_traced() -> None:
    call = InferCall(ModelName("m"), ModelVersion("1"), ())
    traced = [
        call.replace(trace=f"00-{at + 1:032x}-{'0b' * 8}-01") for at in range(MAX_KNOWN_CALLS)
    ]
    many = [call.replace(model=f"m{at}") for at in range(MAX_KNOWN_CALLS + 1)]
    encoder, decoder = CallEncoder(), CallDecoder(LIMITS)
    for calls, in_decoder, in_encoder in (
        ([call.replace(outputs=("y" * MAX_KNOWN_META_BYTES,))], 0, 0),
        ([call, *traced], 1, 1),
        (many, MAX_KNOWN_CALLS, MAX_KNOWN_CALLS),
    ):
        for each in calls:
            assert decoder.decode(encode_call(each, 5)[0], NOTHING) == (each, 5)
            encoder.encode(each, 5)
        assert 0 <= len(decoder._known) <= in_decoder
        assert repr(encoder) == f"CallEncoder({in_encoder} known)"
    assert decoder._known


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ([], "is a list, not a map"),
        ({"v": "1"}, "a call for model None version '1': both must be text"),
        ({"m": b"m"}, "both must be text"),
        ({"m": "m", "v": None}, "both must be text"),
        ({"o": "y"}, "outputs are not a list of names"),
        ({"o": [1]}, "outputs are not a list of names"),
        ({"b": 1.5}, "a call with budget 1.5"),
        ({"b": True}, "a call with budget True"),
        ({"i": None}, "without a list of tensors"),
        ({"i": [None] * 4}, "4 tensors; at most 3"),
        ({"i": [["x", "FP32", [1]]]}, "name, datatype, shape, size are expected"),
        ({"i": [["x", "FP32", [True], 4]]}, "name, datatype, shape, size are expected"),
        ({"i": [["x", "FP7", [1], 4]]}, "unknown datatype 'FP7'"),
        ({"i": [["x", "FP32", [1], -4]]}, "is said to have -4 bytes; 4 of the body"),
        ({"i": [["x", "FP32", [2], 8]]}, "is said to have 8 bytes; 4 of the body"),
        ({"i": [["x", "FP32", [2], 4]]}, "needs 8 bytes, got 4"),
        ({"i": [["x", "FP32", [2**63, 2], 4]]}, "every dimension"),
        ({"i": [["", "FP32", [1], 4]]}, "a tensor's name"),
        ({"i": []}, "the tensors take 0 bytes, the body has 4"),
        *[({key: mark}, "not true or false") for key in "kwa" for mark in (1, 0, None, [])],
        *[({"p": priority}, "priority") for priority in (-1, MAX_PRIORITY + 1, True, "1")],
        *[
            ({"s": mark}, "sequence")
            for mark in (
                "x",
                [1, True],
                [True, True, False],
                [-1, True, False],
                [2**64 - 1, 1, False],
                ["", True, False],
                ["x" * (MAX_SEQUENCE_CHARS + 1), True, False],
            )
        ],
        *[
            ({"o": ["a", "b"], "c": classes}, "for each output is expected")
            for classes in ([1], [1, 2, 3], [1, -1], [1, True], ["a", 1], [1, 2**40], 3, "ab", None)
        ],
        *[({"x": action}, "") for action in ("explode", 1, [])],
        ({"x": "load", "m": 3}, ""),
        ({"x": "load", "v": None}, ""),
    ],
)
def test_each_fault_of_a_call_is_named(raw: object, complaint: str) -> None:
    good = {"m": "m", "i": [["x", "FP32", [1], 4]]}
    if isinstance(raw, dict):
        raw = {**good, **raw} if raw != {"v": "1"} else raw
    with pytest.raises(InvalidRequest) as caught:
        decode_call(pack(raw), memoryview(bytes(4)), Limits(max_tensors=3))
    assert complaint in caught.value.message


def test_load_is_six_counts_or_more_or_none() -> None:
    error = Overloaded("full")
    assert load_with(error) is None
    wrong: list[object] = [[1, 2, 3, 4, 5], None, "abcdef"]
    for at in (0, 5, 8, 10):
        for junk in (-1, 1.5, None, "9", [9], True):
            load: list[object] = [*range(1, 12)]
            load[at] = junk
            wrong.append(load)
    for none in wrong:
        with pytest.raises(ProtocolViolation, match="a LOAD is not that of a load"):
            decode_load(pack({"l": none}))
        error.load = none
        assert load_with(error) is None
    error.load = [*range(1, 16), *([0] * 16_000), "of a later version"]
    assert load_with(error) == LoadReport(*range(1, 16))


@pytest.mark.parametrize(
    ("datatype", "size", "good", "other", "bad"),
    [
        ("BOOL", 5, b"\1\0\1\0\1", b"\0\0\0\0\0", b"\1\0\1\0\2"),
        ("BYTES", 1, b"\1\0\0\0a", b"\1\0\0\0b", b"\2\0\0\0a"),
        ("INT8", 5, b"abcde", b"12345", b"abcdef"),
        ("INT8", 5, b"abcde", b"12345", b"abcd"),
    ],
)
def test_data_is_checked_and_its_own_though_its_description_was_seen_before(
    datatype: str, size: int, good: bytes, other: bytes, bad: bytes
) -> None:
    decoder, known = CallDecoder(LIMITS), KnownLayouts()
    tensors = [["x", datatype, [size], 5]]
    meta = pack({"m": "m", "i": tensors})
    answer = pack({"v": "1", "o": tensors, "q": 0, "r": 0, "l": [0] * 6})
    for data in (good, other):
        call, _ = decoder.decode(meta, memoryview(data))
        assert isinstance(call, InferCall)
        (output,) = decode_answer(answer, memoryview(data), LIMITS, known).outputs
        assert bytes(call.inputs[0].data) == bytes(output.data) == data
        with pytest.raises(InvalidRequest):
            decoder.decode(meta, memoryview(bad))
        with pytest.raises(ProtocolViolation):
            decode_answer(answer, memoryview(bad), LIMITS, known)
