from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import SHAPE, replica, send, tell, usable

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import POLICIES, make_policy
from capamesh.router.policies.prequal.policy import (
    FRESH_S,
    LOOKED_AT,
    MIN_PROBE_S,
    PROBE_TRIES,
    SMALL_FLEET,
    Prequal,
    done_s,
)
from capamesh.router.policies.prequal.pool import MAX_AGE_S, MAX_POOL


def fleet(count: int) -> tuple[Replica, ...]:
    return tuple(replica(str(number)) for number in range(count))


def cost_s(policy: Prequal, one: Replica, now_s: float = 0.0) -> float:
    """Return in how long a request would be done there."""
    return done_s([policy.pool.entry(one)], 8, now_s)[0]


def names(replicas: Sequence[Replica]) -> list[str]:
    return [one.endpoint.peer for one in replicas]


def counted(
    is_eligible: Callable[[Replica], bool],
) -> tuple[Callable[[Replica], bool], list[Replica]]:
    asked: list[Replica] = []

    def rule(one: Replica) -> bool:
        asked.append(one)
        return is_eligible(one)

    return rule, asked


def test_prequal_is_the_policy_of_that_name() -> None:
    assert POLICIES["prequal"] is Prequal
    assert repr(make_policy("prequal", random.Random(0))).startswith("Prequal(ProbePool(0 of 16")


def test_empty_fleet_has_no_pick_and_no_probe() -> None:
    policy = Prequal(random.Random(0))
    assert policy.pick((), usable, SHAPE, 0.0) is None
    assert list(policy.probes((), usable, 0.0)) == []
    for count in (1, 3, 24, 25, 100):
        assert policy.pick(fleet(count), lambda _: False, SHAPE, 0.0) is None


# what one more request would take


def test_time_expected_is_the_run_and_twice_the_wait_and_the_way_there() -> None:
    policy, one = Prequal(random.Random(0)), replica("a", rtt_s=0.003)
    tell(policy, one, rif=2, run_us=10_000)  # waits 15 ms, for others' requests
    assert cost_s(policy, one) == pytest.approx(0.010 + 2 * 0.015 + 0.003)
    send(policy, one, 0.0)
    assert cost_s(policy, one) == pytest.approx(0.010 + 2 * 0.025 + 0.003)
    one.rif -= 1
    assert cost_s(policy, one) == pytest.approx(0.010 + 2 * 0.015 + 0.003)


def test_requests_that_run_beside_each_other_share_the_wait() -> None:
    policy, one = Prequal(random.Random(0)), replica("a")
    tell(policy, one, rif=4, queued=0, run_us=8000)  # a half run is left, and four run together
    before = cost_s(policy, one)
    send(policy, one, 0.0)
    assert cost_s(policy, one) - before == pytest.approx(2 * 0.002)


def test_replica_that_never_reported_costs_nothing_but_the_way_until_a_request_is_under_way_there() -> (
    None
):
    policy, one = Prequal(random.Random(0)), replica("a", rtt_s=0.02)
    assert cost_s(policy, one) == 0.02
    one.rif = 2
    assert cost_s(policy, one) == 2.02


def test_old_report_of_an_idle_replica_is_doubted() -> None:
    policy, one = Prequal(random.Random(0)), replica("a")
    tell(policy, one, 5.0, run_us=2_000_000)
    assert cost_s(policy, one, 6.0) == 2.0
    assert cost_s(policy, one, 16.0) == pytest.approx(2.0 / math.e)
    tell(policy, one, 16.0, run_us=2_000_000)  # it ran nothing since
    assert cost_s(policy, one, 16.0) == pytest.approx(2.0 / math.e)
    tell(policy, one, 16.0, run_us=1_800_000)
    assert cost_s(policy, one, 16.0) == 1.8
    one.rif = 1  # busy: not a moment for doubts
    assert cost_s(policy, one, 99.0) > 1.8


def test_answer_that_came_sooner_than_an_idle_replica_says_is_believed_for_a_second() -> None:
    policy, one = Prequal(random.Random(0)), replica("a", rtt_s=0.002)
    tell(policy, one, 5.0, run_us=2_000_000)
    peak_ewma.observe(one, 0.012, 5.0)
    assert cost_s(policy, one, 5.0) == pytest.approx(0.012)
    assert cost_s(policy, one, 6.0) == pytest.approx(2.002)
    peak_ewma.observe(one, 9.0, 6.0)
    assert cost_s(policy, one, 6.0) == pytest.approx(2.002)


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.floats(0, 100),
)
def test_time_expected_is_never_negative_nor_infinite_and_grows_with_what_is_sent(
    rif: int, own: int, queue_us: int, run_us: int, now_s: float
) -> None:
    policy, one = Prequal(random.Random(0)), replica("a")
    one.rif = own
    one.reported(LoadReport(rif, rif // 2, 9, queue_us, run_us, 0), 0.0)
    policy.reported(one, 0.0)
    before = 0.0
    for one.rif in range(60):
        expected = cost_s(policy, one, now_s)
        assert before <= expected < math.inf
        before = expected


# small fleets


def test_small_fleet_sends_where_it_is_done_soonest() -> None:
    policy, (slow, fast, busy) = Prequal(random.Random(0)), fleet(3)
    replicas = (slow, fast, busy)
    tell(policy, slow, run_us=30_000)
    tell(policy, fast, run_us=10_000)
    tell(policy, busy, rif=9, run_us=5000)
    picks: list[str] = []
    for at in range(6):
        picked = policy.pick(replicas, usable, SHAPE, 0.001 * at)
        assert picked is not None
        send(policy, picked, 0.001 * at)
        picks += picked.endpoint.peer
    # 10 ms at the fast one, 30 ms at it and at the slow one in turn, 50 and 70 ms, then 90 ms at all three
    assert "".join(picks) == "101112"


def test_equal_replicas_take_turns_even_where_their_figures_differ_a_little() -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(5)
    for number, one in enumerate(replicas):
        tell(policy, one, run_us=10_000 + 150 * number)
    order: list[str] = []
    for at in range(15):
        picked = policy.pick(replicas, usable, SHAPE, at / 100)
        assert picked is not None
        send(policy, picked, at / 100)
        order += picked.endpoint.peer
        picked.rif -= 1
    assert "".join(order) == "012340123401234"


def test_new_replica_is_tried_by_one_request_at_a_time() -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(4)
    for one in replicas[:3]:
        tell(policy, one, run_us=10_000)
    picks: list[str] = []
    for at in range(7):
        picked = policy.pick(replicas, usable, SHAPE, at / 1000)
        assert picked is not None
        send(policy, picked, at / 1000)
        picks += picked.endpoint.peer
    assert "".join(picks) == "3012012"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 9), st.integers(0, 9), st.integers(1, 50_000), st.booleans()),
        min_size=1,
        max_size=SMALL_FLEET,
    )
)
def test_small_fleet_has_no_eligible_replica_done_much_sooner_and_each_is_asked_at_most_once(
    states: list[tuple[int, int, int, bool]],
) -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(len(states))
    for one, (reported, own, run_us, _) in zip(replicas, states, strict=True):
        one.rif = own
        if reported >= 0:
            tell(policy, one, rif=reported, run_us=run_us)
    good = {one for one, state in zip(replicas, states, strict=True) if state[3]}
    rule, asked = counted(good.__contains__)
    picked = policy.pick(replicas, rule, SHAPE, 0.0)
    assert len(asked) == len(set(asked))
    if picked is None:
        assert not good
    else:
        soonest = min(cost_s(policy, one) for one in good)
        assert picked in good
        assert cost_s(policy, picked) <= 1.1 * soonest


# fleets with a pool


def large(count: int = 100, seed: int = 0) -> tuple[Prequal, tuple[Replica, ...]]:
    policy, replicas = Prequal(random.Random(seed)), fleet(count)
    policy.pick(replicas, usable, SHAPE, 0.0)
    return policy, replicas


def test_soonest_done_of_the_pool_is_picked_and_its_entry_compensated() -> None:
    policy, replicas = large()
    for number, run_us in ((3, 10_000), (5, 12_000), (7, 50_000)):
        tell(policy, replicas[number], run_us=run_us)
    picks: list[str] = []
    for _ in range(4):
        picked = policy.pick(replicas, usable, SHAPE, 0.1)
        assert picked is not None
        send(policy, picked, 0.1)
        picks += picked.endpoint.peer
    assert "".join(picks) == "3535"  # 10, 12, 30, 36, then 50 ms


def test_network_counts() -> None:
    policy, replicas = large()
    tell(policy, replicas[3], run_us=10_000)
    tell(policy, replicas[5], run_us=12_000)
    replicas[3].endpoint.network.rtt_s = 0.005
    assert policy.pick(replicas, usable, SHAPE, 0.0) is replicas[5]


def test_ineligible_entry_is_passed_over_and_kept_and_a_gone_one_forgotten() -> None:
    policy, replicas = large()
    for number in range(4):
        tell(policy, replicas[number], run_us=10_000 + number)
    replicas[0].endpoint.is_draining = True
    assert policy.pick(replicas, usable, SHAPE, 0.0) is replicas[1]
    assert replicas[0] in policy.pool
    replicas[1].is_gone = True
    assert policy.pick((replicas[0], *replicas[2:]), usable, SHAPE, 0.0) is replicas[2]
    assert replicas[1] not in policy.pool


@pytest.mark.parametrize("age_s", [0.0, MAX_AGE_S + 0.01])
def test_pool_without_a_choice_falls_back_to_a_few_replicas_drawn(age_s: float) -> None:
    policy, replicas = large(200, seed=5)
    tell(policy, replicas[0], run_us=9_000_000)
    if age_s:
        tell(policy, replicas[1], run_us=10)
    rule, asked = counted(usable)
    picked = policy.pick(replicas, rule, SHAPE, age_s)
    assert picked not in {replicas[0], replicas[1], None}  # one that is new
    assert len(asked) <= 10


def test_lone_entry_is_compared_in_the_fall_back_too() -> None:
    policy, replicas = large()
    for one in replicas:
        one.rif = 3
    tell(policy, replicas[8], run_us=10)
    assert policy.pick(replicas, usable, SHAPE, 0.5) is replicas[8]
    assert policy.pick(replicas, lambda one: one is replicas[2], SHAPE, 0.5) is replicas[2]


def test_new_replicas_are_not_herded_onto() -> None:
    policy, replicas = large()
    counts: Counter[Replica] = Counter()
    for _ in range(60):
        picked = policy.pick(replicas, usable, SHAPE, 0.0)
        assert picked is not None
        counts[picked] += 1
        send(policy, picked, 0.0)
    assert len(counts) > 45
    assert max(counts.values()) <= 2


def test_pick_asks_for_the_eligibility_of_two_replicas_mostly_and_never_of_more_than_the_pools() -> (
    None
):
    policy, replicas = large(1000)
    for number in range(MAX_POOL + 4):
        tell(policy, replicas[number], run_us=1000 + number)
    rule, asked = counted(usable)
    assert policy.pick(replicas, rule, SHAPE, 0.0) is replicas[4]  # the pool's oldest four went
    assert names(asked) == ["4", "5"]
    last = {replicas[MAX_POOL + 2], replicas[MAX_POOL + 3]}
    rule, asked = counted(last.__contains__)
    assert policy.pick(replicas, rule, SHAPE, 0.0) is replicas[MAX_POOL + 2]
    assert len(asked) == MAX_POOL


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 39), st.integers(0, 20), st.integers(1, 50_000)), max_size=40
    ),
    st.sets(st.integers(0, 39)),
    st.integers(0, 99),
)
def test_pick_is_eligible_and_there_is_one_whenever_a_replica_is_eligible(
    reports: list[tuple[int, int, int]], bad: set[int], seed: int
) -> None:
    policy, replicas = Prequal(random.Random(seed)), fleet(40)
    for number, rif, run_us in reports:
        tell(policy, replicas[number], rif=rif, run_us=run_us)
    good = {one for number, one in enumerate(replicas) if number not in bad}
    picked = policy.pick(replicas, good.__contains__, SHAPE, 0.0)
    assert picked in good if good else picked is None
    usables = [one for one in policy.pool._pooled if one in good]
    if len(usables) > 1:
        assert picked is min(usables, key=lambda one: cost_s(policy, one))


def test_same_seed_makes_the_same_choices() -> None:
    def run(seed: int) -> list[str]:
        policy, replicas = Prequal(random.Random(seed)), fleet(60)
        rng, trace = random.Random(9), list[str]()
        for at in range(200):
            now_s = at / 500
            picked = policy.pick(replicas, usable, SHAPE, now_s)
            assert picked is not None
            send(policy, picked, now_s)
            probed = list(policy.probes(replicas, usable, now_s))
            trace += [picked.endpoint.peer, *names(probed)]
            for one in probed:
                tell(policy, one, now_s, rif=rng.randrange(5), run_us=rng.randrange(1, 9999))
        return trace

    assert run(4) == run(4)
    assert run(4) != run(5)


def test_change_of_the_fleet_forgets_who_left_and_the_mode_follows() -> None:
    policy, replicas = large(30)
    for one in replicas:
        tell(policy, one)
    assert (policy.pool.size, len(policy.pool.known)) == (15, 30)
    few = replicas[:5]
    assert policy.pick(few, usable, SHAPE, 0.0) is replicas[0]
    assert (policy.pool.size, list(policy.pool.known)) == (2, list(few))


# probes


def test_each_request_probes_one_replica() -> None:
    policy, replicas = large(100)
    assert [len(policy.probes(replicas, usable, float(at))) for at in range(100)] == [1] * 100


def test_lone_replica_is_not_probed_for_its_answers_tell_all() -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(1)
    assert not policy.probes(replicas, usable, 100.0)
    assert policy.probes(fleet(2), usable, 100.0)


def test_probes_go_to_all_replicas_uniformly() -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(100)
    counts: Counter[Replica] = Counter()
    for at in range(9000):
        (probed,) = policy.probes(replicas, usable, float(at))
        counts[probed] += 1
    assert len(counts) == 100
    assert 50 < min(counts.values()) < max(counts.values()) < 135  # 90 on average


def test_replica_is_not_asked_while_its_report_is_fresh_or_a_probe_is_under_way() -> None:
    policy, replicas = Prequal(random.Random(0)), fleet(2)
    one = replicas[0]

    def is_asked(now_s: float) -> bool:
        return list(policy.probes(replicas, lambda replica, _: replica is one, now_s)) == [one]

    tell(policy, one, 1.0)
    assert not is_asked(1.0 + FRESH_S * 0.9)
    assert is_asked(1.0 + FRESH_S * 1.1)
    assert not is_asked(1.02)  # under way
    tell(policy, one, 1.03)
    assert is_asked(1.04)
    assert not is_asked(1.04 + MIN_PROBE_S * 0.9)
    assert is_asked(1.04 + MIN_PROBE_S * 1.1)  # no answer came
    one.endpoint.network.rtt_s = 0.1
    assert not is_asked(1.4)
    assert is_asked(1.51)


def test_probes_go_to_eligible_replicas_even_where_few_are_and_never_look_at_all() -> None:
    policy, replicas = Prequal(random.Random(1)), fleet(1000)
    good = set(replicas[::20])
    found = 0
    for at in range(50):
        rule, asked = counted(good.__contains__)
        probed = list(policy.probes(replicas, lambda one, _: rule(one), float(at)))  # noqa: B023
        assert set(probed) <= good
        assert len(asked) <= LOOKED_AT + PROBE_TRIES
        found += len(probed)
    assert found > 40
    assert policy.probes(replicas, lambda *_: False, 99.0) == ()
