from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.frames import WIRE_VERSION
from capamesh.protocol.links.hello import MAX_HELLO_BYTES, Hello
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.plain_text import plain

GOOD = {
    "v": WIRE_VERSION,
    "net": "cm-1",
    "chain": [b"leaf", b"invite"],
    "agent": "0.1",
    "credit": 5,
    "message": 6,
}


@settings(max_examples=40, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.binary(max_size=20), max_size=3).map(tuple),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=64).map(plain),
    st.integers(1, 2**63),
    st.integers(1, 2**63),
    st.binary(max_size=16),
)
def test_introduction_comes_back_as_it_was(
    network: str, chain: tuple[bytes, ...], agent: str, credit: int, message: int, process: bytes
) -> None:
    hello = Hello(NetworkId(network), chain, agent, credit, message, process=process)
    assert Hello.decode(hello.encode()) == hello


@pytest.mark.parametrize(
    ("reported", "known"), [(5, b""), ("text", b""), (bytes(17), bytes(16)), (b"x", b"x")]
)
def test_process_may_be_left_out_of_a_hello(reported: object, known: bytes) -> None:
    assert Hello.decode(pack(GOOD)).process == b""
    assert Hello.decode(pack({**GOOD, "proc": reported})).process == known


@given(st.binary(max_size=80), st.sampled_from(list(GOOD)))
@settings(max_examples=40, deadline=None)
def test_junk_is_a_violation(raw: bytes, key: str) -> None:
    with contextlib.suppress(ProtocolViolation):
        Hello.decode(raw)
    whole = pack(GOOD)
    rest = pack({name: value for name, value in GOOD.items() if name != key})
    deep = b"\x91" * 1000 + b"\xc0"
    for wrong in (
        bytes([rest[0] + 1]) + rest[1:] + pack(key) + deep,
        whole[: len(raw) % len(whole)],
        b"\x90",
    ):
        with pytest.raises(ProtocolViolation):
            Hello.decode(wrong)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"v": 2}, "speaks link version 2, this side 1: upgrade the older"),
        ({"v": True}, "speaks link version True"),
        ({"net": 5}, "net is 5, expected text"),
        ({"chain": b"leaf"}, "chain is 4 bytes, expected a list, each bytes"),
        ({"chain": ["leaf"]}, "chain[0] is 'leaf', expected bytes"),
        ({"credit": 0}, "credit is 0, expected a whole number from 1"),
        ({"credit": True}, "credit is true, expected a whole"),
        ({"message": 1.0}, "message is 1.0, expected a whole"),
    ],
)
def test_each_fault_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        Hello.decode(pack({**GOOD, **change}))
    assert complaint in caught.value.message


def test_too_large_an_introduction_is_refused_unread() -> None:
    with pytest.raises(ProtocolViolation, match=f"at most {MAX_HELLO_BYTES}"):
        Hello.decode(bytes(MAX_HELLO_BYTES + 1))


def test_unknown_fields_are_ignored_and_a_long_agent_name_is_cut() -> None:
    hello = Hello.decode(pack({**GOOD, "agent": "x" * 100, "new": [1]}))
    assert hello.agent_version == "x" * 64
