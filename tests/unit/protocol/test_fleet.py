"""The fleet's membership: who joins, is suspected, leaves and stays away."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from capamesh.protocol.adverts import NodeAdvert, Sequence
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.fleet import (
    Change,
    Changed,
    FleetCounts,
    FleetMembership,
    Joined,
    Left,
    LeftReason,
    Recovered,
    Suspected,
)
from capamesh.protocol.ids import PeerId

A, B, C, D = (PeerId(letter) for letter in "ABCD")


def advert(
    peer: PeerId, counter: int, *, boot_ns: int = 1, region: str = "eu", interval_s: int = 10
) -> NodeAdvert:
    return NodeAdvert(
        peer=peer,
        sequence=Sequence(boot_ns, counter),
        devices=(),
        models=(),
        region=region,
        price_per_million=0.0,
        agent_version="0.1.0",
        is_draining=False,
        interval_s=interval_s,
    )


def test_peer_joins_once_and_its_repeated_word_changes_nothing() -> None:
    fleet = FleetMembership()
    first, second = advert(A, 1), advert(A, 2)
    assert fleet.heard(first, 0.0) == [Joined(first)]
    assert fleet.heard(first, 1.0) == []
    assert fleet.heard(second, 2.0) == []
    assert fleet.members() == {A: second}
    assert fleet.counts == FleetCounts(adverts=2, stale=1, joined=1)
    assert repr(fleet) == "FleetMembership(1 members, 0 suspected, 0 tombstones)"


def test_new_words_are_a_change_and_old_ones_are_not() -> None:
    fleet = FleetMembership()
    before, after = advert(A, 2), advert(A, 3, region="us")
    fleet.heard(before, 0.0)
    assert fleet.heard(advert(A, 1, region="asia"), 0.0) == []
    assert fleet.heard(after, 0.0) == [Changed(after, before)]
    assert fleet.members() == {A: after}


def test_member_that_was_started_anew_has_changed_though_it_says_the_same() -> None:
    fleet = FleetMembership()
    before, after = advert(A, 1), advert(A, 1, boot_ns=2)
    fleet.heard(before, 0.0)
    assert fleet.heard(after, 1.0) == [Changed(after, before)]
    assert fleet.heard(advert(A, 2, boot_ns=2), 2.0) == []


def test_silent_member_is_suspected_once_then_expires() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1), 100.0)
    assert fleet.due_s() == 122.0
    assert fleet.tick(121.9) == []
    assert fleet.tick(122.0) == [Suspected(A)]
    assert fleet.is_suspected(A)
    assert fleet.summary() == "1 members, 1 suspected, 0 tombstones"
    assert A in fleet.members()
    assert fleet.due_s() == 135.0
    assert fleet.tick(134.9) == []
    assert fleet.tick(135.0) == [Left(A, LeftReason.EXPIRED)]
    assert fleet.members() == {}
    assert fleet.summary() == "0 members, 0 suspected, 1 tombstones"
    assert fleet.due_s() == 1335.0
    assert fleet.tick(1335.0) == []
    assert fleet.due_s() is None
    assert fleet.summary() == "0 members, 0 suspected, 0 tombstones"


def test_suspect_that_is_heard_again_recovers_and_may_have_changed() -> None:
    fleet = FleetMembership()
    old, new = advert(A, 1), advert(A, 2, region="us")
    fleet.heard(old, 0.0)
    fleet.heard(advert(B, 1), 0.0)
    fleet.tick(22.0)
    assert fleet.heard(new, 23.0) == [Recovered(A), Changed(new, old)]
    assert fleet.heard(advert(B, 2), 23.0) == [Recovered(B)]
    assert fleet.tick(44.9) == []
    assert fleet.tick(45.0) == [Suspected(A), Suspected(B)]


def test_late_tick_lets_the_long_silent_leave_without_a_suspicion() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1), 0.0)
    fleet.heard(advert(B, 1), 10.0)
    fleet.heard(advert(C, 1), 30.0)
    assert fleet.tick(36.0) == [Left(A, LeftReason.EXPIRED), Suspected(B)]


def test_each_member_ages_from_its_own_last_word() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1), 0.0)
    fleet.heard(advert(B, 1), 5.0)
    fleet.heard(advert(A, 2), 10.0)
    assert fleet.due_s() == 27.0
    assert fleet.tick(27.0) == [Suspected(B)]
    assert fleet.due_s() == 32.0
    assert fleet.tick(40.0) == [Left(B, LeftReason.EXPIRED), Suspected(A)]


def test_each_member_s_silence_is_judged_by_the_interval_that_it_reported() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1, interval_s=100), 0.0)
    fleet.heard(advert(B, 1, interval_s=120), 0.0)
    fleet.heard(advert(C, 1), 150.0)
    assert fleet.due_s() == 172.0
    assert fleet.tick(171.9) == []
    assert fleet.tick(172.0) == [Suspected(C)]
    assert fleet.tick(219.9) == [Left(C, LeftReason.EXPIRED)]
    assert fleet.due_s() == pytest.approx(220.0)
    assert fleet.tick(220.1) == [Suspected(A)]
    assert fleet.tick(263.9) == []
    assert fleet.tick(264.1) == [Suspected(B)]
    assert fleet.tick(349.9) == []
    assert fleet.tick(350.0) == [Left(A, LeftReason.EXPIRED)]
    assert fleet.tick(420.0) == [Left(B, LeftReason.EXPIRED)]


def test_tick_looks_at_the_members_only_when_one_may_be_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, looked = FleetMembership(), 0
    due_of = FleetMembership._due_of

    def counting(self: FleetMembership, member: Any) -> float:
        nonlocal looked
        looked += 1
        return due_of(self, member)

    fleet.heard(advert(A, 1, interval_s=100), 0.0)
    fleet.heard(advert(A, 2, interval_s=100), 100.0)
    fleet.tick(221.0)
    monkeypatch.setattr(FleetMembership, "_due_of", counting)
    for now_s in range(222, 320):
        assert fleet.tick(now_s) == []
    assert looked == 0
    assert fleet.tick(320.1) == [Suspected(A)]


def test_new_interval_counts_from_the_advert_that_tells_it_and_is_no_change() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1, interval_s=100), 0.0)
    fleet.heard(advert(B, 1, interval_s=10), 0.0)
    assert fleet.heard(advert(B, 2, interval_s=100), 10.0) == []
    assert fleet.heard(advert(A, 2, interval_s=10), 100.0) == []
    assert fleet.tick(121.9) == []
    assert fleet.tick(122.0) == [Suspected(A)]
    assert fleet.tick(229.9) == [Left(A, LeftReason.EXPIRED)]
    assert fleet.tick(230.1) == [Suspected(B)]


def test_shorter_interval_does_not_hurry_those_that_have_not_reported_it() -> None:
    fleet = FleetMembership()
    for counter, peer in enumerate((A, B, C), 1):
        fleet.heard(advert(peer, counter, interval_s=120), 0.0)
    fleet.heard(advert(D, 1, interval_s=10), 1.0)
    for now_s in (11.0, 21.0, 31.0, 41.0):
        fleet.heard(advert(D, round(now_s), interval_s=10), now_s)
        assert fleet.tick(now_s) == []
    assert fleet.heard(advert(A, 9, interval_s=10), 120.0) == []
    assert fleet.tick(131.9) == [Left(D, LeftReason.EXPIRED)]
    assert fleet.tick(142.0) == [Suspected(A)]
    assert fleet.tick(263.9) == [Left(A, LeftReason.EXPIRED)]
    assert fleet.tick(264.1) == [Suspected(B), Suspected(C)]


def test_departed_peer_stays_away_until_it_speaks_anew() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 5), 0.0)
    assert fleet.heard_goodbye(A, Sequence(1, 6), 1.0) == [Left(A, LeftReason.GOODBYE)]
    assert fleet.heard(advert(A, 5), 2.0) == []
    assert fleet.heard(advert(A, 6), 2.0) == []
    back = advert(A, 1, boot_ns=2)
    assert fleet.heard(back, 3.0) == [Joined(back)]
    assert fleet.summary() == "1 members, 0 suspected, 0 tombstones"
    assert fleet.counts == FleetCounts(adverts=2, goodbyes=1, stale=2, joined=2, left=1)


def test_expired_peer_stays_away_until_it_speaks_anew() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 5), 0.0)
    fleet.tick(35.0)
    assert fleet.heard(advert(A, 5), 36.0) == []
    assert fleet.known_sequence(A) == Sequence(1, 5)
    assert fleet.heard(advert(A, 6), 37.0) == [Joined(advert(A, 6))]


def test_old_goodbye_does_not_remove_a_restarted_peer() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1, boot_ns=2), 0.0)
    assert fleet.heard_goodbye(A, Sequence(1, 99), 1.0) == []
    assert A in fleet.members()


def test_goodbye_that_overtakes_its_advert_keeps_it_out() -> None:
    fleet = FleetMembership()
    assert fleet.heard_goodbye(A, Sequence(1, 2), 0.0) == []
    assert fleet.heard(advert(A, 1), 1.0) == []
    assert len(fleet) == 0


def test_expelled_peer_is_not_let_back_by_any_sequence_while_its_tombstone_stands() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1), 0.0)
    assert fleet.expel(A, 1.0) == [Left(A, LeftReason.REVOKED)]
    assert fleet.expel(A, 2.0) == []
    assert fleet.heard(advert(A, 9), 3.0) == []
    assert fleet.heard_goodbye(A, Sequence(9, 9), 3.0) == []
    assert fleet.counts.quarantined == 2
    fleet.tick(1202.0)
    assert fleet.heard(advert(A, 9), 1203.0) == [Joined(advert(A, 9))]


def test_full_fleet_refuses_unknown_peers_and_serves_the_known() -> None:
    fleet = FleetMembership(max_peers=2)
    fleet.heard(advert(A, 1), 0.0)
    fleet.heard(advert(B, 1), 0.0)
    assert fleet.heard(advert(C, 1), 0.0) == []
    assert fleet.heard(advert(A, 2, region="us"), 1.0) != []
    assert set(fleet.members()) == {A, B}
    assert fleet.counts.refused == 1
    fleet.heard_goodbye(A, Sequence(1, 3), 2.0)
    assert fleet.heard(advert(C, 1), 3.0) == [Joined(advert(C, 1))]


def test_oldest_tombstone_is_forgotten_when_there_are_too_many() -> None:
    fleet = FleetMembership(max_peers=2)
    for peer in (A, B, C):
        fleet.heard_goodbye(peer, Sequence(1, 1), 0.0)
    assert fleet.summary() == "0 members, 0 suspected, 2 tombstones"
    assert fleet.counts.tombstones_dropped == 1
    assert [fleet.known_sequence(peer) for peer in (A, B)] == [None, Sequence(1, 1)]


def test_clock_that_goes_backwards_stands_still() -> None:
    fleet = FleetMembership()
    fleet.heard(advert(A, 1), 100.0)
    fleet.heard(advert(B, 1), 50.0)
    assert fleet.tick(121.0) == []
    assert fleet.tick(122.0) == [Suspected(A), Suspected(B)]


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (
            {"suspect_after": 3.5},
            "suspect_after is 3.5 intervals; it must be over 0 and under expire_after, 3.5",
        ),
        ({"suspect_after": 0.0}, "suspect_after is 0 intervals"),
        ({"tombstone_s": 1199.0}, "tombstone_s is 1199; under 1200 an old advert"),
        ({"max_peers": 0}, "max_peers is 0; it must be at least 1"),
    ],
)
def test_limits_that_cannot_work_are_refused(limits: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        FleetMembership(**limits)  # type: ignore[arg-type]


Event = tuple[PeerId, int, bool]
"""Who, its counter, and whether it is a goodbye."""

histories = st.dictionaries(
    st.tuples(st.sampled_from([A, B, C]), st.integers(1, 6)), st.booleans(), max_size=12
).map(lambda words: [(*key, is_goodbye) for key, is_goodbye in words.items()])


def play(fleet: FleetMembership, events: list[Event]) -> list[Change]:
    changes: list[Change] = []
    for peer, counter, is_goodbye in events:
        if is_goodbye:
            changes += fleet.heard_goodbye(peer, Sequence(1, counter), 0.0)
        else:
            changes += fleet.heard(advert(peer, counter, region=f"r{counter}"), 0.0)
    return changes


def state(fleet: FleetMembership) -> object:
    known = {peer: fleet.known_sequence(peer) for peer in (A, B, C)}
    return fleet.members(), known, fleet.summary()


@given(histories, st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_change_the_final_state(
    events: list[Event], order: random.Random
) -> None:
    shuffled = events.copy()
    order.shuffle(shuffled)
    one, other = FleetMembership(), FleetMembership()
    play(one, events)
    play(other, shuffled)
    assert state(one) == state(other)
    newest = {peer: max(e[1:] for e in events if e[0] == peer) for peer, _, _ in events}
    alive = {peer for peer, (_, is_goodbye) in newest.items() if not is_goodbye}
    assert set(one.members()) == alive


@given(histories, st.data())
def test_hearing_anything_again_changes_nothing(events: list[Event], data: st.DataObject) -> None:
    fleet = FleetMembership()
    play(fleet, events)
    before = state(fleet)
    repeats = data.draw(st.lists(st.sampled_from(events))) if events else []
    assert play(fleet, repeats) == []
    assert state(fleet) == before


class FleetMachine(RuleBasedStateMachine):
    """Drives a small fleet beside the plainest model of it: what each peer last said, and when."""

    peers = st.sampled_from([A, B, C, D])
    counters = st.integers(1, 8)

    def __init__(self) -> None:
        super().__init__()
        self.fleet = FleetMembership(max_peers=3)
        self.now_s = 0.0
        self.heard_s: dict[PeerId, float] = {}
        self.interval_s: dict[PeerId, int] = {}
        self.best: dict[PeerId, Sequence] = {}
        self.inside: set[PeerId] = set()
        self.calls = 0

    def is_old(self, peer: PeerId, sequence: Sequence) -> bool:
        """Whether the fleet must still know that `sequence` is no news."""
        forgets = self.fleet.counts.tombstones_dropped > 0 or self.now_s >= 1200.0
        return (peer in self.inside or not forgets) and sequence <= self.best.get(
            peer, Sequence(0, 0)
        )

    def follow(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case Joined(said):
                    assert said.peer not in self.inside
                    self.inside.add(said.peer)
                case Left(peer, _):
                    self.inside.remove(peer)
                case Changed(said, before):
                    assert said.peer == before.peer
                    assert said.sequence > before.sequence
                    assert replace(said, sequence=before.sequence) != before
                case Suspected(peer) | Recovered(peer):
                    assert peer in self.inside

    @rule(
        peer=peers,
        counter=counters,
        region=st.sampled_from(["eu", "us"]),
        interval_s=st.sampled_from([10, 100, 120]),
    )
    def advert_arrives(self, peer: PeerId, counter: int, region: str, interval_s: int) -> None:
        said = advert(peer, counter, region=region, interval_s=interval_s)
        is_old = self.is_old(peer, said.sequence)
        was_inside = peer in self.inside
        changes = self.fleet.heard(said, self.now_s)
        self.calls += 1
        self.follow(changes)
        if is_old:
            assert changes == []
        if self.fleet.members().get(peer) is said:
            assert not is_old
            self.best[peer] = said.sequence
            self.heard_s[peer] = self.now_s
            self.interval_s[peer] = interval_s
        elif was_inside:
            assert is_old

    @rule(peer=peers, counter=counters)
    def goodbye_arrives(self, peer: PeerId, counter: int) -> None:
        sequence = Sequence(1, counter)
        is_old = self.is_old(peer, sequence)
        changes = self.fleet.heard_goodbye(peer, sequence, self.now_s)
        self.calls += 1
        self.follow(changes)
        if not is_old and self.fleet.known_sequence(peer) == sequence:
            self.best[peer] = sequence
            assert peer not in self.inside

    @rule(peer=peers)
    def peer_is_revoked(self, peer: PeerId) -> None:
        self.follow(self.fleet.expel(peer, self.now_s))
        assert peer not in self.inside

    @rule(step_s=st.sampled_from([0.0, 1.0, 10.0, 22.0, 35.0, 220.0, 350.0]))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s
        self.follow(self.fleet.tick(self.now_s))
        assert all(
            self.heard_s[peer] + 3.5 * self.interval_s[peer] > self.now_s for peer in self.inside
        )
        assert {peer for peer in self.inside if self.fleet.is_suspected(peer)} == {
            peer
            for peer in self.inside
            if self.heard_s[peer] + 2.2 * self.interval_s[peer] <= self.now_s
        }

    @precondition(lambda self: self.fleet.due_s() is not None)
    @rule()
    def tick_comes_when_due(self) -> None:
        due_s = self.fleet.due_s()
        assert due_s is not None
        if due_s - self.now_s > 600:  # only tombstones wait: the model would have to forget too
            return
        self.now_s = max(self.now_s, due_s)
        self.follow(self.fleet.tick(self.now_s))
        after_s = self.fleet.due_s()
        assert after_s is None or after_s > self.now_s

    @invariant()
    def the_members_are_those_who_joined_and_did_not_leave(self) -> None:
        assert set(self.fleet.members()) == self.inside
        assert len(self.fleet) == len(self.inside) <= 3

    @invariant()
    def the_counts_add_up(self) -> None:
        counts = self.fleet.counts
        assert counts.joined - counts.left == len(self.fleet)
        assert self.calls == (
            counts.adverts + counts.goodbyes + counts.stale + counts.refused + counts.quarantined
        )


TestFleetMachine = FleetMachine.TestCase
