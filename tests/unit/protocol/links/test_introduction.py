from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from link_wire import hello, limits

from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.introduction import AGAIN_AFTER_S, Introduction
from capamesh.protocol.network import ALPN

FIRST = hello(limits())
AGAIN = dataclasses.replace(FIRST, chain=(b"new leaf", b"invite"))


class Network:
    """Knows each certificate's owner, and none that was expelled."""

    def __init__(self) -> None:
        self.owners = {b"leaf": "peer", b"new leaf": "peer", b"other leaf": "other"}

    def verify(self, hello: Hello, certificate: bytes) -> Any:
        del hello
        if certificate not in self.owners:
            raise NotMember("unknown")
        return SimpleNamespace(peer_id=self.owners[certificate])


def test_first_hello_is_checked_against_the_certificate_of_tls() -> None:
    introduction = Introduction(Network().verify)
    assert introduction.first(FIRST, b"leaf", ALPN).peer_id == "peer"
    assert introduction.hello == FIRST
    with pytest.raises(NotMember):
        Introduction(Network().verify).first(FIRST, b"stranger", ALPN)


@pytest.mark.parametrize("protocol", [None, "h2"])
def test_peer_of_another_protocol_over_tls_is_refused_before_it_is_heard(
    protocol: str | None,
) -> None:
    introduction = Introduction(Network().verify)
    with pytest.raises(ProtocolViolation, match=f"the peer speaks {protocol!r} over TLS"):
        introduction.first(FIRST, b"leaf", protocol)
    assert introduction.hello is None


def test_renewed_chain_is_taken_over_now_and_then() -> None:
    introduction = Introduction(Network().verify)
    member = introduction.first(FIRST, b"leaf", ALPN)
    assert introduction.again(AGAIN, member, 100.0).peer_id == "peer"
    assert introduction.hello == AGAIN
    with pytest.raises(ProtocolViolation, match="a second HELLO within 1 s"):
        introduction.again(FIRST, member, 100.0 + AGAIN_AFTER_S - 0.01)
    introduction.again(FIRST, member, 100.0 + AGAIN_AFTER_S)
    assert introduction.hello == FIRST


def test_peer_does_not_become_another() -> None:
    introduction = Introduction(Network().verify)
    member = introduction.first(FIRST, b"leaf", ALPN)
    other = dataclasses.replace(FIRST, chain=(b"other leaf",))
    with pytest.raises(ProtocolViolation, match="peer introduces itself as other"):
        introduction.again(other, member, 100.0)
    assert introduction.hello == FIRST


def test_recheck_is_of_the_last_chain_that_was_shown() -> None:
    network = Network()
    introduction = Introduction(network.verify)
    introduction.recheck()
    member = introduction.first(FIRST, b"leaf", ALPN)
    introduction.again(AGAIN, member, 100.0)
    del network.owners[b"leaf"]
    introduction.recheck()
    del network.owners[b"new leaf"]
    with pytest.raises(NotMember):
        introduction.recheck()
