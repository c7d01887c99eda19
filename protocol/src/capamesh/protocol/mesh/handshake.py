"""Proves membership over a new connection: the messages, their order and what is signed. Pure.

The wire of `/capamesh/member/1`, for an implementation in any language. It runs on one stream of a libp2p
connection that noise has authenticated. Whoever dialled the connection opens the stream (the opener), the
other accepts it (the acceptor); a peer that has not proved membership within 5 seconds of the connection,
on this stream or on an earlier connection that still stands, is disconnected.

A message is a 4-byte little-endian length and one msgpack map of at most 1,052,672 bytes: no key that is no
text or occurs twice, no extension type, no array of over 16 items, no map of over 256. Unknown keys are
skipped.

1. Each side sends at once, without waiting for the other:
     "type"    text  "hello"
     "v"       int   1
     "net"     text  the network id
     "chain"   array [leaf, invite], two bin: X.509 certificates in DER; where the network's owner has changed keys, up
                     to 8 more, as in an advert's envelope
     "nonce"   bin   32 fresh random bytes
     "revoked" int   the version of the newest revocation list it has; 0: none
     "drains"  bin   the signature of the newest drain order it has, its first 64 bytes behind the owner's keys; empty: none; may be
                     missing: it takes no orders
2. Each side checks the other's chain against the network's authority, and that the leaf's peer id is the
   one that noise authenticated, and sends:
     "type"    text  "proof"
     "sig"     bin   64 bytes: Ed25519 by its identity key, over the concatenation of
                     "capamesh-member-1" and a zero byte,
                     "O" if the opener signs, "A" if the acceptor does,
                     the network id and a zero byte,
                     the opener's peer id in base58 and a zero byte, the acceptor's likewise,
                     the opener's nonce, the acceptor's nonce
     "list"    bin   its encoded revocation list if that is of a higher version than the other's
                     "revoked", else empty
3. Each side checks the other's signature and sends:
     "type"    text  "verdict"
     "ok"      bool  true: the other is a member
     "why"     text  empty, or the reason for a person
     "drains"  bin   where the other is a member, and told of another drain order than this side has, or of none: this side's,
                     encoded; else it may be missing. Who has the newer one of the two passes over what it is sent
     "list"    bin   where the other is refused because of a revocation list that is newer than what it has, and its
                     chain is of the peer id that noise authenticated: that list, encoded; else it may be missing
A side that has both sent and received a verdict that is true may close the stream. A side that refuses
sends a verdict that is false in place of the message that is due, and disconnects.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from capamesh.protocol.channel.framing import Decoder, Message, encode
from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import verify_signature
from capamesh.protocol.msgpack_codec import unpack_strictly
from capamesh.protocol.network.chain import leaf_peer_id
from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from capamesh.protocol.identity import Identity
    from capamesh.protocol.ids import NetworkId, PeerId
    from capamesh.protocol.network import Member, NetworkTrust

PROTOCOL: Final = "/capamesh/member/1"
VERSION: Final = 1
TIME_LIMIT_S: Final = 5.0
"""The design's limit: a member needs two round trips and a few milliseconds."""

NONCE_BYTES: Final = 32
MAX_MESSAGE_BYTES: Final = 1024 * 1024 + 4096
"""The largest revocation list, and room for what stands around it."""

_DOMAIN: Final = b"capamesh-member-1\0"
_MAX_ARRAY_ITEMS: Final = 16
"""The longest array: the chain has two items, and the rest is for later versions."""

_MAX_WHY_CHARS: Final = 300
"""The longest reason (guess: one line in a log)."""


_BY_LIST: Final = ("revoked", "retired owner key")
"""The beginnings of the reasons for which a revocation list shuts a member out."""


class Side(Enum):
    """The side of a member in the exchange; the value stands in what it signs."""

    OPENER = b"O"
    ACCEPTOR = b"A"


def signed_bytes(
    signer: Side,
    network_id: NetworkId,
    *,
    opener: tuple[PeerId, bytes],
    acceptor: tuple[PeerId, bytes],
) -> bytes:
    """Return what `signer` signs; `opener` and `acceptor` are each a peer id and its nonce."""
    return b"".join(
        (
            _DOMAIN,
            signer.value,
            network_id.encode() + b"\0",
            opener[0].encode() + b"\0",
            acceptor[0].encode() + b"\0",
            opener[1],
            acceptor[1],
        )
    )


def stream_decoder() -> Decoder:
    """Return the decoder for a stream of this protocol."""
    return Decoder(MAX_MESSAGE_BYTES, partial(unpack_strictly, max_array_items=_MAX_ARRAY_ITEMS))


def refusal(why: str, revocations: bytes = b"") -> bytes:
    """Return the frame that tells the other side that it is refused, and by which revocation list it is."""
    reported: dict[str, object] = {"type": "verdict", "ok": False, "why": why[:_MAX_WHY_CHARS]}
    return encode({**reported, "list": revocations} if revocations else reported)


class Handshake:
    """One side of one exchange: messages in, frames out. The nonce and the time are arguments.

    After `receive` raised `NotMember`, disconnect; first send `refusal` with its message and let it
    arrive, unless `was_refused`.
    """

    def __init__(
        self,
        side: Side,
        *,
        identity: Identity,
        chain: Sequence[bytes],
        trust: NetworkTrust,
        remote: PeerId,
        nonce: bytes,
    ) -> None:
        self._side = side
        self._identity = identity
        self._chain = list(chain)
        self._trust = trust
        self._remote = remote
        self._nonce = nonce
        self._expected = "hello"
        self._remote_nonce = b""
        self._member: Member | None = None
        self.was_refused = False
        """True if the remote refused this member: there is nothing to tell it any more."""
        self.remote_chain: tuple[bytes, ...] = ()
        """The remote's certificates, once they are verified."""
        self.revocations = b""
        """A revocation list that the remote sent as newer than ours; not verified; empty: none."""
        self.drains = b""
        """A drain order of the remote's that is another than ours; not verified; empty: none."""
        self._owed_drains = b""
        """The drain order that the remote is to be sent once it has proved itself."""
        self.revealed = b""
        """The list to send with the refusal of a remote that it names: it learns so that it is a member no more."""

    @override
    def __repr__(self) -> str:
        return f"Handshake({self._side.name} with {self._remote}: {self._expected} is due)"

    @property
    def member(self) -> Member | None:
        """Return who the remote is, once both sides have proved and accepted each other."""
        return self._member if self._expected == "nothing" else None

    def first(self) -> bytes:
        """Return the frame to send at once."""
        return encode(
            {
                "type": "hello",
                "v": VERSION,
                "net": self._trust.network_id,
                "chain": self._chain,
                "nonce": self._nonce,
                "revoked": self._trust.revocations.version,
                "drains": self._trust.drains_mark,
            }
        )

    def receive(self, message: Message, now: datetime) -> bytes:
        """Return the frame to send in answer to `message`, or nothing when none is due.

        Raises:
            NotMember: the remote is none, refused us, or broke the protocol; the message says which.
        """
        kind = message["type"]
        if kind == "verdict" and message.get("ok") is not True:
            self.was_refused = True
            newer = message.get("list")
            if isinstance(newer, bytes):
                self.revocations = newer
            raise NotMember(f"it refused us: {plain(str(message.get('why'))[:_MAX_WHY_CHARS])}")
        if kind != self._expected:
            raise NotMember(f"malformed: {str(kind)[:20]!r} came where {self._expected!r} is due")
        match kind:
            case "hello":
                self._expected = "proof"
                return self._answer_hello(message, now)
            case "proof":
                self._expected = "verdict"
                self._check_proof(message)
                verdict: dict[str, object] = {"type": "verdict", "ok": True, "why": ""}
                owed = self._owed_drains
                return encode({**verdict, "drains": owed} if owed else verdict)
            case _:
                drains = message.get("drains", b"")
                if not isinstance(drains, bytes):
                    raise NotMember("malformed: 'drains' must be a drain order as bytes")
                self.drains = drains
                self._expected = "nothing"
                return b""

    def _answer_hello(self, message: Message, now: datetime) -> bytes:
        nonce, chain, revoked = message.get("nonce"), message.get("chain"), message.get("revoked")
        if message.get("v") != VERSION:
            raise NotMember(f"malformed: version {message.get('v')!r}, this side speaks {VERSION}")
        if message.get("net") != self._trust.network_id:
            raise NotMember(
                f"wrong network: {str(message.get('net'))[:64]!r}, this is {self._trust.network_id}"
            )
        if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES or nonce == self._nonce:
            raise NotMember(f"malformed: the nonce must be {NONCE_BYTES} fresh bytes")
        if not isinstance(revoked, int) or revoked < 0:
            raise NotMember("malformed: 'revoked' must be the version of a revocation list")
        if not isinstance(chain, list):
            raise NotMember("malformed: 'chain' must be an array of certificates")
        certificates = cast("list[bytes]", chain)
        try:
            member = self._trust.verify(certificates, now)
        except NotMember as exc:
            is_behind = self._trust.revocations.version > revoked
            if exc.message.startswith(_BY_LIST) and is_behind and self._is_of_remote(certificates):
                self.revealed = self._trust.encoded_revocations
            raise
        if member.peer_id != self._remote:
            raise NotMember(
                f"peer id does not match key: the chain is {member.peer_id}'s, the connection {self._remote}'s"
            )
        drains = message.get("drains")
        mark = self._trust.drains_mark
        if mark and isinstance(drains, bytes) and drains != mark:
            self._owed_drains = self._trust.encoded_drains
        self._member = member
        self._remote_nonce = nonce
        self.remote_chain = tuple(certificates)
        is_behind = self._trust.revocations.version > revoked
        return encode(
            {
                "type": "proof",
                "sig": self._identity.sign(self._signed_by(self._side)),
                "list": self._trust.encoded_revocations if is_behind else b"",
            }
        )

    def _is_of_remote(self, certificates: Sequence[bytes]) -> bool:
        """Return whether the chain is of the key that noise has authenticated: others' chains are public, in their adverts."""
        return leaf_peer_id(certificates[0]) == self._remote

    def _check_proof(self, message: Message) -> None:
        signature, newer = message.get("sig"), message.get("list")
        if not isinstance(signature, bytes) or not isinstance(newer, bytes):
            raise NotMember("malformed: a proof needs 'sig' and 'list' as bytes")
        other = Side.ACCEPTOR if self._side is Side.OPENER else Side.OPENER
        if not verify_signature(self._remote, self._signed_by(other), signature):
            raise NotMember(f"bad signature: {self._remote} did not sign this exchange")
        self.revocations = newer

    def _signed_by(self, signer: Side) -> bytes:
        mine = (self._identity.peer_id, self._nonce)
        its = (self._remote, self._remote_nonce)
        opener, acceptor = (mine, its) if self._side is Side.OPENER else (its, mine)
        return signed_bytes(signer, self._trust.network_id, opener=opener, acceptor=acceptor)
