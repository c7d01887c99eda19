"""What a router makes of what it hears: who is believed, who has a place, and when it is."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import NamedTuple

import pytest
import signed_adverts
from fleet_fakes import advert, offer
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_adverts import NOW_MS

from capamesh.protocol.adverts import KIND_ADVERT, KIND_GOODBYE, Sequence, advert_to_body, seal
from capamesh.protocol.errors import AdvertRejected
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason
from capamesh.protocol.network import Membership, Role
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.clocks import Clocks, MeshClock
from capamesh.router.fleet.hearing import Hearing, Now
from capamesh.router.fleet.node_addresses import addresses_within

T = NOW_MS
MINUTE_MS = 60_000
NETWORK = signed_adverts.Network()


class Network(NamedTuple):
    """A router's hearing, and tokens for its nodes."""

    hearing: Hearing
    now: Now

    def at(self, after_s: float, *, off_ms: int = 0) -> Now:
        return Now(
            self.now.wall_ms + round(after_s * 1000) + off_ms,
            self.now.steady_s + after_s,
            self.now.mesh_s + after_s,
        )

    def heard(self, envelope: bytes, now: Now | None = None) -> list[type]:
        """Hear one, and return the kinds of changes that it brings."""
        _, changes = self.hearing.heard(envelope, now or self.now)
        return [type(each) for each in changes]

    def joined(self, count: int) -> list[Membership]:
        """Return new members that have been heard."""
        nodes = [joined() for _ in range(count)]
        assert [self.heard(says(node)) for node in nodes] == [[Joined]] * count
        return nodes


def network(*, off_ms: int = 0) -> Network:
    now = Now(T + off_ms, 100.0, 0.0)
    trust = NETWORK.member(role=Role.ROUTER).trust()
    return Network(Hearing(trust, addresses_within(Inside.LOOPBACK), now), now)


invite, joined = NETWORK.invite, NETWORK.member


def says(
    node: Membership,
    counter: int = 1,
    *,
    at_ms: int = T,
    boot_ms: int = T,
    models: int = 1,
    kind: str = KIND_ADVERT,
) -> bytes:
    sequence = Sequence(boot_ms * 1_000_000, counter)
    offers = [offer(f"m{number}") for number in range(models)]
    said = advert(node.identity.peer_id, "127.0.0.1:1", models=offers)
    body = advert_to_body(replace(said, sequence=sequence)) if kind == KIND_ADVERT else {}
    return seal(kind, body, node, sequence, at_ms)


def test_first_members_of_an_invite_have_places_until_they_leave() -> None:
    net, token = network(), invite(members=2)
    nodes = [joined(token) for _ in range(3)]
    assert [net.heard(says(node)) for node in nodes[:2]] == [[Joined]] * 2
    with pytest.raises(AdvertRejected, match="admits 2 members, and all have come") as refused:
        net.heard(says(nodes[2]))
    assert (refused.value.reason, len(net.hearing._reader)) == ("quota", 2)  # it is not read
    net.joined(1)
    assert net.heard(says(nodes[0], 2)) == []  # those that are known go on
    _, changes = net.hearing.heard(says(nodes[0], 3, kind=KIND_GOODBYE), net.now)
    assert changes == [Left(nodes[0].identity.peer_id, LeftReason.GOODBYE)]
    assert net.heard(says(nodes[2])) == [Joined]
    assert [one.refused for one in net.hearing.quotas.over()] == []


@pytest.mark.full
def test_endless_identities_of_one_invite_take_sixty_four_places() -> None:
    net, token = network(), invite()
    (honest,) = net.joined(1)
    for _ in range(200):
        with contextlib.suppress(AdvertRejected):
            net.heard(says(joined(token)))
    assert (len(net.hearing.members), net.heard(says(honest, 2))) == (65, [])
    assert repr(net.hearing.quotas) == "InviteQuotas(65 members of 2 invites)"


def test_advert_that_takes_more_than_is_for_its_invite_is_refused_and_forgotten() -> None:
    net, small = network(), joined(invite(members=1))
    with pytest.raises(AdvertRejected, match="1048576 are for them"):
        net.heard(says(small, models=600))
    assert (len(net.hearing._reader), len(net.hearing.members)) == (0, 0)
    assert net.heard(says(small, 2, models=5)) == [Joined]
    with pytest.raises(AdvertRejected, match="would take"):
        net.heard(says(small, 3, models=600))
    (advert,) = net.hearing.members.members().values()
    assert len(advert.models) == 5  # it stays what it was


@pytest.mark.parametrize("off_ms", [20 * MINUTE_MS, -20 * MINUTE_MS])
def test_router_that_is_20_minutes_off_hears_its_fleet_and_says_whose_clock_is_wrong(
    off_ms: int,
) -> None:
    net = network(off_ms=off_ms)
    net.joined(3)
    skew = net.hearing.clock.skew(net.now.wall_ms, net.now.steady_s)
    assert skew is not None
    assert (skew.ahead_s, skew.voices) == (-off_ms / 1000, 3)


@pytest.mark.parametrize("off_ms", [20 * MINUTE_MS, -20 * MINUTE_MS])
def test_node_whose_clock_is_set_off_goes_on_being_heard_for_its_numbers_go_on(
    off_ms: int,
) -> None:
    net = network()
    node, *_ = net.joined(3)
    for counter in range(2, 9):
        later = net.at(5.0 * counter)
        assert net.heard(says(node, counter, at_ms=later.wall_ms + off_ms), later) == []
        net.hearing.tick(later, lambda _: False)
        assert not net.hearing.members.is_suspected(node.identity.peer_id)
    assert node.identity.peer_id in net.hearing.members


def test_known_node_that_begins_anew_with_a_clock_ahead_is_refused_and_heard_once_it_is_right() -> (
    None
):
    net = network()
    node, *_ = net.joined(3)
    ahead_ms = T + 25 * MINUTE_MS
    with pytest.raises(AdvertRejected, match="which is known, began anew 1500000 ms ahead"):
        net.heard(says(node, at_ms=ahead_ms, boot_ms=ahead_ms))
    later = net.at(60.0)
    said = says(node, at_ms=later.wall_ms, boot_ms=later.wall_ms)
    assert Changed in net.heard(said, later)


@pytest.mark.parametrize("kind", [KIND_ADVERT, KIND_GOODBYE])
def test_node_that_was_ahead_as_this_machine_was_is_heard_again_once_both_are_right(
    kind: str,
) -> None:
    net = network(off_ms=25 * MINUTE_MS)
    node, ahead_ms = joined(), T + 25 * MINUTE_MS
    for counter, said in enumerate((KIND_ADVERT, kind), start=1):
        net.heard(says(node, counter, at_ms=ahead_ms, boot_ms=ahead_ms, kind=said))
    later = net.at(5.0, off_ms=-25 * MINUTE_MS)
    change, *_ = net.heard(says(node, at_ms=T, boot_ms=T), later)
    assert change is (Changed if kind == KIND_ADVERT else Joined)
    assert net.heard(says(node, 2, at_ms=T, boot_ms=T, kind=KIND_GOODBYE), later) == [Left]


def test_goodbye_recorded_at_the_time_that_a_wrong_clock_shows_removes_nobody() -> None:
    off_ms = 20 * MINUTE_MS
    net = network(off_ms=-off_ms)
    node, *_ = net.joined(3)
    recorded = says(node, at_ms=T - off_ms, boot_ms=T - off_ms, kind=KIND_GOODBYE)
    with contextlib.suppress(AdvertRejected):
        assert net.heard(recorded) == []
    assert node.identity.peer_id in net.hearing.members
    skew = net.hearing.skew(net.now)
    assert skew is not None
    assert skew.voices == 3


def test_router_whose_clock_jumps_forty_days_ahead_keeps_its_members_and_one_alone_does_not() -> (
    None
):
    net = network()
    node, *_ = net.joined(3)
    later = net.at(10, off_ms=40 * 24 * 60 * MINUTE_MS)
    assert net.heard(says(node, 2, at_ms=T + 10_000), later) == []
    assert net.heard(says(joined(), at_ms=T + 10_000), later) == [Joined]
    with pytest.raises(AdvertRejected, match="expired"):
        network().heard(says(joined()), later)


def test_mesh_s_clock_stands_still_until_it_is_resumed_and_while_it_is_paused() -> None:
    passed_s = 0.0
    clocks = Clocks(wall_ns=lambda: int((1_000 + passed_s) * 1e9), steady_s=lambda: 50.0 + passed_s)
    passed_s = 1.0
    assert clocks.now() == Now(1_001_000, 51.0, 0.0)
    clocks.resume()
    passed_s = 2.0
    assert clocks.now() == Now(1_002_000, 52.0, 1.0)
    clocks.pause()
    passed_s = 3.0
    assert clocks.now() == Now(1_003_000, 53.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=30))
def test_mesh_time_is_the_time_that_was_up_and_never_goes_back(
    steps: list[tuple[bool, int]],
) -> None:
    now_s, up_s, is_up = 1000, 0, False
    clock = MeshClock(now_s)
    for turns_up, wait_s in steps:
        (clock.resume if turns_up else clock.pause)(now_s)
        is_up = turns_up
        for _ in range(wait_s):
            now_s += 1
            up_s += is_up
            assert clock.now_s(now_s) == up_s
