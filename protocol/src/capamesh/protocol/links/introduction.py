"""The introduction of a link's two ends to each other, at first and when a membership was renewed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.network import ALPN, Member

AGAIN_AFTER_S: Final = 1.0
"""Seconds between two introductions of a peer on one link (guess: each costs three signatures, and a month lies between them)."""


class Introduction:
    """The introduction that the peer has given on one link, and the one that it is still to be given."""

    __slots__ = ("_again_after_s", "_certificate", "_verify", "hello", "renewed")

    def __init__(self, verify: Callable[[Hello, bytes], Member]) -> None:
        """`verify` checks a HELLO against the TLS certificate (DER); it raises `NotMember`."""
        self._verify = verify
        self._certificate = b""
        self._again_after_s = 0.0
        """The time from which the peer may introduce itself again."""
        self.hello: Hello | None = None
        """The peer's HELLO; None: none came yet."""
        self.renewed: Hello | None = None
        """This side's HELLO with a renewed membership, until the peer has been shown it."""

    def first(self, hello: Hello, certificate: bytes, protocol: str | None) -> Member:
        """Return who the peer is, by the certificate and the protocol that TLS has; raise `NotMember` or `ProtocolViolation`."""
        if protocol != ALPN:  # OpenSSL lets a peer without one pass
            raise ProtocolViolation(f"the peer speaks {protocol!r} over TLS, not {ALPN!r}")
        self.hello, self._certificate = hello, certificate
        return self._verify(hello, certificate)

    def again(self, hello: Hello, before: Member, now_s: float) -> Member:
        """Take over a chain that the peer was given since; raise `NotMember` or `ProtocolViolation`.

        TLS has proved its key, and its peer id is made of that.
        """
        if now_s < self._again_after_s:
            raise ProtocolViolation(f"a second HELLO within {AGAIN_AFTER_S:g} s")
        self._again_after_s = now_s + AGAIN_AFTER_S
        leaf = hello.chain[0] if hello.chain else b""
        member = self._verify(hello, leaf)
        if member.peer_id != before.peer_id:
            raise ProtocolViolation(f"{before.peer_id} introduces itself as {member.peer_id}")
        self.hello, self._certificate = hello, leaf
        return member

    def recheck(self) -> None:
        """Check the peer's membership again, if it has shown any; raise `NotMember` when it has ended."""
        if self.hello is not None:
            self._verify(self.hello, self._certificate)
