from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensors import Datatype, Limits, Tensor, checked, join_elements

_GOOD = Tensor("x", Datatype.FP32, (2, 3), bytes(24))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_GOOD.replace(data=bytes(23)), r"FP32 of shape \[2, 3\] needs 24 bytes, got 23"),
        (_GOOD.replace(shape=(2, -3)), r"shape \[2, -3\]; every dimension must be from 0 to"),
        (_GOOD.replace(shape=(2**40,), data=b""), f"needs {2**42} bytes, got 0"),
        (_GOOD.replace(shape=(2**62, 2**62)), f"needs {2**126} bytes, got 24"),
        (_GOOD.replace(shape=(1,) * 33), "has 33 dimensions; the limit is 32"),
        (_GOOD.replace(shape=(0, 2**62), data=b""), "non-zero dimensions span"),
        (
            _GOOD.replace(shape=(2**26 + 1, 0), data=b""),
            f"non-zero dimensions span {2**28 + 4} bytes, the limit is {2**28}",
        ),
        (_GOOD.replace(name=""), "1 to 1024 characters, got 0"),
        (_GOOD.replace(name="n" * 1025), "1 to 1024 characters, got 1025"),
        (Tensor("b", Datatype.BOOL, (3,), b"\0\1\2"), "BOOL element 2 is the byte 2"),
        (Tensor("s", Datatype.BYTES, (2,), b"\0\0\0\0"), "need at least 8 bytes"),
        (
            Tensor("s", Datatype.BYTES, (1,), b"\4\0\0\0abc"),
            "claims 4 bytes and would end at byte 8",
        ),
        (Tensor("s", Datatype.BYTES, (1,), b"\1\0\0\0ab"), "1 bytes are left after its 1"),
        (Tensor("s", Datatype.BYTES, (0,), b"\0\0\0\0"), "4 bytes are left after its 0"),
        (
            Tensor("s", Datatype.BYTES, (2,), b"\1\0\0\0a\0\0\0"),
            "ends in the length of BYTES element 1",
        ),
    ],
)
def test_disagreement_is_named_with_its_numbers(tensor: Tensor, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        checked(tensor)


def test_more_texts_than_an_event_loop_should_read_are_too_large() -> None:
    texts = Tensor("s", Datatype.BYTES, (3,), bytes(12))
    checked(texts, Limits(max_texts=3))
    assert checked(_GOOD, Limits(max_message_bytes=24)) is _GOOD
    with pytest.raises(TooLarge, match="has 24 bytes; the limit of a message is 23"):
        checked(_GOOD, Limits(max_message_bytes=23))
    with pytest.raises(
        TooLarge, match="'s': 3 BYTES elements in this message; the limit is 2: split"
    ):
        checked(texts, Limits(max_texts=2))


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_bytes_cut_anywhere_are_refused(elements: list[bytes]) -> None:
    raw = join_elements(elements)
    shape = (len(elements),)
    checked(Tensor("s", Datatype.BYTES, shape, raw))
    for end in range(len(raw)):
        with pytest.raises(InvalidRequest):
            checked(Tensor("s", Datatype.BYTES, shape, raw[:end]))


@given(
    st.sampled_from(Datatype),
    st.lists(st.integers(-1, 2**65) | st.integers(0, 3), max_size=34),
    st.binary(max_size=32),
)
def test_junk_either_passes_and_can_be_read_or_is_an_invalid_request(
    datatype: Datatype, shape: list[int], data: bytes
) -> None:
    tensor = Tensor("x", datatype, tuple(shape), data)
    try:
        checked(tensor)
    except (InvalidRequest, TooLarge):
        return
    assert tensor.to_numpy().shape == tuple(shape)


def test_wrong_truth_is_found_wherever_it_is_without_memory_of_the_data_s_size() -> None:
    data = bytearray(8 * 2**20)
    for index in (len(data) - 1, 2**20, 2**20 - 1):  # each before the one that was found last
        data[index] = 2
        tracemalloc.start()
        try:
            with pytest.raises(InvalidRequest, match=f"BOOL element {index} is the byte 2;"):
                checked(Tensor("b", Datatype.BOOL, (len(data),), data))
            assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        finally:
            tracemalloc.stop()
