"""Members of the mesh: their handshake, what of others' words they pass on, and the messages of their process."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_adverts import NOW, NOW_MS, Network

from capamesh.protocol.adverts import MAX_ENVELOPE_BYTES, Sequence, seal
from capamesh.protocol.channel.framing import Decoder, Message, encode
from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.ids import NetworkId, PeerId
from capamesh.protocol.mesh.gossip import (
    PayloadKind,
    adverts_topic,
    demand_topic,
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
from capamesh.protocol.mesh.validator import (
    EXPIRE_AFTER_S,
    SENDER_BURST,
    SPARE_PLACES,
    ValidationResult,
    Validator,
    Verdict,
)
from capamesh.protocol.network import (
    DrainOrder,
    Membership,
    NetworkTrust,
    RevocationList,
    Role,
)
from capamesh.protocol.network_clock import NetworkClock

HOUR = timedelta(hours=1)
NETWORK, OTHER_NETWORK = Network(), Network()
OWNER = NETWORK.owner
NODE, ROUTER, THIRD = (NETWORK.member(role=role) for role in (Role.NODE, Role.ROUTER, Role.NODE))
STRANGER = OTHER_NETWORK.member(role=Role.ROUTER)


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


def pair(
    opener: NetworkTrust | None = None, acceptor: NetworkTrust | None = None
) -> tuple[Handshake, Handshake]:
    """Return both sides of the handshake of a node with a router, whose trust may be another than their own."""
    return (
        side_of(Side.OPENER, NODE, ROUTER, opener),
        side_of(Side.ACCEPTOR, ROUTER, NODE, acceptor),
    )


def test_signature_is_over_the_documented_concatenation() -> None:
    signed = signed_bytes(
        Side.ACCEPTOR,
        NetworkId("cm-1"),
        opener=(PeerId("12D3a"), b"o" * 32),
        acceptor=(PeerId("12D3b"), b"a" * 32),
    )
    texts = (b"capamesh-member-1", b"Acm-1", b"12D3a", b"12D3b", b"o" * 32 + b"a" * 32)
    assert signed == bytes(1).join(texts)


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
    opener, acceptor = pair(mine, its)
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
    network = Network()
    network.owner = owner
    node, router = network.member(), network.member(role=Role.ROUTER)
    opener = side_of(Side.OPENER, node, router, behind)
    acceptor = side_of(Side.ACCEPTOR, router, node, ahead)
    run(opener, acceptor)
    assert (opener.drains, acceptor.drains) == (later.encode(), b"")
    assert behind.take_drains(opener.drains)


def revoking(peer: Membership) -> RevocationList:
    nobody = RevocationList.empty(OWNER.network_id)
    return OWNER.revoke(nobody, peers=[peer.identity.peer_id], now=NOW)


def test_newer_revocation_list_travels_with_the_proof() -> None:
    listed = revoking(THIRD)
    opener, acceptor = pair(acceptor=NetworkTrust(OWNER.ca_der, listed))
    run(opener, acceptor)
    assert (opener.revocations, acceptor.revocations) == (listed.encode(), b"")


def test_peer_shut_out_by_a_newer_list_gets_it_with_the_refusal() -> None:
    listed = revoking(NODE)
    knowing = NetworkTrust(OWNER.ca_der, listed)
    opener, acceptor = pair(acceptor=knowing)
    with pytest.raises(NotMember, match=r"^revoked peer") as refused:
        acceptor.receive(one(opener.first()), NOW)
    assert acceptor.revealed == listed.encode()
    with pytest.raises(NotMember, match="it refused us: revoked peer"):
        opener.receive(one(refusal(refused.value.message, acceptor.revealed)), NOW)
    assert opener.revocations == listed.encode()
    # one that has the list, or whose key is another than its chain's, or is refused for another reason, gets none
    for mine, trust, remote in (
        (NODE, knowing, NODE),
        (NODE, None, STRANGER),
        (STRANGER, None, NODE),
    ):
        hello = side_of(Side.OPENER, mine, ROUTER, trust).first()
        acceptor = side_of(Side.ACCEPTOR, ROUTER, remote, knowing)
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


def test_drain_order_is_sent_to_nobody_who_tells_of_none() -> None:
    for mark in ("1", None, 7, []):
        opener, acceptor = pair(acceptor=knowing(drained(THIRD)))
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
    opener, acceptor = pair()
    proof = one(acceptor.receive(one(opener.first()), NOW))
    opener.receive(one(acceptor.first()), NOW)
    with pytest.raises(NotMember, match=why):
        opener.receive(proof | fields, NOW)
    assert opener.member is None


def test_drain_order_that_is_no_bytes_is_malformed() -> None:
    for drains in ("text", 1, None, [b"order"]):
        opener, acceptor = pair()
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
    opener, acceptor = pair()
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
    assert (opener.remote_chain, opener.revocations) == (ROUTER.chain, b"")


def test_proof_of_another_exchange_or_of_this_side_itself_is_refused() -> None:
    acceptor = side_of(Side.ACCEPTOR, ROUTER, NODE)
    recorded = one(acceptor.receive(one(pair()[0].first()), NOW))
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


def test_topics_carry_the_network_id_and_a_payload_is_a_kind_byte_and_a_body() -> None:
    assert adverts_topic(NetworkId("cm-1")) == "capamesh/cm-1/adverts"
    assert demand_topic(NetworkId("cm-1")) == "capamesh/cm-1/demand"
    assert wrap(PayloadKind.ENVELOPE, b"abc") == b"Eabc"
    read = (PayloadKind.ENVELOPE, b"abc"), (PayloadKind.REVOCATIONS, b""), None, None
    assert tuple(map(unwrap, (b"Eabc", b"R", b"", b"Zabc"))) == read


def test_start_that_does_not_fit_does_not_tell_its_key_and_another_message_is_named() -> None:
    start = Start(b"s3cret", [], b"", b"", b"", [], [], False, [])
    assert "s3cret" not in repr(start)
    with pytest.raises(ProtocolViolation, match=r"private_key is of type str, expected bytes$"):
        from_wire(to_wire(start) | {"private_key": "s3cret"})
    with pytest.raises(ProtocolViolation, match="unknown mesh message 'new'"):
        from_wire({"type": "new"})


# what of others' words is passed on

NOBODY = RevocationList.empty(OWNER.network_id)
ALICE, BOB, FOREIGNER = NETWORK.member(), NETWORK.member(), OTHER_NETWORK.member()
A, B = ALICE.identity.peer_id, BOB.identity.peer_id
ACCEPT, IGNORE, REJECT = Verdict.ACCEPT, Verdict.IGNORE, Verdict.REJECT


def forged(honest: bytes) -> bytes:
    """Return a payload whose signature, its last bytes, is wrong in one bit."""
    return honest[:-1] + bytes([honest[-1] ^ 1])


def payload(
    counter: int,
    member: Membership = ALICE,
    kind: str = "goodbye",
    at_ms: int = NOW_MS,
    boot_ms: int = NOW_MS,
) -> bytes:
    sequence = Sequence(boot_ms * 10**6, counter)
    return wrap(PayloadKind.ENVELOPE, seal(kind, {}, member, sequence, at_ms))


class Judge:
    """A validator of Alice's, whose own clock is off by so much."""

    def __init__(self, off_ms: int = 0, *, has_clock: bool = False) -> None:
        self.now_ms = NOW_MS + off_ms
        self.trust = ALICE.trust()
        clock = NetworkClock(self.now_ms, 0.0) if has_clock else None
        self.validator = Validator(OWNER.ca_der, self.trust, clock)

    def result(self, sent: bytes, publisher: PeerId = A) -> tuple[Verdict, str]:
        found = self.validator.judge(sent, publisher, self.now_ms)
        return found.verdict, found.reason

    def says(
        self,
        counter: int,
        member: Membership = ALICE,
        kind: str = "goodbye",
        now_s: float = 0.0,
        now_ms: int | None = None,
        **times_ms: int,
    ) -> str:
        """Return why an envelope is not passed on; empty: it is."""
        sent = payload(counter, member, kind, **times_ms)
        now_ms = self.now_ms if now_ms is None else now_ms
        return self.validator.judge(sent, member.identity.peer_id, now_ms, now_s).reason

    def hears_three(self, now_s: float = 1.0) -> None:
        """Have three members of invites of their own tell the true time."""
        for member in (ALICE, BOB, NETWORK.member()):
            assert self.says(1, member, now_s=now_s) == ""


@pytest.fixture
def judge() -> Judge:
    return Judge()


def test_same_and_older_sequences_are_ignored_and_newer_accepted(judge: Judge) -> None:
    assert judge.result(forged(payload(2))) == (REJECT, "signature")
    sent = payload(2)
    accepted = ValidationResult(ACCEPT, "", PayloadKind.ENVELOPE, sent[1:])
    assert judge.validator.judge(sent, A, NOW_MS) == accepted
    for _ in range(200):  # these cost a sender nothing
        for counter in (2, 1):
            assert judge.says(counter) == "replay"
    assert judge.says(3) == ""
    # each sender and each known kind has its own; all unknown kinds share one place
    assert judge.says(1, BOB) == ""
    assert [judge.says(2, kind="new1"), judge.says(1, kind="new2")] == ["", "replay"]


@pytest.mark.parametrize(
    ("sent", "publisher", "verdict", "reason"),
    [
        (payload(1), B, REJECT, "publisher"),
        (forged(payload(1)), A, REJECT, "signature"),
        (payload(1)[:-1], A, REJECT, "malformed"),
        (b"E" + bytes(MAX_ENVELOPE_BYTES + 1), A, REJECT, "oversize"),
        (payload(1, FOREIGNER), FOREIGNER.identity.peer_id, IGNORE, "network"),
        (payload(1, at_ms=NOW_MS - 700_000), A, IGNORE, "stale"),
        (payload(1, at_ms=NOW_MS + 700_000), A, IGNORE, "future"),
        (b"", A, IGNORE, "kind"),
        (b"R", A, REJECT, "signature"),
    ],
    ids=itertools.count(),  # not of the peers' ids, which differ from run to run
)
def test_dropped_message_is_named_and_blamed_only_if_nobody_honest_forwards_it(
    judge: Judge, sent: bytes, publisher: PeerId, verdict: Verdict, reason: str
) -> None:
    assert judge.result(sent, publisher) == (verdict, reason)


def test_newer_list_or_order_is_forwarded_once_from_any_member_and_nobody_elses(
    judge: Judge,
) -> None:
    listed = OWNER.revoke(NOBODY, peers=[B], now=NOW)
    order = OWNER.drain(DrainOrder.empty(OWNER.network_id), {B: NOW + HOUR}, now=NOW)
    for kind, signed, take in (
        (PayloadKind.REVOCATIONS, listed.encode(), lambda: judge.trust.update(listed)),
        (PayloadKind.DRAINS, order.encode(), lambda: judge.trust.take_drains(order.encode())),
    ):
        sent = wrap(kind, signed)
        accepted = ValidationResult(ACCEPT, "", kind, signed)
        assert judge.validator.judge(sent, A, NOW_MS) == accepted
        take()
        assert judge.result(sent, B) == (IGNORE, "replay")
        assert judge.result(forged(sent)) == (REJECT, "signature")
    assert judge.says(1, BOB) == "membership"
    foreign = OTHER_NETWORK.owner.drain(DrainOrder.empty(OWNER.network_id), {}, now=NOW)
    for bad in (wrap(PayloadKind.DRAINS, foreign.encode()), b"D", b"D" + bytes(70_000)):
        assert judge.result(bad) == (REJECT, "signature")


def test_drain_order_by_a_retired_key_is_not_forwarded_and_costs_its_sender_nothing(
    judge: Judge,
) -> None:
    order = OWNER.drain(DrainOrder.empty(OWNER.network_id), {}, now=NOW)
    assert judge.trust.update(OWNER.rotated(NOW).revoke(NOBODY, is_retiring=True, now=NOW))
    assert judge.result(wrap(PayloadKind.DRAINS, order.encode())) == (IGNORE, "replay")


@given(st.binary(max_size=300), st.sampled_from([b"", b"E", b"R", b"E\x92\xc4"]))
def test_no_payload_makes_the_judge_raise_or_accept(junk: bytes, prefix: bytes) -> None:
    assert Judge().result(prefix + junk)[0] is not ACCEPT


def test_sender_above_its_rate_is_ignored_until_time_passes(judge: Judge) -> None:
    burst = int(SENDER_BURST)
    said = [judge.says(counter) for counter in range(burst + 1)]
    assert said == [""] * burst + ["rate"]
    assert judge.says(1, BOB) == ""
    for later_ms, reason in ((199, "rate"), (400, "")):
        now = {"now_s": later_ms / 1000, "now_ms": NOW_MS + later_ms}
        assert judge.says(burst + later_ms, **now) == reason


def of_one_invite(count: int, members: int) -> list[Membership]:
    token = NETWORK.invite(members=members)
    return [NETWORK.member(token) for _ in range(count)]


def test_invite_has_only_so_many_passed_on_until_some_leave_or_fall_silent(judge: Judge) -> None:
    places = 2 + SPARE_PLACES
    nodes = of_one_invite(places + 3, members=2)
    first, last, more, _ = (nodes[0], *nodes[places:])
    for node in nodes[:places]:
        assert judge.says(1, node, "advert") == ""
    for counter, node, kind, now_s, reason in (
        (1, last, "advert", 1.0, "quota"),
        (2, first, "advert", 1.0, ""),
        (1, ALICE, "advert", 1.0, ""),  # of another invite
        (3, first, "goodbye", 2.0, ""),
        (1, last, "advert", 2.0, ""),
        (1, more, "advert", 2.0, "quota"),
        (1, more, "advert", 3.0 + EXPIRE_AFTER_S, ""),
    ):
        assert judge.says(counter, node, kind, now_s) == reason


def test_invites_members_have_a_rate_together_beside_that_of_each(judge: Judge) -> None:
    nodes = of_one_invite(2, members=2)
    reasons = [judge.says(counter, node, "advert") for counter in range(1, 51) for node in nodes]
    assert reasons.count("") == 50 + 4 * 2
    assert set(reasons) == {"", "invite_rate"}
    assert judge.says(51, nodes[0], "advert", 1.0, NOW_MS + 1000) == ""
    assert judge.says(1, ALICE, "advert") == ""


# and by whose clock


@pytest.mark.parametrize("off_ms", [20 * 60_000, -20 * 60_000])
def test_member_with_a_wrong_clock_hears_those_that_agree_on_another(off_ms: int) -> None:
    judge = Judge(off_ms, has_clock=True)
    judge.hears_three()
    strange_ms = NOW_MS - 2 * off_ms
    assert judge.says(1, NETWORK.member(), now_s=1.0, at_ms=strange_ms) in {"stale", "future"}
    if off_ms < 0:  # what was recorded at the time that the wrong clock shows is not passed on
        recorded = {"at_ms": judge.now_ms, "boot_ms": judge.now_ms}
        assert judge.says(1, now_s=2.0, **recorded) == "replay"


def test_known_sender_is_heard_whatever_its_clock_says_for_its_numbers_go_on(judge: Judge) -> None:
    for counter, off_ms in enumerate((0, -(10**7), 10**7, 0), start=1):
        assert judge.says(counter, at_ms=NOW_MS + off_ms) == ""
    assert judge.says(3) == "replay"
    assert judge.says(1, BOB, at_ms=NOW_MS - 10**7) == "stale"


def test_known_sender_that_begins_anew_ahead_is_refused_and_heard_once_it_is_right() -> None:
    judge = Judge(has_clock=True)
    for member in (ALICE, BOB, NETWORK.member()):
        assert judge.says(1, member, now_s=1.0, boot_ms=NOW_MS - 1000) == ""
    ahead_ms = NOW_MS + 25 * 60_000
    assert judge.says(1, now_s=1.0, at_ms=ahead_ms, boot_ms=ahead_ms) == "future"
    assert judge.says(1, now_s=1.0) == ""


def test_sender_that_was_ahead_as_this_machine_was_is_heard_once_both_are_right() -> None:
    judge = Judge(25 * 60_000, has_clock=True)
    ahead = {"at_ms": judge.now_ms, "boot_ms": judge.now_ms}
    assert judge.says(1, now_s=1.0, **ahead) == ""
    judge.now_ms = NOW_MS
    before_ms = NOW_MS - 700_000
    assert judge.says(1, now_s=2.0, at_ms=before_ms, boot_ms=before_ms) == "replay"
    for counter in (1, 2):
        said = [judge.says(counter, now_s=3.0) for _ in range(2)]
        assert said == ["", "replay"]
    for other in (BOB, NETWORK.member()):
        assert judge.says(1, other, now_s=4.0) == ""
    assert judge.says(2, now_s=4.0, **ahead) == "future"


def test_clock_that_is_set_back_mutes_nobody(judge: Judge) -> None:
    assert {judge.says(counter) for counter in range(1, 51)} == {""}
    assert judge.says(51, now_s=10.0, now_ms=NOW_MS - 300_000) == ""
