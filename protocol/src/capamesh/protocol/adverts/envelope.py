"""Seals what a member publishes and opens what others published, proving who said it. Pure.

The wire, version 1, for an implementation in any language (integers are msgpack integers, big-endian
as msgpack has them; text is UTF-8):

    envelope  = array of 2: [payload: bin, signature: bin of 64 bytes]            at most 262,144 bytes
    signature = Ed25519 by the sender's key over the bytes "capamesh-envelope-1", one zero byte, then
                the payload's bytes exactly as they stand in the envelope
    payload   = one msgpack map, whose key order does not matter:
      "v"     integer   1
      "kind"  text      1 to 32 characters: "advert", "goodbye", "router", or one unknown to the reader
      "net"   text      the network id: "cm-" and 32 hexadecimal digits
      "seq"   array     [boot_ns, counter], two integers in 0..2^63-1, compared left to right
      "at"    integer   when it was sealed, milliseconds since the epoch, 0..2^63-1
      "chain" array     [leaf, invite], two bin: X.509 certificates in DER, each at most 4,096 bytes; where the
                        network's owner has changed keys, up to 8 more: each successor of the first key, up to who
                        signed the invite
      "body"  map       the kind's own fields (`capamesh.protocol.adverts.wire_fields`); empty for "goodbye"

Beyond 2^53 a JavaScript number is inexact: read the integers as BigInt. Neither the envelope nor its
payload has a byte after its end, a map key that is no text or occurs twice, an extension type, an
array of over 1,024 items or a map of over 256. The sender's key is the leaf's key; its peer id follows
from it. "advert" and "goodbye" come from nodes alone, "router" from routers alone.

A reader checks in this order and names the first that fails: size (oversize), form (malformed), v
(version), the other fields' form (malformed), net (network), chain (membership), signature (signature), at and
boot_ns (future, stale). A reader that knows an older sequence of the sender needs no look at the times: what is newer
is no replay. Else they are within 10 minutes of the reader's clock, or of the one that most of its peers agree on.

`v` changes only when a reader of the old version would misunderstand the new: a field's meaning, unit or
type changes, a required field goes, a limit grows. New fields that may be missed and new kinds do not
change it: readers skip what they do not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, cast

from capamesh.protocol.adverts.reasons import RejectReason
from capamesh.protocol.adverts.sequence import FUTURE_LIMIT_NS, MAX_COUNT, Sequence
from capamesh.protocol.errors import AdvertRejected, ConfigError, LocalError, NotMember
from capamesh.protocol.identity import verify_signature
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.msgpack_codec import pack, unpack_strictly
from capamesh.protocol.network import MAX_CHAIN, Member, Membership, NetworkTrust, Role
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, read

if TYPE_CHECKING:
    from collections.abc import Mapping

WIRE_VERSION: Final = 1

KIND_ADVERT: Final = "advert"
KIND_GOODBYE: Final = "goodbye"
KIND_ROUTER: Final = "router"

MAX_ARRAY_ITEMS: Final = 1024
"""Bounds what an array header may reserve before its items arrive; the most models of an advert."""
MAX_ENVELOPE_BYTES: Final = 256 * 1024
"""The largest envelope: gossip repeats it to every peer (guess; 250 models with two tensors each take 53 KiB, measured)."""

TIME_LIMIT_MS: Final = 600_000
"""The most that `at` may be from the receiver's clock, either way: 10 minutes, as for certificates."""

MAX_CERTIFICATE_BYTES: Final = 4096
"""Ten times what an Ed25519 certificate of this network takes: a guess."""

MAX_KIND_CHARS: Final = 32
MAX_NETWORK_CHARS: Final = 64

_DOMAIN: Final = b"capamesh-envelope-1\0"
_SIGNATURE_BYTES: Final = 64  # RFC 8032, section 5.1.6

_SENDERS: Final = {
    KIND_ADVERT: Role.NODE,
    KIND_GOODBYE: Role.NODE,
    KIND_ROUTER: Role.ROUTER,
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """The message of a verified member. `body` is decoded but its fields are not checked yet."""

    kind: str
    """May be unknown to this program: the receiver skips it then."""
    network: NetworkId
    sender: Member
    sequence: Sequence
    issued_at_ms: int
    wire_bytes: int
    """The length of the whole envelope."""
    body: dict[str, object] = field(repr=False)  # may be 256 KiB of a stranger's nesting


def seal(
    kind: str,
    body: Mapping[str, object],
    membership: Membership,
    sequence: Sequence,
    issued_at_ms: int,
) -> bytes:
    """Return the envelope's bytes, signed by the member's identity.

    Raises `ConfigError` when it would be over `MAX_ENVELOPE_BYTES`, and `LocalError` when no receiver
    would open it: the member's role may not send `kind`, or a value has no msgpack form.
    """
    role = _SENDERS.get(kind, membership.role)
    if membership.role is not role:
        raise LocalError(f"a {membership.role} may not send {kind!r}; only a {role} may")
    try:
        payload = pack(
            {
                "v": WIRE_VERSION,
                "kind": kind,
                "net": membership.network_id,
                "seq": [sequence.boot_ns, sequence.counter],
                "at": issued_at_ms,
                "chain": list(membership.chain),
                "body": dict(body),
            }
        )
    except ValueError as exc:
        raise LocalError(f"{kind!r} cannot be packed: {exc}; give plain msgpack values") from exc
    raw = pack([payload, membership.identity.sign(_DOMAIN + payload)])
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise ConfigError(
            f"the {kind!r} envelope has {len(raw)} bytes; the limit is {MAX_ENVELOPE_BYTES}: "
            "host fewer models, or shorten names and reasons"
        )
    try:
        _read_payload(payload)
    except AdvertRejected as exc:
        raise LocalError(f"no receiver would accept this {kind!r}: {exc.message}") from exc
    return raw


def open_envelope(
    raw: bytes, trust: NetworkTrust, now_ms: int, *, is_time_checked: bool = True
) -> Envelope:
    """Return what is in `raw` after proving its sender's membership and signature.

    `now_ms` is the receiver's wall clock in milliseconds since the epoch. Without `is_time_checked` it is for the
    membership's end alone, and the caller asks `check_time`. Raises `AdvertRejected` with a `RejectReason`, and
    nothing else whatever the bytes.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise AdvertRejected(
            RejectReason.OVERSIZE, f"{len(raw)} bytes; the limit is {MAX_ENVELOPE_BYTES}"
        )
    payload, signature = _split(raw)
    parts = _read_payload(payload)
    if parts.network != trust.network_id:
        raise AdvertRejected(
            RejectReason.NETWORK, f"it belongs to {parts.network}; this is {trust.network_id}"
        )
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    try:
        sender = trust.verify(parts.chain, now, role=_SENDERS.get(parts.kind))
    except NotMember as exc:
        raise AdvertRejected(RejectReason.MEMBERSHIP, exc.message) from exc
    if not verify_signature(sender.peer_id, _DOMAIN + payload, signature):
        raise AdvertRejected(
            RejectReason.SIGNATURE, f"{sender.peer_id} did not sign this {parts.kind!r}"
        )
    if is_time_checked:
        check_time(parts.issued_at_ms, parts.sequence, now_ms)
    return Envelope(
        parts.kind,
        parts.network,
        sender,
        parts.sequence,
        parts.issued_at_ms,
        len(raw),
        parts.body,
    )


@dataclass(frozen=True, slots=True)
class _Payload:
    kind: str
    network: NetworkId
    sequence: Sequence
    issued_at_ms: int
    chain: tuple[bytes, ...]
    body: dict[str, object]


_Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
_Certificate: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_CERTIFICATE_BYTES)]


class _WireVersion(Struct, frozen=True):
    """The part that every version of a payload has."""

    v: _Count


class _WirePayload(Struct, frozen=True):
    """A payload of this version."""

    kind: Annotated[str, Meta(min_length=1, max_length=MAX_KIND_CHARS), PLAIN]
    net: Annotated[str, Meta(min_length=1, max_length=MAX_NETWORK_CHARS), PLAIN]
    seq: tuple[_Count, _Count]
    at: _Count
    chain: Annotated[tuple[_Certificate, ...], Meta(min_length=2, max_length=MAX_CHAIN)]
    body: dict[str, Any]


def _malformed(message: str) -> AdvertRejected:
    return AdvertRejected(RejectReason.MALFORMED, message)


def _split(raw: bytes) -> tuple[bytes, bytes]:
    try:
        outer = unpack_strictly(raw, max_array_items=MAX_ARRAY_ITEMS)
    except ValueError as exc:
        raise _malformed(f"the envelope is no msgpack value: {exc}") from exc
    match outer:
        case [bytes() as payload, bytes() as signature] if len(signature) == _SIGNATURE_BYTES:
            return payload, signature
        case _:
            raise _malformed(
                f"the envelope must be an array of a payload and {_SIGNATURE_BYTES} bytes of signature"
            )


def _read_payload(payload: bytes) -> _Payload:
    try:
        values = unpack_strictly(payload, max_array_items=MAX_ARRAY_ITEMS)
    except ValueError as exc:
        raise _malformed(f"the payload is no msgpack value: {exc}") from exc
    if not isinstance(values, dict):
        raise _malformed(f"the payload is {type(values).__name__}; it must be a map")
    fields = cast("dict[str, object]", values)
    try:
        version = read(fields, _WireVersion).v
        if version != WIRE_VERSION:
            raise AdvertRejected(
                RejectReason.VERSION,
                f"it is of wire version {version}; this program reads {WIRE_VERSION}: "
                "update the older of the two",
            )
        wire = read(fields, _WirePayload)
    except Mismatch as exc:
        raise _malformed(str(exc)) from exc
    return _Payload(
        kind=wire.kind,
        network=NetworkId(wire.net),
        sequence=Sequence(*wire.seq),
        issued_at_ms=wire.at,
        chain=wire.chain,
        body=wire.body,
    )


def check_time(issued_at_ms: int, sequence: Sequence, now_ms: int) -> None:
    """Raise `AdvertRejected` when an envelope was sealed too long before or after `now_ms`, or its sender started after it."""
    ahead_ms = issued_at_ms - now_ms
    if ahead_ms > TIME_LIMIT_MS:
        raise AdvertRejected(
            RejectReason.FUTURE,
            f"issued {ahead_ms} ms ahead of this clock; the limit is {TIME_LIMIT_MS}: set the clocks",
        )
    if -ahead_ms > TIME_LIMIT_MS:
        raise AdvertRejected(
            RejectReason.STALE, f"issued {-ahead_ms} ms ago; the limit is {TIME_LIMIT_MS}"
        )
    boot_ahead_ns = sequence.boot_ns - now_ms * 1_000_000
    if boot_ahead_ns > FUTURE_LIMIT_NS:
        raise AdvertRejected(
            RejectReason.FUTURE,
            f"its sender started {boot_ahead_ns} ns ahead of this clock; the limit is "
            f"{FUTURE_LIMIT_NS}: set the clocks",
        )
