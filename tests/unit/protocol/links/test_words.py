"""The words of a link: what a side says of itself, checked once and again, and why it ends."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_wire import hello, limits

from capamesh.protocol.errors import (
    CapameshError,
    NotMember,
    Overloaded,
    ProtocolViolation,
    RunFailed,
    SizeRefused,
)
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.frames import HEADER_BYTES, WIRE_VERSION
from capamesh.protocol.links.hello import MAX_HELLO_BYTES, Hello, unpack_map
from capamesh.protocol.links.introduction import AGAIN_AFTER_S, Introduction
from capamesh.protocol.links.reasons import (
    MAX_AFTER_MS,
    MAX_ERROR_CHARS,
    error_frame,
    error_in,
    error_meta,
    goaway_frame,
    goaway_reason,
)
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.network import ALPN
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


def test_each_fault_is_named() -> None:
    for change, complaint in (
        ({"v": 2}, "speaks link version 2, this side 1: upgrade the older"),
        ({"v": True}, "speaks link version True"),
        ({"net": 5}, "net is 5, expected text"),
        ({"chain": b"leaf"}, "chain is 4 bytes, expected a list, each bytes"),
        ({"chain": ["leaf"]}, "chain[0] is 'leaf', expected bytes"),
        ({"credit": 0}, "credit is 0, expected a whole number from 1"),
        ({"credit": True}, "credit is true, expected a whole"),
        ({"message": 1.0}, "message is 1.0, expected a whole"),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            Hello.decode(pack({**GOOD, **change}))
        assert complaint in caught.value.message


def test_introduction_is_bounded_and_its_unknown_fields_are_ignored() -> None:
    with pytest.raises(ProtocolViolation, match=f"at most {MAX_HELLO_BYTES}"):
        Hello.decode(bytes(MAX_HELLO_BYTES + 1))
    hello = Hello.decode(pack({**GOOD, "agent": "x" * 100, "new": [1]}))
    assert (hello.agent_version, hello.process) == ("x" * 64, b"")
    for reported, known in ((5, b""), ("text", b""), (bytes(17), bytes(16)), (b"x", b"x")):
        assert Hello.decode(pack({**GOOD, "proc": reported})).process == known


FIRST = hello(limits())
AGAIN = dataclasses.replace(FIRST, chain=(b"new leaf", b"invite"))


class Network:
    """Knows each certificate's owner, and none that was expelled."""

    def __init__(self) -> None:
        self.owners = {b"leaf": "peer", b"new leaf": "peer", b"other leaf": "other"}
        self.introduction = Introduction(self.verify)

    def verify(self, hello: Hello, certificate: bytes) -> Any:
        del hello
        if certificate not in self.owners:
            raise NotMember("unknown")
        return SimpleNamespace(peer_id=self.owners[certificate])


@pytest.fixture
def network() -> Network:
    return Network()


def test_first_hello_is_checked_against_the_certificate_and_the_protocol_of_tls(
    network: Network,
) -> None:
    introduction = network.introduction
    for protocol in (None, "h2"):
        with pytest.raises(ProtocolViolation, match=f"the peer speaks {protocol!r} over TLS"):
            introduction.first(FIRST, b"leaf", protocol)
    assert introduction.hello is None
    introduction.recheck()
    assert introduction.first(FIRST, b"leaf", ALPN).peer_id == "peer"
    assert introduction.hello == FIRST
    with pytest.raises(NotMember):
        Network().introduction.first(FIRST, b"stranger", ALPN)


def test_renewed_chain_is_taken_over_now_and_then_and_is_the_one_that_is_rechecked(
    network: Network,
) -> None:
    introduction = network.introduction
    member = introduction.first(FIRST, b"leaf", ALPN)
    assert introduction.again(AGAIN, member, 100.0).peer_id == "peer"
    assert introduction.hello == AGAIN
    with pytest.raises(ProtocolViolation, match="a second HELLO within 1 s"):
        introduction.again(FIRST, member, 100.0 + AGAIN_AFTER_S - 0.01)
    other = dataclasses.replace(FIRST, chain=(b"other leaf",))
    with pytest.raises(ProtocolViolation, match="peer introduces itself as other"):
        introduction.again(other, member, 200.0)
    assert introduction.hello == AGAIN
    del network.owners[b"leaf"]
    introduction.recheck()
    del network.owners[b"new leaf"]
    with pytest.raises(NotMember):
        introduction.recheck()


def there(error: CapameshError) -> CapameshError:
    """Return what the peer makes of an error."""
    return error_in(error_frame(7, error)[HEADER_BYTES:])


def test_error_keeps_its_kind_its_words_its_load_and_a_bounded_hint() -> None:
    error = RunFailed("the model failed")
    error.load = [1, 2]
    seen = there(error)
    assert (type(seen), seen.message, seen.load) == (RunFailed, "the model failed", [1, 2])
    for hint_s, seen_s in ((0.0, 0.0), (0.5, 0.501), (1e6, MAX_AFTER_MS / 1000)):
        assert there(Overloaded("full", hint_s)).retry_after_s == seen_s
    # to routers that do not know it, it is a lack of room
    refused = SizeRefused("too large now", 0.5)
    seen = there(refused)
    assert (type(seen), seen.retry_after_s) == (SizeRefused, 0.501)
    assert unpack_map(error_meta(refused), "ERROR")["code"] == Overloaded.code


def test_words_of_a_peer_are_cut_and_plain() -> None:
    assert len(there(RunFailed("x" * (MAX_ERROR_CHARS + 1))).message) == MAX_ERROR_CHARS
    reason = goaway_reason(goaway_frame("x" * (MAX_ERROR_CHARS + 1))[HEADER_BYTES:])
    assert len(reason) == MAX_ERROR_CHARS
    assert "\x1b" not in goaway_reason(pack({"reason": "\x1b[31mred"}))
    assert goaway_reason(pack({"reason": 5})) == ""
    for read in (error_in, goaway_reason):
        with pytest.raises(ProtocolViolation, match="not a map"):
            read(pack([]))
    others = pack({"code": 3, "message": [], "after_ms": "soon"})
    assert error_in(others).message == error_in(pack({})).message
