from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import MAX_ENVELOPE_BYTES, Sequence, seal
from capamesh.protocol.identity import Identity
from capamesh.protocol.mesh.gossip import PayloadKind, wrap
from capamesh.protocol.mesh.validator import (
    EXPIRE_AFTER_S,
    SENDER_BURST,
    SPARE_PLACES,
    ValidationResult,
    Validator,
    Verdict,
)
from capamesh.protocol.network import DrainOrder, Membership, NetworkOwner, RevocationList, Role
from capamesh.protocol.network_clock import NetworkClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
OWNER = NetworkOwner.create("test", NOW)
OTHER_OWNER = NetworkOwner.create("other", NOW)
NOBODY = RevocationList.empty(OWNER.network_id)


def join(owner: NetworkOwner = OWNER) -> Membership:
    token = owner.invite(Role.NODE, expires_at=NOW + timedelta(hours=1), bootstrap=(), now=NOW)
    return Membership.join(Identity.generate(), token, NOW)


ALICE, BOB, STRANGER = join(), join(), join(OTHER_OWNER)
A, B = ALICE.identity.peer_id, BOB.identity.peer_id


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


@pytest.fixture
def judge() -> Validator:
    return Validator(OWNER.ca_der, ALICE.trust())


def test_same_and_older_sequences_are_ignored_and_newer_accepted(judge: Validator) -> None:
    assert judge.judge(forged(payload(2)), A, NOW_MS).verdict is Verdict.REJECT
    sent = payload(2)
    assert judge.judge(sent, A, NOW_MS) == ValidationResult(
        Verdict.ACCEPT, "", PayloadKind.ENVELOPE, sent[1:]
    )
    for _ in range(200):  # these cost a sender nothing
        for counter in (2, 1):
            verdict = judge.judge(payload(counter), A, NOW_MS)
            assert verdict == ValidationResult(Verdict.IGNORE, "replay")
    assert judge.judge(payload(3), A, NOW_MS).verdict is Verdict.ACCEPT


def test_sequences_count_for_each_sender_and_each_known_kind(judge: Validator) -> None:
    for sent, sender, reason in (
        (payload(5), A, ""),
        (payload(1, BOB), B, ""),
        (payload(4, kind="new1"), A, ""),
        (payload(3, kind="new2"), A, "replay"),  # all unknown kinds share one place
    ):
        assert judge.judge(sent, sender, NOW_MS).reason == reason


@pytest.mark.parametrize(
    ("sent", "publisher", "verdict", "reason"),
    [
        (payload(1), B, Verdict.REJECT, "publisher"),
        (forged(payload(1)), A, Verdict.REJECT, "signature"),
        (payload(1)[:-1], A, Verdict.REJECT, "malformed"),
        (b"E" + bytes(MAX_ENVELOPE_BYTES + 1), A, Verdict.REJECT, "oversize"),
        (payload(1, STRANGER), STRANGER.identity.peer_id, Verdict.IGNORE, "network"),
        (payload(1, at_ms=NOW_MS - 700_000), A, Verdict.IGNORE, "stale"),
        (payload(1, at_ms=NOW_MS + 700_000), A, Verdict.IGNORE, "future"),
        (b"", A, Verdict.IGNORE, "kind"),
        (b"R", A, Verdict.REJECT, "signature"),
    ],
    ids=itertools.count(),  # not of the peers' ids, which differ from run to run
)
def test_dropped_message_is_named_and_blamed_only_if_nobody_honest_forwards_it(
    judge: Validator, sent: bytes, publisher: str, verdict: Verdict, reason: str
) -> None:
    assert judge.judge(sent, publisher, NOW_MS) == ValidationResult(verdict, reason)


def test_newer_revocation_list_is_accepted_from_any_member_and_an_old_one_ignored() -> None:
    trust = ALICE.trust()
    judge = Validator(OWNER.ca_der, trust)
    listed = OWNER.revoke(NOBODY, peers=[B], now=NOW)
    sent = wrap(PayloadKind.REVOCATIONS, listed.encode())
    assert judge.judge(sent, A, NOW_MS) == ValidationResult(
        Verdict.ACCEPT, "", PayloadKind.REVOCATIONS, listed.encode()
    )
    trust.update(listed)
    assert judge.judge(sent, A, NOW_MS) == ValidationResult(Verdict.IGNORE, "replay")
    assert judge.judge(payload(1, BOB), B, NOW_MS) == ValidationResult(Verdict.IGNORE, "membership")


def test_sender_above_its_rate_is_ignored_until_time_passes(judge: Validator) -> None:
    numbers = count(1)
    burst = int(SENDER_BURST)
    for _ in range(burst):
        assert judge.judge(payload(next(numbers)), A, NOW_MS).verdict is Verdict.ACCEPT
    assert judge.judge(payload(next(numbers)), A, NOW_MS) == ValidationResult(
        Verdict.IGNORE, "rate"
    )
    assert judge.judge(payload(1, BOB), B, NOW_MS).verdict is Verdict.ACCEPT
    assert judge.judge(payload(next(numbers)), A, NOW_MS + 199).reason == "rate"
    assert judge.judge(payload(next(numbers)), A, NOW_MS + 400).verdict is Verdict.ACCEPT


@given(st.binary(max_size=300), st.sampled_from([b"", b"E", b"R", b"E\x92\xc4"]))
def test_no_payload_makes_the_judge_raise_or_accept(junk: bytes, prefix: bytes) -> None:
    judge = Validator(OWNER.ca_der, ALICE.trust())
    assert judge.judge(prefix + junk, A, NOW_MS).verdict is not Verdict.ACCEPT


def of_one_invite(count: int, members: int) -> list[Membership]:
    token = OWNER.invite(
        Role.NODE, expires_at=NOW + timedelta(hours=1), bootstrap=(), now=NOW, members=members
    )
    return [Membership.join(Identity.generate(), token, NOW) for _ in range(count)]


def verdict(judge: Validator, counter: int, member: Membership, kind: str, now_s: float) -> str:
    now_ms = NOW_MS + round(now_s * 1000)
    sent = payload(counter, member, kind, at_ms=now_ms)
    return judge.judge(sent, member.identity.peer_id, now_ms, now_s).reason


def test_invite_has_only_so_many_passed_on_until_some_leave_or_fall_silent(
    judge: Validator,
) -> None:
    places = 2 + SPARE_PLACES
    nodes = of_one_invite(places + 3, members=2)
    for node in nodes[:places]:
        assert verdict(judge, 1, node, "advert", 0.0) == ""
    first, last, more, _ = (nodes[0], *nodes[places:])
    assert verdict(judge, 1, last, "advert", 1.0) == "quota"
    assert verdict(judge, 2, first, "advert", 1.0) == ""
    assert verdict(judge, 1, ALICE, "advert", 1.0) == ""  # of another invite
    assert verdict(judge, 3, first, "goodbye", 2.0) == ""
    assert verdict(judge, 1, last, "advert", 2.0) == ""
    assert verdict(judge, 1, more, "advert", 2.0) == "quota"
    assert verdict(judge, 1, more, "advert", 3.0 + EXPIRE_AFTER_S) == ""


def test_invites_members_have_a_rate_together_beside_that_of_each(judge: Validator) -> None:
    nodes = of_one_invite(2, members=2)
    reasons = [
        verdict(judge, counter, node, "advert", 0.0) for counter in range(1, 51) for node in nodes
    ]
    assert reasons.count("") == 50 + 4 * 2
    assert set(reasons) == {"", "invite_rate"}
    assert verdict(judge, 51, nodes[0], "advert", 1.0) == ""
    assert verdict(judge, 1, ALICE, "advert", 0.0) == ""


@pytest.mark.parametrize("off_ms", [20 * 60_000, -20 * 60_000])
def test_member_with_a_wrong_clock_hears_those_that_agree_on_another(off_ms: int) -> None:
    own_ms = NOW_MS + off_ms
    judge = Validator(OWNER.ca_der, ALICE.trust(), NetworkClock(own_ms, 0.0))
    for member in (ALICE, BOB, join()):
        assert judge.judge(payload(1, member), member.identity.peer_id, own_ms, 1.0).reason == ""
    liar = join()
    strange = payload(1, liar, at_ms=NOW_MS - 2 * off_ms)
    assert judge.judge(strange, liar.identity.peer_id, own_ms, 1.0).reason in {"stale", "future"}


def test_known_sender_is_heard_whatever_its_clock_says_for_its_numbers_go_on(
    judge: Validator,
) -> None:
    assert judge.judge(payload(1), A, NOW_MS).reason == ""
    for counter, at_ms in enumerate((NOW_MS - 10**7, NOW_MS + 10**7, NOW_MS), start=2):
        assert judge.judge(payload(counter, at_ms=at_ms), A, NOW_MS).reason == ""
    assert judge.judge(payload(3), A, NOW_MS).reason == "replay"
    assert judge.judge(payload(1, BOB, at_ms=NOW_MS - 10**7), B, NOW_MS).reason == "stale"


def test_known_sender_that_begins_anew_ahead_is_refused_and_heard_once_it_is_right() -> None:
    judge = Validator(OWNER.ca_der, ALICE.trust(), NetworkClock(NOW_MS, 0.0))
    ahead_ms = NOW_MS + 25 * 60_000

    def said(counter: int, at_ms: int, boot_ms: int, member: Membership = ALICE) -> str:
        sent = payload(counter, member, at_ms=at_ms, boot_ms=boot_ms)
        return judge.judge(sent, member.identity.peer_id, NOW_MS, 1.0).reason

    for member in (ALICE, BOB, join()):
        assert said(1, NOW_MS, NOW_MS - 1000, member) == ""
    assert said(1, ahead_ms, ahead_ms) == "future"
    assert said(1, NOW_MS, NOW_MS) == ""


def test_sender_that_was_ahead_as_this_machine_was_is_heard_once_both_are_right() -> None:
    ahead_ms = NOW_MS + 25 * 60_000
    judge = Validator(OWNER.ca_der, ALICE.trust(), NetworkClock(ahead_ms, 0.0))
    before = payload(1, at_ms=NOW_MS - 700_000, boot_ms=NOW_MS - 700_000)
    future = [payload(counter, at_ms=ahead_ms, boot_ms=ahead_ms) for counter in (1, 2)]
    assert judge.judge(future[0], A, ahead_ms, 1.0).reason == ""
    assert judge.judge(before, A, NOW_MS, 2.0).reason == "replay"
    for counter in (1, 2):
        right = payload(counter, at_ms=NOW_MS, boot_ms=NOW_MS)
        assert judge.judge(right, A, NOW_MS, 3.0).reason == ""
        assert judge.judge(right, A, NOW_MS, 3.0).reason == "replay"
    for other in (BOB, join()):
        sent = payload(1, other, at_ms=NOW_MS)
        assert judge.judge(sent, other.identity.peer_id, NOW_MS, 4.0).reason == ""
    assert judge.judge(future[1], A, NOW_MS, 4.0).reason == "future"


def test_replay_of_the_time_that_a_wrong_clock_shows_is_not_passed_on() -> None:
    own_ms = NOW_MS - 20 * 60_000
    judge = Validator(OWNER.ca_der, ALICE.trust(), NetworkClock(own_ms, 0.0))
    for member in (ALICE, BOB, join()):
        assert judge.judge(payload(1, member), member.identity.peer_id, own_ms, 1.0).reason == ""
    recorded = payload(1, at_ms=own_ms, boot_ms=own_ms)
    assert judge.judge(recorded, A, own_ms, 2.0).reason == "replay"


def test_drain_order_is_forwarded_once_and_nobody_elses() -> None:
    trust = ALICE.trust()
    judge = Validator(OWNER.ca_der, trust)
    nothing = DrainOrder.empty(OWNER.network_id)
    order = OWNER.drain(nothing, {B: NOW + timedelta(hours=1)}, now=NOW)
    sent = wrap(PayloadKind.DRAINS, order.encode())
    assert judge.judge(sent, A, NOW_MS) == ValidationResult(
        Verdict.ACCEPT, "", PayloadKind.DRAINS, order.encode()
    )
    trust.take_drains(order.encode())
    assert judge.judge(sent, B, NOW_MS) == ValidationResult(Verdict.IGNORE, "replay")
    foreign = OTHER_OWNER.drain(nothing, {}, now=NOW)
    for bad in (
        forged(sent),
        wrap(PayloadKind.DRAINS, foreign.encode()),
        b"D",
        b"D" + bytes(70_000),
    ):
        assert judge.judge(bad, A, NOW_MS) == ValidationResult(Verdict.REJECT, "signature")


def test_drain_order_by_a_retired_key_is_not_forwarded_and_costs_its_sender_nothing() -> None:
    trust = ALICE.trust()
    judge = Validator(OWNER.ca_der, trust)
    nothing = DrainOrder.empty(OWNER.network_id)
    old = wrap(PayloadKind.DRAINS, OWNER.drain(nothing, {}, now=NOW).encode())
    retiring = OWNER.rotated(NOW).revoke(
        RevocationList.empty(OWNER.network_id), is_retiring=True, now=NOW
    )
    assert trust.update(retiring)
    assert judge.judge(old, A, NOW_MS) == ValidationResult(Verdict.IGNORE, "replay")


def test_clock_that_is_set_back_mutes_nobody(judge: Validator) -> None:
    for counter in range(1, 51):
        assert judge.judge(payload(counter), A, NOW_MS, 0.0).reason == ""
    assert judge.judge(payload(51), A, NOW_MS - 300_000, 10.0).reason == ""
