"""Members of the mesh: their handshake, and the messages of its process."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.channel.framing import Decoder, Message, encode
from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import NetworkId, PeerId
from capamesh.protocol.mesh.gossip import (
    PayloadKind,
    unwrap,
    wrap,
)
from capamesh.protocol.mesh.handshake import (
    MAX_MESSAGE_BYTES,
    Handshake,
    Side,
    refusal,
    signed_bytes,
    stream_decoder,
)
from capamesh.protocol.mesh.messages import (
    Dial,
    Drains,
    Heard,
    Members,
    Publish,
    Ready,
    Revocations,
    Start,
    Stop,
    Subscribed,
    Warned,
    from_wire,
    to_wire,
)
from capamesh.protocol.network import (
    DrainOrder,
    Membership,
    NetworkOwner,
    NetworkTrust,
    RevocationList,
    Role,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWNER = NetworkOwner.create("test", NOW)
OTHER_OWNER = NetworkOwner.create("other", NOW)


def join(role: Role, owner: NetworkOwner = OWNER) -> Membership:
    token = owner.invite(role, expires_at=NOW + timedelta(hours=1), bootstrap=(), now=NOW)
    return Membership.join(Identity.generate(), token, NOW)


NODE, ROUTER, THIRD = join(Role.NODE), join(Role.ROUTER), join(Role.NODE)
STRANGER = join(Role.ROUTER, OTHER_OWNER)


def side_of(
    side: Side, mine: Membership, remote: Membership, trust: NetworkTrust | None = None
) -> Handshake:
    return Handshake(
        side,
        identity=mine.identity,
        chain=mine.chain,
        trust=trust or mine.trust(),
        remote=remote.identity.peer_id,
        nonce=side.value * 32,
    )


def one(frame: bytes) -> Message:
    (message,) = stream_decoder().feed(frame)
    return message


def hello_of(member: Membership, **fields: object) -> Message:
    other = side_of(Side.ACCEPTOR, member, NODE)
    return one(other.first()) | fields


def run(opener: Handshake, acceptor: Handshake, now: datetime = NOW) -> None:
    """Carry frames to and fro until neither has anything to say."""
    to_acceptor, to_opener = [opener.first()], [acceptor.first()]
    while to_acceptor or to_opener:
        if to_acceptor:
            to_opener.append(acceptor.receive(one(to_acceptor.pop(0)), now))
        if to_opener[0]:
            to_acceptor.append(opener.receive(one(to_opener.pop(0)), now))
        to_acceptor = [frame for frame in to_acceptor if frame]
        to_opener = [frame for frame in to_opener if frame]


def test_signature_is_over_the_documented_concatenation() -> None:
    signed = signed_bytes(
        Side.ACCEPTOR,
        NetworkId("cm-1"),
        opener=(PeerId("12D3a"), b"o" * 32),
        acceptor=(PeerId("12D3b"), b"a" * 32),
    )
    zero = bytes(1)
    assert signed == b"".join(
        (
            b"capamesh-member-1" + zero + b"A",
            b"cm-1" + zero,
            b"12D3a" + zero,
            b"12D3b" + zero,
            b"o" * 32,
            b"a" * 32,
        )
    )


def drained(*peers: Membership, version: int = 1) -> DrainOrder:
    return DrainOrder.sign(
        OWNER.private_key,
        OWNER.network_id,
        version=version,
        issued_at=NOW,
        peers={peer.identity.peer_id: NOW + timedelta(hours=1) for peer in peers},
    )


def knowing(order: DrainOrder) -> NetworkTrust:
    trust = NetworkTrust(OWNER.ca_der)
    trust.take_drains(order.encode())
    return trust


def exchanged(mine: NetworkTrust, its: NetworkTrust) -> tuple[bytes, bytes]:
    """Return the drain orders that an opener and an acceptor with this trust are sent."""
    opener = side_of(Side.OPENER, NODE, ROUTER, mine)
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE, its)
    run(opener, acceptor)
    assert opener.member is not None
    return opener.drains, acceptor.drains


def test_drain_orders_that_differ_travel_with_the_verdicts() -> None:
    older, newer = drained(THIRD), drained(version=2)
    assert exchanged(knowing(older), knowing(newer)) == (newer.encode(), older.encode())
    assert exchanged(NetworkTrust(OWNER.ca_der), knowing(newer)) == (newer.encode(), b"")
    assert exchanged(knowing(newer), knowing(newer)) == (b"", b"")


def test_order_by_a_retired_key_is_not_sent_and_is_replaced_however_high_its_version() -> None:
    owner = OWNER.rotated(NOW)
    retiring = owner.revoke(RevocationList.empty(OWNER.network_id), is_retiring=True, now=NOW)
    later = owner.drain(DrainOrder.empty(OWNER.network_id), {}, now=NOW)
    behind, ahead = knowing(drained(THIRD, version=2**63 - 1)), NetworkTrust(OWNER.ca_der)
    behind.update(retiring)
    ahead.update(retiring)
    ahead.take_drains(later.encode())
    node, router = join(Role.NODE, owner), join(Role.ROUTER, owner)
    opener = side_of(Side.OPENER, node, router, behind)
    acceptor = side_of(Side.ACCEPTOR, router, node, ahead)
    run(opener, acceptor)
    assert (opener.drains, acceptor.drains) == (later.encode(), b"")
    assert behind.take_drains(opener.drains)


def test_newer_revocation_list_travels_with_the_proof() -> None:
    listed = OWNER.revoke(
        RevocationList.empty(OWNER.network_id), peers=[THIRD.identity.peer_id], now=NOW
    )
    opener = side_of(Side.OPENER, NODE, ROUTER)
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE, NetworkTrust(OWNER.ca_der, listed))
    run(opener, acceptor)
    assert opener.revocations == listed.encode()
    assert acceptor.revocations == b""


def test_peer_shut_out_by_a_newer_list_gets_it_with_the_refusal() -> None:
    listed = OWNER.revoke(
        RevocationList.empty(OWNER.network_id), peers=[NODE.identity.peer_id], now=NOW
    )
    opener = side_of(Side.OPENER, NODE, ROUTER)
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE, NetworkTrust(OWNER.ca_der, listed))
    with pytest.raises(NotMember, match=r"^revoked peer") as refused:
        acceptor.receive(one(opener.first()), NOW)
    assert acceptor.revealed == listed.encode()
    with pytest.raises(NotMember, match="it refused us: revoked peer"):
        opener.receive(one(refusal(refused.value.message, acceptor.revealed)), NOW)
    assert opener.revocations == listed.encode()
    # one that has the list, or whose key is another than its chain's, or is refused for another reason, gets none
    knowing = side_of(Side.OPENER, NODE, ROUTER, NetworkTrust(OWNER.ca_der, listed))
    for hello, remote in (
        (knowing.first(), NODE),
        (side_of(Side.OPENER, NODE, ROUTER).first(), STRANGER),
        (side_of(Side.OPENER, STRANGER, ROUTER).first(), NODE),
    ):
        acceptor = side_of(Side.ACCEPTOR, ROUTER, remote, NetworkTrust(OWNER.ca_der, listed))
        with pytest.raises(NotMember):
            acceptor.receive(one(hello), NOW)
        assert acceptor.revealed == b""


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"v": 2}, "malformed: version 2, this side speaks 1"),
        ({"net": "cm-0"}, "wrong network: 'cm-0', this is cm-"),
        ({"nonce": b"short"}, "malformed: the nonce must be 32 fresh bytes"),
        ({"nonce": b"O" * 32}, "malformed: the nonce must be 32 fresh bytes"),
        ({"revoked": -1}, "malformed: 'revoked' must be the version"),
        ({"revoked": None}, "malformed: 'revoked' must be the version"),
        ({"chain": None}, "malformed: 'chain' must be an array"),
        ({"chain": ["text", "text"]}, "malformed"),
        ({"chain": list(STRANGER.chain)}, "wrong network|bad signature"),
        (
            {"chain": list(THIRD.chain)},
            "peer id does not match key: the chain is 12D3.*, the connection 12D3",
        ),
        ({"type": "proof"}, "malformed: 'proof' came where 'hello' is due"),
        ({"type": "verdict", "ok": False, "why": "no"}, "it refused us: no"),
        ({"type": "x" * 500}, "malformed: 'x{20}' came"),
    ],
)
def test_bad_first_message_is_refused_by_name(fields: dict[str, object], why: str) -> None:
    opener = side_of(Side.OPENER, NODE, ROUTER)
    with pytest.raises(NotMember, match=why):
        opener.receive(hello_of(ROUTER, **fields), NOW)
    assert opener.member is None
    assert opener.was_refused is (fields.get("ok") is False)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("mark", ["1", None, 7, []])
def test_drain_order_is_sent_to_nobody_who_tells_of_none(mark: object) -> None:
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE, knowing(drained(THIRD)))
    opener = side_of(Side.OPENER, NODE, ROUTER)
    hello = {**one(opener.first()), "drains": mark}
    if mark is None:
        del hello["drains"]
    proof = one(opener.receive(one(acceptor.first()), NOW))
    acceptor.receive(hello, NOW)
    assert one(acceptor.receive(proof, NOW)) == {"type": "verdict", "ok": True, "why": ""}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sig": b"x" * 64}, r"bad signature: 12D3.* did not sign this exchange"),
        ({"sig": b""}, r"bad signature: 12D3.* did not sign this exchange"),
        ({"sig": None}, "a proof needs 'sig' and 'list' as bytes"),
        ({"list": "text"}, "a proof needs 'sig' and 'list' as bytes"),
        ({"type": "verdict", "ok": True, "why": ""}, "malformed: 'verdict' came where"),
    ],
)
def test_bad_proof_is_refused_by_name(fields: dict[str, object], why: str) -> None:
    opener, acceptor = side_of(Side.OPENER, NODE, ROUTER), side_of(Side.ACCEPTOR, ROUTER, NODE)
    proof = one(acceptor.receive(one(opener.first()), NOW))
    opener.receive(one(acceptor.first()), NOW)
    with pytest.raises(NotMember, match=why):
        opener.receive(proof | fields, NOW)
    assert opener.member is None


@pytest.mark.parametrize("drains", ["text", 1, None, [b"order"]])
def test_drain_order_that_is_no_bytes_is_malformed(drains: object) -> None:
    opener, acceptor = side_of(Side.OPENER, NODE, ROUTER), side_of(Side.ACCEPTOR, ROUTER, NODE)
    proof = acceptor.receive(one(opener.first()), NOW)
    opener.receive(one(acceptor.first()), NOW)
    opener.receive(one(proof), NOW)
    with pytest.raises(NotMember, match="malformed: 'drains'"):
        opener.receive({"type": "verdict", "ok": True, "why": "", "drains": drains}, NOW)
    assert opener.member is None


@given(
    st.sampled_from(["hello", "proof", "verdict"]),
    st.dictionaries(
        st.sampled_from(
            ["v", "net", "chain", "nonce", "revoked", "drains", "sig", "list", "ok", "why"]
        ),
        json_like,
    ),
)
def test_messages_with_any_fields_raise_only_not_member(
    kind: str, fields: dict[str, object]
) -> None:
    base = hello_of(ROUTER) if kind == "hello" else {}
    opener = side_of(Side.OPENER, NODE, ROUTER)
    with suppress(NotMember, ProtocolViolation):
        opener.receive(one(encode({**base, **fields, "type": kind})), NOW)
    assert opener.member is None


def test_refusal_is_short_and_a_message_over_the_limit_is_refused_before_it_arrives() -> None:
    assert one(refusal("x" * 10_000)) == {"type": "verdict", "ok": False, "why": "x" * 300}
    with pytest.raises(ProtocolViolation, match="the limit is 1052672"):
        stream_decoder().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"))


def test_two_members_know_each_other_after_the_last_verdict_and_not_before() -> None:
    opener, acceptor = side_of(Side.OPENER, NODE, ROUTER), side_of(Side.ACCEPTOR, ROUTER, NODE)
    proof = acceptor.receive(one(opener.first()), NOW)
    verdict = acceptor.receive(one(opener.receive(one(acceptor.first()), NOW)), NOW)
    assert acceptor.member is None
    own = opener.receive(one(proof), NOW)
    assert opener.member is None
    opener.receive(one(verdict), NOW)
    acceptor.receive(one(own), NOW)
    for side, peer in ((opener, ROUTER), (acceptor, NODE)):
        assert side.member is not None
        assert (side.member.peer_id, side.member.role) == (peer.identity.peer_id, peer.role)
    assert opener.remote_chain == ROUTER.chain
    assert (opener.revocations, acceptor.revocations) == (b"", b"")


def test_proof_of_another_exchange_or_of_this_side_itself_is_refused() -> None:
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE)
    recorded = one(acceptor.receive(one(side_of(Side.OPENER, NODE, ROUTER).first()), NOW))
    second = Handshake(
        Side.OPENER,
        identity=NODE.identity,
        chain=NODE.chain,
        trust=NODE.trust(),
        remote=ROUTER.identity.peer_id,
        nonce=b"n" * 32,
    )
    second.receive(one(acceptor.first()), NOW)
    with pytest.raises(NotMember, match="bad signature"):
        second.receive(recorded, NOW)
    # a peer without the key that mirrors everything, nonce aside, has only our own signature to show
    opener = side_of(Side.OPENER, NODE, ROUTER)
    ours = one(opener.receive(hello_of(ROUTER), NOW))
    with pytest.raises(NotMember, match="bad signature"):
        opener.receive(ours, NOW)


texts = st.lists(st.text(), max_size=3)
start = st.builds(
    Start,
    private_key=st.binary(),
    chain=st.lists(st.binary(), max_size=2),
    ca_der=st.binary(),
    revocations=st.binary(),
    drains=st.binary(),
    listen=texts,
    bootstrap=texts,
    use_mdns=st.booleans(),
    subscribe=texts,
)
messages = st.one_of(
    start,
    st.builds(Publish, st.text(), st.binary()),
    st.builds(Revocations, st.binary()),
    st.builds(Drains, st.binary()),
    st.builds(Dial, texts),
    st.just(Stop()),
    st.builds(Ready, st.text(), texts),
    st.builds(Heard, st.text(), st.binary(), st.text(), st.text()),
    st.builds(Members, texts, texts),
    st.builds(Subscribed, st.text(), texts),
    st.builds(Warned, st.text(), st.text(), st.integers(0, 2**60)),
)


@given(messages)
def test_every_message_survives_the_channel(message: object) -> None:
    (raw,) = Decoder().feed(encode(to_wire(message)))
    assert from_wire(raw) == message


@given(messages, st.data())
def test_missing_or_wrong_field_is_named(message: object, data: st.DataObject) -> None:
    raw = to_wire(message)
    names = [name for name in raw if name != "type"]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    wrong = data.draw(st.sampled_from([None, 1.5, {"a": 1}, [1], [None]]))
    with pytest.raises(ProtocolViolation, match=rf": {name}(\[0\])? is [\w ]+, expected"):
        from_wire(raw | {name: wrong})
    del raw[name]
    with pytest.raises(ProtocolViolation, match=f": {name} is missing"):
        from_wire(raw)


def test_payload_is_a_kind_byte_and_a_body() -> None:
    assert wrap(PayloadKind.ENVELOPE, b"abc") == b"Eabc"
    assert unwrap(b"Eabc") == (PayloadKind.ENVELOPE, b"abc")
    assert unwrap(b"R") == (PayloadKind.REVOCATIONS, b"")
    assert unwrap(b"") is None
    assert unwrap(b"Zabc") is None


def test_start_that_does_not_fit_does_not_tell_its_key_and_another_message_is_named() -> None:
    start = Start(b"s3cret", [], b"", b"", b"", [], [], False, [])
    assert "s3cret" not in repr(start)
    with pytest.raises(ProtocolViolation, match=r"private_key is of type str, expected bytes$"):
        from_wire(to_wire(start) | {"private_key": "s3cret"})
    with pytest.raises(ProtocolViolation, match="unknown mesh message 'new'"):
        from_wire({"type": "new"})
