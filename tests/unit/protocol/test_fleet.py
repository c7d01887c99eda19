"""The fleet's membership: who joins, is suspected, leaves and stays away."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import NodeAdvert, Sequence
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


@dataclass
class Said:
    """What is known of a member."""

    advert: NodeAdvert
    heard_s: float
    newest: Sequence | None
    is_suspected: bool = False

    def due_s(self) -> float:
        return self.heard_s + (3.5 if self.is_suspected else 2.2) * self.advert.interval_s


class PlainFleet:
    """The plainest model of a fleet: it looks at everything each time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.members: dict[PeerId, Said] = {}
        self.gone: dict[PeerId, tuple[Sequence | None, float]] = {}
        self.expelled: set[PeerId] = set()
        self.counts = FleetCounts()

    def known(self, peer: PeerId) -> Sequence | None:
        return (
            self.members[peer].newest if peer in self.members else self.gone.get(peer, (None,))[0]
        )

    def is_news(self, peer: PeerId, sequence: Sequence) -> bool:
        known = self.known(peer)
        self.counts.quarantined += peer in self.expelled
        is_stale = peer not in self.expelled and known is not None and sequence <= known
        self.counts.stale += is_stale
        return peer not in self.expelled and not is_stale

    def heard(self, said: NodeAdvert, now_s: float) -> list[Change]:
        if not self.is_news(said.peer, said.sequence):
            return []
        if said.peer not in self.members and len(self.members) >= self.most:
            self.counts.refused += 1
            return []
        self.counts.adverts += 1
        self.gone.pop(said.peer, None)
        before = self.members.pop(said.peer, None)
        self.members[said.peer] = Said(said, now_s, said.sequence)
        if before is None:
            self.counts.joined += 1
            return [Joined(said)]
        same = replace(said, sequence=before.advert.sequence, interval_s=before.advert.interval_s)
        is_same = same == before.advert and said.sequence.boot_ns == before.advert.sequence.boot_ns
        changes: list[Change] = [Recovered(said.peer)] * before.is_suspected
        return changes if is_same else [*changes, Changed(said, before.advert)]

    def leave(
        self, peer: PeerId, reason: LeftReason, newest: Sequence | None, now_s: float
    ) -> list[Change]:
        self.gone.pop(peer, None)
        self.gone[peer] = newest, now_s
        if len(self.gone) > self.most:
            self.forget(next(iter(self.gone)))
            self.counts.tombstones_dropped += 1
        if self.members.pop(peer, None) is None:
            return []
        self.counts.left += 1
        return [Left(peer, reason)]

    def forget(self, peer: PeerId) -> None:
        self.expelled.discard(peer)
        del self.gone[peer]

    def goodbye(self, peer: PeerId, sequence: Sequence, now_s: float) -> list[Change]:
        if not self.is_news(peer, sequence):
            return []
        self.counts.goodbyes += 1
        return self.leave(peer, LeftReason.GOODBYE, sequence, now_s)

    def expel(self, peer: PeerId, now_s: float) -> list[Change]:
        self.expelled.add(peer)
        return self.leave(peer, LeftReason.REVOKED, None, now_s)

    def tick(self, now_s: float, linked: set[PeerId]) -> list[Change]:
        changes: list[Change] = []
        for peer, said in list(self.members.items()):
            if said.due_s() > now_s:
                continue
            if peer in linked:
                self.members[peer] = Said(said.advert, now_s, said.newest)
                self.members[peer] = self.members.pop(peer)
                changes += [Recovered(peer)] * said.is_suspected
            elif said.heard_s + 3.5 * said.advert.interval_s <= now_s:
                changes += self.leave(peer, LeftReason.EXPIRED, said.advert.sequence, now_s)
            elif not said.is_suspected:
                said.is_suspected = True
                changes.append(Suspected(peer))
        for peer in [peer for peer, (_, died_s) in self.gone.items() if died_s + 1200 <= now_s]:
            self.forget(peer)
        return changes

    def forget_order(self, peer: PeerId) -> None:
        if peer in self.members:
            self.members[peer].newest = None
        elif peer not in self.expelled and peer in self.gone:
            self.forget(peer)

    def due_s(self) -> float | None:
        times_s = [said.due_s() for said in self.members.values()]
        return min(times_s + [died_s + 1200 for _, died_s in self.gone.values()], default=None)


@pytest.mark.parametrize("seed", range(200))
def test_fleet_is_at_each_step_what_the_plainest_model_of_it_is(seed: int) -> None:
    rng = random.Random(seed)
    fleet, model, now_s = FleetMembership(max_peers=3), PlainFleet(3), 0.0
    fleet.tick(now_s)
    for _ in range(100):
        peer, sequence = (
            rng.choice([A, B, C, D]),
            Sequence(rng.choice([1, 1, 2]), rng.randint(1, 20)),
        )
        late_s = now_s - rng.choice([0.0, 0.0, 5.0])  # a clock that goes back stands still
        match rng.randrange(12):
            case 0:
                changes = fleet.heard_goodbye(peer, sequence, late_s)
                assert changes == model.goodbye(peer, sequence, now_s)
            case 1 if rng.random() < 0.3:
                assert fleet.expel(peer, late_s) == model.expel(peer, now_s)
            case 2 if rng.random() < 0.3:
                fleet.forget_order(peer)
                model.forget_order(peer)
            case 3 | 4 | 5 | 6:
                due_s = model.due_s()
                steps_s = [0.0, 1.0, 9.9, 22.0, 35.0, 220.0, (due_s or now_s) - now_s]
                now_s += max(0.0, rng.choice(steps_s))
                linked = {peer} if rng.random() < 0.3 else set()
                assert fleet.tick(now_s, linked.__contains__) == model.tick(now_s, linked)
            case _:
                said = advert(
                    peer,
                    sequence.counter,
                    boot_ns=sequence.boot_ns,
                    region=rng.choice(["eu", "us"]),
                    interval_s=rng.choice([10, 100]),
                )
                assert fleet.heard(said, late_s) == model.heard(said, now_s)
        assert list(fleet.members().items()) == [(p, s.advert) for p, s in model.members.items()]
        assert (fleet.counts, fleet.due_s()) == (model.counts, model.due_s())
        suspects = {each for each, said in model.members.items() if said.is_suspected}
        assert {each for each in (A, B, C, D) if fleet.is_suspected(each)} == suspects
        assert fleet.summary() == (
            f"{len(model.members)} members, {len(suspects)} suspected, {len(model.gone)} tombstones"
        )
        for each in (A, B, C, D):
            assert fleet.known_sequence(each) == model.known(each)
            assert (each in fleet) == (each in model.members)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([A, B, C]), st.integers(1, 6)), st.booleans(), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_and_repetition_do_not_change_the_final_state(
    words: dict[tuple[PeerId, int], bool], order: random.Random
) -> None:
    states: list[object] = []
    events = list(words.items())
    for history in (events, order.sample(events * 3, len(events) * 3)):
        fleet = FleetMembership()
        for (peer, counter), is_goodbye in history:
            if is_goodbye:
                fleet.heard_goodbye(peer, Sequence(1, counter), 0.0)
            else:
                fleet.heard(advert(peer, counter, region=f"r{counter}"), 0.0)
        states.append((fleet.members(), [fleet.known_sequence(peer) for peer in (A, B, C)]))
    assert states[0] == states[1]
