"""Sealing and opening: what proves a sender, and each way to fail, in the documented order."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from signed_adverts import NOW, NOW_MS, Network

from capamesh.protocol.adverts import (
    MAX_ENVELOPE_BYTES,
    Sequence,
    open_envelope,
    seal,
)
from capamesh.protocol.errors import AdvertRejected, ConfigError, LocalError
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import Membership, RevocationList, Role

SEQUENCE = Sequence(NOW_MS * 1_000_000, 3)
MINUTE_MS = 60_000
BODY = {"region": "eu", "list": [1, 2.5, None, True, b"\x00"], "deep": {"a": {"b": "c"}}}


NET = Network()
NODE, OTHER_NODE, ROUTER = NET.member(), NET.member(), NET.member(role=Role.ROUTER)
TRUST = ROUTER.trust()
GOOD = seal("advert", BODY, NODE, SEQUENCE, NOW_MS)


def payload_of(member: Membership) -> dict[str, Any]:
    return {
        "v": 1,
        "kind": "advert",
        "net": str(member.network_id),
        "seq": [SEQUENCE.boot_ns, SEQUENCE.counter],
        "at": NOW_MS,
        "chain": list(member.chain),
        "body": {},
    }


def signed(payload: bytes, signer: Identity = NODE.identity) -> bytes:
    raw: bytes = msgpack.packb([payload, signer.sign(b"capamesh-envelope-1\0" + payload)])
    return raw


def forged(**parts: object) -> bytes:
    return signed(msgpack.packb(payload_of(NODE) | parts))


def reason_of(raw: bytes, now_ms: int = NOW_MS) -> str:
    with pytest.raises(AdvertRejected) as caught:
        open_envelope(raw, TRUST, now_ms)
    return caught.value.reason


def test_envelope_of_a_member_opens_to_the_same_with_its_verified_sender() -> None:
    found = open_envelope(GOOD, TRUST, NOW_MS)
    assert (found.kind, found.network) == ("advert", NET.owner.network_id)
    assert (found.sender.peer_id, found.sender.role) == (NODE.identity.peer_id, Role.NODE)
    assert (found.sequence, found.issued_at_ms, found.body) == (SEQUENCE, NOW_MS, BODY)


def test_wire_is_what_the_documentation_tells_another_implementation() -> None:
    payload, signature = msgpack.unpackb(GOOD)
    key = Ed25519PublicKey.from_public_bytes(NODE.identity.public_bytes)
    key.verify(signature, b"capamesh-envelope-1" + b"\x00" + payload)
    assert msgpack.unpackb(payload) == payload_of(NODE) | {"body": BODY}


def test_key_order_and_unknown_payload_fields_do_not_matter() -> None:
    parts = payload_of(NODE) | {"later": [1]}
    raw = signed(msgpack.packb(dict(reversed(parts.items()))))
    assert open_envelope(raw, TRUST, NOW_MS).sequence == SEQUENCE


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"v": 2}, "version"),
        ({"v": 2, "seq": "another form", "net": 7}, "version"),
        ({"v": True}, "malformed"),
        ({"kind": "x" * 33}, "malformed"),
        ({"kind": b"advert"}, "malformed"),
        ({"net": "cm-" + "0" * 32}, "network"),
        ({"seq": [1, 2, 3]}, "malformed"),
        ({"seq": [1, -1]}, "malformed"),
        ({"seq": [1, 2**63]}, "malformed"),
        ({"at": -1}, "malformed"),
        ({"at": float(NOW_MS)}, "malformed"),
        ({"chain": list(NODE.chain[:1])}, "malformed"),
        ({"chain": [*NODE.chain, b"x"]}, "membership"),
        ({"chain": [*NODE.chain, *[b"x"] * 9]}, "malformed"),
        ({"chain": [b"x" * 4097, NODE.chain[1]]}, "malformed"),
        ({"chain": list(reversed(NODE.chain))}, "membership"),
        ({"body": []}, "malformed"),
        ({"body": {1: 2}}, "malformed"),
    ],
)
def test_payload_that_does_not_fit_is_rejected_with_the_reason(
    parts: dict[str, object], reason: str
) -> None:
    assert reason_of(forged(**parts)) == reason


def test_every_payload_field_is_required() -> None:
    whole = payload_of(NODE)
    for key in whole:
        parts = {name: value for name, value in whole.items() if name != key}
        assert reason_of(signed(msgpack.packb(parts))) == "malformed"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        GOOD + b"\x00",
        msgpack.packb({"payload": b"", "signature": bytes(64)}),
        msgpack.packb(["text", bytes(64)]),
        msgpack.packb([b"\x80", bytes(65)]),
        signed(b"\x90"),
        signed(msgpack.packb(payload_of(NODE)) + b"\x00"),
        signed(b"\x82\xa1v\x01\xa1v\x01"),
    ],
    ids=range(8),
)
def test_bytes_that_are_no_envelope_are_malformed(raw: bytes) -> None:
    assert reason_of(raw) == "malformed"


def test_envelope_is_good_for_ten_minutes_either_way_and_its_boot_may_be_so_far_ahead() -> None:
    for off_ms, late_reason in ((10 * MINUTE_MS, "stale"), (-10 * MINUTE_MS, "future")):
        assert open_envelope(GOOD, TRUST, NOW_MS + off_ms).body == BODY
        one_more_ms = 1 if off_ms > 0 else -1
        assert reason_of(GOOD, NOW_MS + off_ms + one_more_ms) == late_reason
    limit_ns = (NOW_MS + 10 * MINUTE_MS) * 1_000_000
    assert open_envelope(forged(seq=[limit_ns, 0]), TRUST, NOW_MS).sequence.boot_ns == limit_ns
    assert reason_of(forged(seq=[limit_ns + 1, 0])) == "future"


def test_checks_come_in_the_documented_order() -> None:
    late = {"at": NOW_MS - 11 * MINUTE_MS}
    no_chain = late | {"chain": [b"x", b"y"]}
    other_net = {"net": "cm-" + "0" * 32}
    payload = msgpack.packb(payload_of(NODE) | no_chain | other_net)
    assert reason_of(msgpack.packb([payload, bytes(64)])) == "network"
    payload = msgpack.packb(payload_of(NODE) | no_chain)
    assert reason_of(msgpack.packb([payload, bytes(64)])) == "membership"
    payload = msgpack.packb(payload_of(NODE) | late)
    assert reason_of(msgpack.packb([payload, bytes(64)])) == "signature"
    assert reason_of(forged(**late)) == "stale"


def test_member_of_another_network_is_no_member_here() -> None:
    stranger = Network().member()
    assert reason_of(seal("advert", {}, stranger, SEQUENCE, NOW_MS)) == "network"
    parts = payload_of(stranger) | {"net": str(NODE.network_id)}
    assert reason_of(signed(msgpack.packb(parts), stranger.identity)) == "membership"


@given(st.data())
def test_changed_byte_is_always_rejected(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(GOOD) - 1))
    flip = data.draw(st.integers(1, 255))
    raw = bytearray(GOOD)
    raw[place] ^= flip
    with pytest.raises(AdvertRejected):
        open_envelope(bytes(raw), TRUST, NOW_MS)


@given(st.binary(max_size=200))
def test_junk_is_rejected_as_malformed_even_when_signed(junk: bytes) -> None:
    assert reason_of(junk) == "malformed"
    assert reason_of(signed(junk)) == "malformed"


def test_size_is_checked_before_anything_is_read_and_no_other_body_is_sealed() -> None:
    assert reason_of(b"\xc1" * (MAX_ENVELOPE_BYTES + 1)) == "oversize"
    assert reason_of(b"\xc1" * MAX_ENVELOPE_BYTES) == "malformed"
    with pytest.raises(ConfigError, match=r"has \d+ bytes; the limit is 262144: host fewer models"):
        seal("advert", {"x": "x" * MAX_ENVELOPE_BYTES}, NODE, SEQUENCE, NOW_MS)
    for value in (object(), 2**64, list(range(1025)), {1: 2}):
        with pytest.raises(LocalError, match=r"plain msgpack values|no receiver would accept"):
            seal("advert", {"a": value}, NODE, SEQUENCE, NOW_MS)


@pytest.mark.parametrize(
    ("kind", "member", "other"),
    [
        ("advert", NODE, ROUTER),
        ("goodbye", NODE, ROUTER),
        ("router", ROUTER, NODE),
        ("demand", NODE, None),
        ("demand", ROUTER, None),
    ],
)
def test_kind_is_taken_from_its_role_only(
    kind: str, member: Membership, other: Membership | None
) -> None:
    raw = seal(kind, {}, member, SEQUENCE, NOW_MS)
    assert open_envelope(raw, TRUST, NOW_MS).kind == kind
    if other is not None:
        parts = payload_of(other) | {"kind": kind}
        assert reason_of(signed(msgpack.packb(parts), other.identity)) == "membership"
        with pytest.raises(LocalError, match=f"may not send '{kind}'; only a"):
            seal(kind, {}, other, SEQUENCE, NOW_MS)


def test_signature_of_another_member_or_for_another_purpose_does_not_count() -> None:
    payload = msgpack.packb(payload_of(NODE))
    assert reason_of(signed(payload, OTHER_NODE.identity)) == "signature"
    assert reason_of(msgpack.packb([payload, NODE.identity.sign(payload)])) == "signature"


def test_expired_or_revoked_member_is_no_member_any_more() -> None:
    late_ms = NOW_MS + 31 * 24 * 60 * MINUTE_MS
    assert reason_of(seal("advert", {}, NODE, SEQUENCE, late_ms), late_ms) == "membership"
    trust = ROUTER.trust()
    open_envelope(GOOD, trust, NOW_MS)
    nothing_revoked = RevocationList.empty(NET.owner.network_id)
    trust.update(NET.owner.revoke(nothing_revoked, peers=(NODE.identity.peer_id,), now=NOW))
    with pytest.raises(AdvertRejected, match="revoked"):
        open_envelope(GOOD, trust, NOW_MS)
