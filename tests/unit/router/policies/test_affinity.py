from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, fleet, lose, name, picks, replica, usable

from capamesh.protocol.ids import ModelVersion
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import affinity
from capamesh.router.policies.affinity import BOUND, Affinity
from capamesh.router.policies.p2c import PowerOfTwo

KEYS = [f"key-{index}" for index in range(2000)]


def pick(policy: Affinity, replicas: tuple[Replica, ...], key: str, now_s: float = 0.0) -> str:
    return name(policy.pick(replicas, usable, SHAPE.replace(affinity=key), now_s))


def placed(replicas: tuple[Replica, ...], seed: int = 1) -> dict[str, str]:
    policy = Affinity(random.Random(seed))
    return {key: pick(policy, replicas, key) for key in KEYS}


def test_keys_are_placed_by_their_text_and_the_nodes_names_alone() -> None:
    assert "".join(list(placed(fleet("abcd")).values())[:24]) == "aadcdadcacdcdcddcaabdcba"
    assert placed(fleet("abcd"), 1) == placed(fleet("dbca"), 2)


def test_replicas_share_the_keys_about_evenly() -> None:
    counts = Counter(placed(fleet("abcdefgh")).values())
    assert len(counts) == 8
    assert all(150 < count < 350 for count in counts.values())


def test_key_stays_while_its_replica_is_eligible_and_returns_with_it() -> None:
    replicas = fleet("abcd")
    policy = Affinity(random.Random(1))
    home = pick(policy, replicas, "session")
    assert {pick(policy, replicas, "session", now_s) for now_s in range(50)} == {home}
    mine = next(one for one in replicas if name(one) == home)
    link = mine.endpoint.link
    lose(mine)
    away = {pick(policy, replicas, "session", now_s) for now_s in range(50)}
    assert len(away) == 1
    assert home not in away
    mine.endpoint.link = link
    assert pick(policy, replicas, "session") == home


def test_departure_of_one_of_eight_moves_only_its_keys_and_spreads_them_over_all() -> None:
    replicas = fleet("abcdefgh")
    policy = Affinity(random.Random(1))
    before = {key: pick(policy, replicas, key) for key in KEYS}
    after = {key: pick(policy, replicas[1:], key) for key in KEYS}
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "a"}
    assert 1 / 16 < len(moved) / len(KEYS) < 1 / 5
    heirs = Counter(after[key] for key in moved)
    assert len(heirs) == 7
    assert max(heirs.values()) < len(moved) / 2
    back = (*replicas[1:], replica("a"))  # it returns as another replica of the same node
    assert {key: pick(policy, back, key) for key in KEYS} == before


def test_replica_that_is_not_eligible_moves_the_same_keys_as_one_that_has_left() -> None:
    replicas = fleet("abcdefgh")
    lose(replicas[3])
    assert placed(replicas) == placed(replicas[:3] + replicas[4:])


def test_newcomer_takes_about_its_share_and_nothing_else_moves() -> None:
    replicas = fleet("abcdefgh")
    before, after = placed(replicas[:-1]), placed(replicas)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} == {"h"}
    assert 1 / 16 < len(moved) / len(KEYS) < 1 / 5


def test_workers_of_one_node_share_its_keys_and_are_reported_apart() -> None:
    pair = (replica("a"), replica("a"))
    assert pair[0].endpoint.peer == pair[1].endpoint.peer
    policy = Affinity(random.Random(1))
    shape = [SHAPE.replace(affinity=key) for key in KEYS]
    homes = [policy.pick(pair, usable, one, 0.0) for one in shape]
    counts = Counter(homes)
    assert min(counts[pair[0]], counts[pair[1]]) > 700
    left = pair[1:]
    assert {policy.pick(left, usable, one, 0.0) for one in shape} == {pair[1]}
    again = (*left, replica("a"))  # takes the place of the worker that left
    homes_again = [policy.pick(again, usable, one, 0.0) for one in shape]
    assert [home is pair[1] for home in homes_again] == [home is pair[1] for home in homes]


def test_replica_over_its_bound_spills_to_the_next_on_the_ring_and_keeps_what_it_has() -> None:
    replicas = fleet("abcd")
    policy = Affinity(random.Random(1))
    home = pick(policy, replicas, "hot")
    one = {name(each): each for each in replicas}
    chain: list[str] = []
    for _ in range(40):
        chain.append(pick(policy, replicas, "hot"))
        one[chain[-1]].rif += 1
        mean = sum(each.rif for each in replicas) / 4
        assert max(each.rif for each in replicas) <= math.ceil(1.25 * mean)
    assert chain[0] == home
    assert set(chain) == set("abcd")
    one[home].rif = 0
    assert pick(policy, replicas, "hot") == home


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12),
    st.lists(st.sampled_from(KEYS[:5]), max_size=40),
    st.randoms(use_true_random=False),
)
def test_no_request_goes_over_the_bound_whatever_is_in_flight(
    state: list[tuple[int, bool]], keys: list[str], rng: random.Random
) -> None:
    replicas = fleet([rif for rif, _ in state])
    lose(*[one for one, (_, is_up) in zip(replicas, state, strict=True) if not is_up])
    eligible = [one for one in replicas if usable(one)]
    policy = Affinity(random.Random(1))
    for key in keys:
        picked = policy.pick(replicas, usable, SHAPE.replace(affinity=key), 0.0)
        if picked is None:
            assert not eligible
            return
        assert picked in eligible
        total = sum(one.rif for one in replicas) + 1
        assert picked.rif < math.ceil(BOUND * total / len(eligible))
        picked.rif += 1
        ended = rng.choice(replicas)
        ended.rif = max(0, ended.rif - rng.randrange(2))


def test_bound_of_a_large_fleet_is_off_by_no_more_than_what_changed_since_the_last_count() -> None:
    replicas = fleet([0] * 1000)
    policy = Affinity(random.Random(1))
    rng = random.Random(2)
    in_flight: list[Replica] = []
    for index in range(4000):
        shape = SHAPE.replace(affinity=KEYS[int(rng.random() ** 3 * 300)])
        picked = policy.pick(replicas, usable, shape, index * 0.001)
        assert picked is not None
        assert picked.rif < math.ceil(1.25 * (len(in_flight) + 17) / 1000)
        picked.rif += 1
        in_flight.append(picked)
        if index > 2500:
            in_flight.pop(rng.randrange(len(in_flight))).rif -= 1


@pytest.fixture
def half_lost() -> tuple[Affinity, tuple[Replica, ...]]:
    """A policy that has just counted 200 replicas, of which half then fall out; the others have 4 in flight each."""
    replicas = fleet([2] * 200)
    policy = Affinity(random.Random(1))
    pick(policy, replicas, "k", 0.0)
    lose(*replicas[:100])
    for one in replicas[100:]:
        one.rif = 4
    return policy, replicas


def test_bound_follows_within_a_tenth_of_a_second_when_half_the_fleet_falls_out(
    half_lost: tuple[Affinity, tuple[Replica, ...]],
) -> None:
    policy, replicas = half_lost
    # as counted, 200 replicas may have 3 or 4 each: nobody has room, and the first of the least busy is taken
    assert {pick(policy, replicas, key, 0.05) for key in KEYS[:5]} == {"100"}
    assert len({pick(policy, replicas, key, 0.11) for key in KEYS[:5]}) == 5


def test_change_of_the_fleet_is_counted_at_once(
    half_lost: tuple[Affinity, tuple[Replica, ...]],
) -> None:
    policy, replicas = half_lost
    assert len({pick(policy, replicas[1:], key, 0.05) for key in KEYS[:5]}) == 5


def test_requests_in_flight_of_a_large_fleet_are_summed_up_at_each_sixty_fourth_of_it() -> None:
    replicas = fleet([4] * 640)
    policy = Affinity(random.Random(1))
    home = pick(policy, replicas, "k")
    for one in replicas:
        one.rif = 5 if name(one) == home else 0
    homes = [pick(policy, replicas, "k") == home for _ in range(20)]
    assert homes == [True] * 9 + [False] * 11


def test_dead_fleet_but_for_one_replica_still_finds_it() -> None:
    replicas = fleet([3] * 300)
    lose(*replicas[:299])
    policy = Affinity(random.Random(1))
    assert {pick(policy, replicas, key, 1.0) for key in KEYS[:20]} == {"299"}
    lose(replicas[299])
    assert pick(policy, replicas, "k", 2.0) == "-"
    assert pick(policy, (), "k", 2.0) == "-"


def test_requests_without_a_key_go_as_with_power_of_two() -> None:
    replicas = fleet([4, 0, 2, 1])
    assert picks(Affinity(random.Random(7)), replicas, 50) == picks(
        PowerOfTwo(random.Random(7)), replicas, 50
    )
    lose(*replicas)
    assert picks(Affinity(random.Random(7)), replicas, 1) == "-"


@pytest.mark.parametrize("key", ["\ud800", "\0", "ü", "x" * 10_000])
def test_any_text_is_a_key(key: str) -> None:
    replicas = fleet("abcd")
    assert pick(Affinity(random.Random(1)), replicas, key) == pick(
        Affinity(random.Random(2)), replicas, key
    )


class Watched(tuple[Replica, ...]):
    """Counts how often it is walked through."""

    __slots__ = ()
    walks: ClassVar[list[int]] = []

    def __iter__(self) -> Iterator[Replica]:
        self.walks.append(1)
        return super().__iter__()


def test_idle_fleet_that_is_the_same_as_before_is_not_walked_through() -> None:
    replicas = Watched(fleet("abcd"))
    policy = Affinity(random.Random(1))
    pick(policy, replicas, "k")
    Watched.walks.clear()
    for key in KEYS[:50]:
        pick(policy, replicas, key)
    assert Watched.walks == []


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes whose points were reckoned."""
    nodes: list[str] = []
    points: Callable[[str, int], list[int]] = affinity._points  # type: ignore[assignment]

    def noted(peer: str, number: int) -> list[int]:
        nodes.append(peer)
        return points(peer, number)

    monkeypatch.setattr(affinity, "_points", noted)
    return nodes


def test_points_are_reckoned_once_for_those_that_come_and_go_and_not_for_each_pick(
    hashed: list[str],
) -> None:
    replicas = fleet("abcd")
    policy = Affinity(random.Random(1))
    for key in KEYS[:50]:
        pick(policy, replicas, key)
    assert hashed == ["a", "b", "c", "d"]
    hashed.clear()
    for key in KEYS[:50]:
        pick(policy, (*replicas[1:], replica("e")), key)
        break
    assert sorted(hashed) == ["a", "e"]


def test_versions_asked_for_in_turn_keep_their_rings_up_to_a_bound(hashed: list[str]) -> None:
    policy = Affinity(random.Random(1))
    fleets = {str(version): fleet("abc") for version in range(affinity.MAX_RINGS + 1)}

    def ask(version: str) -> None:
        shape = SHAPE.replace(affinity="k", version=ModelVersion(version))
        policy.pick(fleets[version], usable, shape, 0.0)

    kept = list(fleets)[: affinity.MAX_RINGS]
    for version in kept * 3:
        ask(version)
    assert len(hashed) == 3 * affinity.MAX_RINGS
    ask(str(affinity.MAX_RINGS))  # drops the oldest
    hashed.clear()
    ask(kept[1])
    assert hashed == []
    ask(kept[0])
    assert len(hashed) == 3


def test_sequence_stays_with_its_replica_however_much_that_has_to_do() -> None:
    replicas = fleet("abcd")
    policy = Affinity(random.Random(1))
    shape = SHAPE.replace(affinity="sequence 7", is_pinned=True)
    first = policy.pick(replicas, usable, shape, 0.0)
    assert first is not None
    first.rif = 1_000
    assert policy.pick(replicas, usable, shape, 0.0) is first
    free = shape.replace(is_pinned=False)
    assert policy.pick(replicas, usable, free, 0.0) is not first
    lose(first)
    assert policy.pick(replicas, usable, shape, 0.0) not in {None, first}


def test_previews_do_not_hasten_the_next_count_of_the_eligible() -> None:
    """Half of a fleet falls out: the bound follows with the next count, twenty picks after the last."""

    def run(*, is_previewed: bool) -> list[str]:
        policy, replicas = Affinity(random.Random(0)), fleet([4] * 160)
        picked: list[str] = []
        for step in range(60):
            if step == 5:
                lose(*replicas[::2])
            if is_previewed:
                policy.preview(replicas, usable, SHAPE.replace(affinity="k"), 1.0, random.Random(0))
            one = policy.pick(replicas, usable, SHAPE.replace(affinity="k"), 1.0)
            assert one is not None
            one.rif += 1
            picked.append(one.endpoint.peer)
        return picked

    assert run(is_previewed=True) == run(is_previewed=False)
