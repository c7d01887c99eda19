from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, fleet, lose, name, replica, usable

from capamesh.protocol.ids import ModelVersion
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import affinity
from capamesh.router.policies.affinity import BOUND, Affinity

KEYS = [f"key-{index}" for index in range(2000)]


def pick(policy: Affinity, replicas: tuple[Replica, ...], key: str, now_s: float = 0.0) -> str:
    return name(policy.pick(replicas, usable, SHAPE.replace(affinity=key), now_s))


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


def test_bound_follows_within_a_tenth_of_a_second_when_half_the_fleet_falls_out() -> None:
    replicas, policy = fleet([2] * 200), Affinity(random.Random(1))
    pick(policy, replicas, "k", 0.0)
    lose(*replicas[:100])
    for one in replicas[100:]:
        one.rif = 4
    # as counted, 200 replicas may have 3 or 4 each: nobody has room, and the first of the least busy is taken
    assert {pick(policy, replicas, key, 0.05) for key in KEYS[:5]} == {"100"}
    assert len({pick(policy, replicas, key, 0.11) for key in KEYS[:5]}) == 5


def test_versions_asked_for_in_turn_keep_their_rings_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[str] = []
    points: Any = affinity._points
    monkeypatch.setattr(
        affinity, "_points", lambda peer, number: hashed.append(peer) or points(peer, number)
    )
    policy = Affinity(random.Random(1))
    fleets = [fleet("abc") for _ in range(affinity.MAX_RINGS + 1)]

    def ask(version: int) -> int:
        """Return how many nodes were placed on a ring for a request of a version."""
        hashed.clear()
        shape = SHAPE.replace(affinity="k", version=ModelVersion(str(version)))
        policy.pick(fleets[version], usable, shape, 0.0)
        return len(hashed)

    asked = [ask(version) for version in [*range(affinity.MAX_RINGS)] * 3]
    assert asked == [3] * affinity.MAX_RINGS + [0] * (2 * affinity.MAX_RINGS)
    assert [ask(version) for version in (affinity.MAX_RINGS, 1, 0)] == [3, 0, 3]  # the oldest went
