from __future__ import annotations

import pytest

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.call_encoder import (
    MAX_KNOWN_CALLS,
    MAX_KNOWN_META_BYTES,
    CallEncoder,
)
from capamesh.protocol.links.calls import InferCall, decode_call, encode_call
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Limits, Tensor

X = Tensor("x", Datatype.FP32, (2, 1), b"12345678")
CALL = InferCall(ModelName("m"), ModelVersion("1"), (X,))
CALLS = [
    CALL,
    CALL.replace(model="n"),
    CALL.replace(version="2"),
    CALL.replace(version=""),
    CALL.replace(outputs=("y",)),
    CALL.replace(outputs=("y", "z")),
    CALL.replace(inputs=(X.replace(name="w"),)),
    CALL.replace(inputs=(X.replace(shape=(1, 2)),)),
    CALL.replace(inputs=(X.replace(datatype=Datatype.INT32),)),
    CALL.replace(inputs=(X.replace(data=memoryview(b"87654321")),)),
    CALL.replace(inputs=(X, X.replace(name="w"))),
    CALL.replace(inputs=()),
    CALL.replace(inputs=(Tensor("t", Datatype.BYTES, (1,), b"\1\0\0\0a"),)),
    CALL.replace(inputs=(Tensor("t", Datatype.BYTES, (1,), b"\2\0\0\0ab"),)),
    CALL.replace(priority=1),
    CALL.replace(is_bulk=True),
    CALL.replace(is_bulk=True, is_alone=True),
    CALL.replace(is_alone=True),
    CALL.replace(sequence=SequenceMark("s", is_start=True)),
    CALL.replace(takes_parts=True),
    CALL.replace(outputs=("y",), classes=(3,)),
    CALL.replace(trace=f"00-{'a' * 32}-{'b' * 16}-01"),
    CALL.replace(trace=f"00-{'c' * 32}-{'b' * 16}-01"),
]


@pytest.mark.parametrize("budget_ms", [0, 1, 127, 128, 30_000, 2**32 - 1, 2**32])
def test_call_is_read_as_the_one_that_was_encoded_whatever_was_encoded_before(
    budget_ms: int,
) -> None:
    encoder = CallEncoder()
    for call in CALLS * 2:
        meta, body = encoder.encode(call, budget_ms)
        seen = decode_call(meta, memoryview(b"".join(body)), Limits())
        there, there_body = encode_call(call, budget_ms)
        assert body == there_body
        assert seen == decode_call(there, memoryview(b"".join(body)), Limits())
        assert seen[1] == budget_ms


def test_version_that_was_chosen_goes_before_the_call_s_own() -> None:
    encoder = CallEncoder()
    for version in ("7", "8", "7", ""):
        meta, body = encoder.encode(CALL, 5, ModelVersion(version))
        call, _ = decode_call(meta, memoryview(b"".join(body)), Limits())
        assert isinstance(call, InferCall)
        assert call.version == (version or "1")


def test_known_calls_are_so_many_and_none_is_long() -> None:
    encoder = CallEncoder()
    for number in range(MAX_KNOWN_CALLS + 1):
        encoder.encode(CALL.replace(model=f"m{number}"), 5)
    assert repr(encoder) == f"CallEncoder({MAX_KNOWN_CALLS} known)"
    fresh = CallEncoder()
    fresh.encode(CALL.replace(trace=f"00-{'a' * 32}-{'b' * 16}-01"), 5)
    fresh.encode(CALL.replace(outputs=("y" * MAX_KNOWN_META_BYTES,)), 5)
    assert repr(fresh) == "CallEncoder(0 known)"
