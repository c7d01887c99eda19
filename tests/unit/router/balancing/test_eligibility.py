from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from fleet_fakes import device
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import fleet, lose, replica

from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.eligibility import (
    DEADLINE_DOUBT,
    Eligibility,
    may_be_probed,
    refusal,
)
from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import (
    EJECTED_S,
    RAMP_FROM,
    RAMP_S,
    TRIAL_EVERY_S,
    CircuitState,
)
from capamesh.router.rules.constraints import ANYWHERE, Constraints, device_kinds

NOW_S = 100.0


def gone(one: Replica) -> None:
    one.set_gone()


def away(one: Replica) -> None:
    one.set_away(True)


def retired(one: Replica) -> None:
    one.endpoint.is_retired = True


def unlinked(one: Replica) -> None:
    lose(one)


def goaway(one: Replica) -> None:
    one.endpoint.link.is_usable = False  # type: ignore[union-attr,misc]


def draining(one: Replica) -> None:
    one.endpoint.is_draining = True


def suspected(one: Replica) -> None:
    one.endpoint.is_suspected = True


def inhibited(one: Replica) -> None:
    one.endpoint.health.failed(NOW_S - 0.3, is_hard=True, cause="link lost")


def model_failed(one: Replica) -> None:
    one.health.failed(NOW_S - 0.09, is_hard=False, cause="run_failed: no memory")


def ejected(one: Replica) -> None:
    one.health.eject(NOW_S - 2.0, "90% of 40 requests failed, 0% elsewhere")


def forced_open(one: Replica) -> None:
    one.health.hold(CircuitState.FORCED_OPEN)


def forced_closed(one: Replica) -> None:
    inhibited(one)
    one.endpoint.health.hold(CircuitState.FORCED_CLOSED)


def ramping(one: Replica) -> None:
    one.health.failed(NOW_S - 6.0, is_hard=True)  # for 5 s, then half of a ramp


def slow(one: Replica) -> None:
    one.reported(LoadReport(latency_us=120_000), NOW_S)


STATES: list[tuple[Callable[[Replica], None], str]] = [
    (gone, "it hosts the model no more"),
    (away, "it loads the model again"),
    (retired, "it left the fleet"),
    (unlinked, "no link"),
    (goaway, "its link takes no new requests"),
    (draining, "draining"),
    (suspected, "suspected: not heard of lately"),
    (inhibited, "inhibited: link lost, 0.3 s ago"),
    (model_failed, "inhibited: run_failed: no memory, 0.1 s ago"),
    (ejected, "ejected: 90% of 40 requests failed, 0% elsewhere, 2.0 s ago"),
    (forced_open, "operator holds it open"),
    (forced_closed, ""),
    (slow, "deadline: 40 ms left, 120 ms expected"),
]


@pytest.mark.parametrize(("put", "reason"), STATES, ids=[put.__name__ for put, _ in STATES])
def test_each_refusal_says_why(put: Callable[[Replica], None], reason: str) -> None:
    one = replica()
    assert refusal(one, ANYWHERE, (), NOW_S, 0.04) == ""
    put(one)
    assert refusal(one, ANYWHERE, (), NOW_S, 0.04) == reason
    assert Eligibility(deadline_s=NOW_S + 0.04, now_s=NOW_S).allows(one) == (reason == "")


def test_replica_that_was_asked_is_not_asked_again() -> None:
    one = replica()
    assert refusal(one, ANYWHERE, {one}, NOW_S, 1.0) == "it was asked already"
    assert refusal(one, ANYWHERE, {replica()}, NOW_S, 1.0) == ""


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        (Constraints(max_price=1.5), ""),
        (Constraints(max_price=1.0), "price 1.5 is over the cap 1.0"),
        (Constraints(regions=frozenset({"eu", "us"})), ""),
        (Constraints(regions=frozenset({"us"})), "region eu is not us"),
        (Constraints(regions=frozenset({"us", "ap"})), "region eu is not one of ap, us"),
        (Constraints(regions=frozenset()), "region eu is not any that is allowed"),
        (Constraints(device_kinds=frozenset({"cpu"})), ""),
        (Constraints(device_kinds=frozenset({"cuda"})), "device cpu is not cuda"),
        (Constraints(peers=frozenset({PeerId("a")})), ""),
        (Constraints(not_at=frozenset({PeerId("b")})), ""),
        (
            Constraints(not_at=frozenset({PeerId("a"), PeerId("b")})),
            "the request is for another node than this one",
        ),
        (
            Constraints(peers=frozenset({PeerId("b")})),
            "not one of the nodes that the request names",
        ),
    ],
)
def test_constraints_of_the_request_are_met_or_refused(
    constraints: Constraints, reason: str
) -> None:
    assert refusal(replica(), constraints, (), NOW_S, 1.0) == reason


def test_price_that_is_no_number_is_over_every_cap() -> None:
    one = replica(price=math.nan)
    assert refusal(one, Constraints(), (), NOW_S, 1.0) == "price nan is over the cap inf"
    assert not Constraints().are_met_by(one.advert, one.endpoint.address)


def test_two_sets_of_constraints_together_are_both() -> None:
    first = Constraints(2.0, frozenset({"eu", "us"}), None, frozenset({PeerId("a")}))
    second = Constraints(3.0, frozenset({"us", "ap"}), frozenset({"cuda"}))
    both = Constraints(2.0, frozenset({"us"}), frozenset({"cuda"}), frozenset({PeerId("a")}))
    assert first.both(second) == second.both(first) == both
    no_a, no_b = (Constraints(not_at=frozenset({PeerId(peer)})) for peer in "ab")
    assert no_a.both(no_b).not_at == {"a", "b"}
    assert first.both(ANYWHERE) is first
    assert ANYWHERE.both(first) is first


def test_device_is_the_address_s_and_for_a_visitor_whichever_it_may_be() -> None:
    one = replica()
    cpu, gpu, dialling = (
        device(0, "a:7000"),
        dataclasses.replace(device(1, "a:7001"), kind="cuda"),
        dataclasses.replace(device(2), kind="npu"),
    )
    one.advert = dataclasses.replace(one.advert, devices=(cpu, gpu, dialling))
    assert device_kinds(one.advert, one.endpoint.address) == {"cpu"}
    one.endpoint.address = "a:7001"
    assert device_kinds(one.advert, one.endpoint.address) == {"cuda"}
    one.endpoint.address = "dialled-in-1"
    assert device_kinds(one.advert, one.endpoint.address) == {"npu"}
    one.advert = dataclasses.replace(one.advert, devices=(cpu, gpu))
    assert device_kinds(one.advert, one.endpoint.address) == {"cpu", "cuda"}
    only_gpus = Constraints(device_kinds=frozenset({"cuda"}))
    assert refusal(one, only_gpus, (), NOW_S, 1.0) == "device cpu or cuda is not cuda"


def test_network_counts_to_what_is_expected_before_the_deadline() -> None:
    far = replica(rtt_s=0.03, row_us=20_000)
    assert refusal(far, ANYWHERE, (), NOW_S, 0.051) == ""
    assert refusal(far, ANYWHERE, (), NOW_S, 0.049) == "deadline: 49 ms left, 50 ms expected"


@pytest.mark.pure
def test_one_request_in_fifty_doubts_that_a_replica_is_too_slow() -> None:
    one = replica()
    slow(one)
    rules = Eligibility(deadline_s=NOW_S + 0.04, now_s=NOW_S, draw=0.019)
    assert rules.allows(one)
    rules.draw = 0.02
    assert not rules.allows(one)


@pytest.mark.parametrize("of_node", [False, True])
def test_recovering_replica_has_the_lucky_part_of_the_requests_also_in_a_panic(
    of_node: bool,
) -> None:
    one = replica()
    health = one.endpoint.health if of_node else one.health
    health.failed(NOW_S - 6.0, is_hard=True)  # for 5 s, then half of a ramp
    assert health.share(NOW_S) == pytest.approx(0.55)
    for is_panicking in (False, True):
        rules = Eligibility(now_s=NOW_S, draw=0.54, is_panicking=is_panicking)
        assert rules.allows(one)
        rules = Eligibility(now_s=NOW_S, draw=0.56, is_panicking=is_panicking)
        assert not rules.allows(one)
        assert rules.refusal(one) == "ramping: 55% of its requests for now"


@pytest.mark.pure
def test_ejections_are_ignored_in_a_panic_and_inhibitions_are_not() -> None:
    out, silent, held = fleet("abc")
    ejected(out)
    inhibited(silent)
    forced_open(held)
    ejected(held)
    rules = Eligibility(now_s=NOW_S)
    assert [rules.allows(one) for one in (out, silent, held)] == [False, False, False]
    rules.is_panicking = True
    assert [rules.allows(one) for one in (out, silent, held)] == [True, False, False]


LEVELS = [slow, suspected, inhibited, ejected]


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_last_resort_is_who_breaks_the_least_of_the_rules(level: int) -> None:
    replicas = fleet("abcd")[level:]
    for one, put in zip(replicas, LEVELS[level:], strict=True):
        put(one)
    rules = Eligibility(deadline_s=NOW_S + 0.04, now_s=NOW_S)
    assert rules.last_resort(replicas[::-1], is_extra=False) is replicas[0]
    worth_it = replicas[0] if level < 2 else None
    assert rules.last_resort(replicas, is_extra=True) is worth_it


def test_soonest_of_the_too_slow_and_first_due_of_the_inhibited_are_picked() -> None:
    slower, sooner, busy = (
        replica(peer, row_us=us) for peer, us in (("a", 90), ("b", 80), ("c", 45))
    )
    busy.rif = 1
    rules = Eligibility(deadline_s=NOW_S, now_s=NOW_S)
    assert rules.last_resort([slower, sooner, busy], is_extra=False) is sooner
    for at_s, one in ((3.0, slower), (1.0, sooner), (2.0, busy)):
        one.health.failed(NOW_S - at_s, is_hard=True)
    assert rules.last_resort([sooner, slower, busy], is_extra=False) is slower


def test_hedge_goes_to_a_replica_that_is_well_however_slow_it_is() -> None:
    one = replica(row_us=3_000_000)
    rules = Eligibility(deadline_s=NOW_S + 1.0, now_s=NOW_S)
    assert not rules.allows(one)
    assert rules.last_resort([one], is_extra=True) is one


def test_ejected_replica_is_as_good_a_last_resort_as_a_slow_one_in_a_panic() -> None:
    out, silent, distrusted = fleet("abc")
    ejected(out)
    inhibited(silent)
    suspected(distrusted)
    rules = Eligibility(now_s=NOW_S, is_panicking=True)
    assert rules.last_resort([silent, distrusted, out], is_extra=True) is out
    assert rules.last_resort([silent, distrusted], is_extra=True) is distrusted
    assert rules.last_resort([silent], is_extra=True) is None


@pytest.mark.parametrize("put", [gone, retired, unlinked, goaway, draining, forced_open])
def test_some_rules_nothing_overrides(put: Callable[[Replica], None]) -> None:
    one = replica()
    put(one)
    rules = Eligibility(now_s=NOW_S, is_panicking=True, draw=0.0)
    assert rules.last_resort([one], is_extra=False) is None
    rules = Eligibility(Constraints(max_price=1.0), now_s=NOW_S)
    assert rules.last_resort([replica()], is_extra=False) is None
    free = replica()
    rules = Eligibility(now_s=NOW_S, asked=[free])
    assert rules.last_resort([free], is_extra=False) is None


ALL = [put for put, _ in STATES] + [ramping]
_constraints = st.builds(
    Constraints,
    st.sampled_from([math.inf, 1.0, 2.0]),
    st.sampled_from([None, frozenset({"eu"}), frozenset({"us"})]),
    st.sampled_from([None, frozenset({"cpu"}), frozenset({"cuda"})]),
    st.sampled_from([None, frozenset({PeerId("a")}), frozenset({PeerId("b")})]),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(ALL), max_size=2),
    st.one_of(st.just(ANYWHERE), _constraints),
    st.booleans(),
    st.sampled_from([math.inf, 1.0, 0.01]),
    st.floats(0, 0.999),
    st.booleans(),
    st.floats(0, 12),
)
def test_fast_answer_is_yes_exactly_when_there_is_no_reason_against(
    puts: list[Callable[[Replica], None]],
    constraints: Constraints,
    is_asked: bool,
    left_s: float,
    draw: float,
    is_panicking: bool,
    later_s: float,
) -> None:
    def fresh() -> tuple[Replica, Eligibility]:
        one = replica()
        for put in puts:
            if not (put is goaway and one.endpoint.link is None):
                put(one)
        now_s = NOW_S + later_s
        asked = (one,) if is_asked else ()
        return one, Eligibility(
            constraints,
            now_s + left_s,
            asked=asked,
            now_s=now_s,
            draw=draw,
            is_panicking=is_panicking,
        )

    one, rules = fresh()  # each on its own: reading a health settles it
    is_allowed = rules.allows(one)
    one, rules = fresh()
    reason = rules.refusal(one)
    assert is_allowed == (reason == "")
    assert rules.allows(one) == is_allowed
    if rules.obstacle(one):
        assert reason == rules.obstacle(one)
    resort = rules.last_resort([one], is_extra=False)
    assert (resort is None) == bool(rules.obstacle(one))


def test_bound_request_waits_for_a_replica_that_rests_recovers_or_is_slow_and_leaves_one_that_is_gone() -> (
    None
):
    def resting(one: Replica) -> None:
        one.health.refused(NOW_S - 0.01, 1.0)

    def slow(one: Replica) -> None:
        one.reported(LoadReport(latency_us=10**9), NOW_S)

    rules = Eligibility(deadline_s=NOW_S + 1.0, now_s=NOW_S, draw=0.99)
    for stays in (resting, slow, suspected):
        one = replica("a")
        stays(one)
        assert not rules.allows(one)
        assert rules.allows_bound(one)
    for leaves in (gone, retired, unlinked, goaway, draining, inhibited, model_failed, ejected):
        one = replica("a")
        leaves(one)
        assert not rules.allows_bound(one)


@pytest.mark.parametrize(
    "put", [unlinked, goaway, draining, retired, gone, inhibited, model_failed, ejected]
)
def test_replica_that_is_gone_or_known_to_fail_is_not_open(
    put: Callable[[Replica], None],
) -> None:
    one = replica("a")
    rules = Eligibility(now_s=NOW_S)
    assert rules.is_open(one)
    put(one)
    assert not rules.is_open(one)


def test_replica_that_rests_recovers_or_is_suspected_or_slow_is_open_unless_it_was_asked() -> None:
    one = replica("a")
    one.health.refused(NOW_S, 1.0)
    one.endpoint.is_suspected = True
    one.reported(LoadReport(latency_us=90_000_000), NOW_S)
    assert Eligibility(now_s=NOW_S, deadline_s=NOW_S + 1.0, draw=1.0).is_open(one)
    assert not Eligibility(now_s=NOW_S, asked=[one]).is_open(one)
    assert not Eligibility(Constraints(max_price=0.5), now_s=NOW_S).is_open(one)
    assert Eligibility(Constraints(max_price=1.5), now_s=NOW_S).is_open(one)


@pytest.mark.parametrize("of_node", [False, True])
def test_ejected_replica_is_open_to_none_and_one_that_recovers_to_its_share(
    of_node: bool,
) -> None:
    one = replica("a")
    health = one.endpoint.health if of_node else one.health
    health.eject(NOW_S)
    in_trial = Eligibility(now_s=NOW_S + TRIAL_EVERY_S, draw=0.0)
    assert health.may_send(in_trial.now_s)
    assert not in_trial.is_open(one)
    assert in_trial.is_there(one)
    back_s = NOW_S + EJECTED_S
    assert Eligibility(now_s=back_s, draw=RAMP_FROM / 2).is_open(one)
    assert not Eligibility(now_s=back_s, draw=RAMP_FROM * 2).is_open(one)
    assert Eligibility(now_s=back_s + RAMP_S, draw=1.0).is_open(one)


@pytest.mark.parametrize("put", [unlinked, goaway])
def test_replica_without_a_link_lacks_it_only_where_nothing_else_is_in_the_way(
    put: Callable[[Replica], None],
) -> None:
    one = replica("a")
    rules = Eligibility(now_s=NOW_S)
    assert not rules.lacks_link(one)
    put(one)
    assert rules.lacks_link(one)
    inhibited(one)
    assert rules.lacks_link(one)
    assert not Eligibility(Constraints(max_price=0.5), now_s=NOW_S).lacks_link(one)
    assert not Eligibility(now_s=NOW_S, asked=[one]).lacks_link(one)
    for health in (one.health, one.endpoint.health):
        health.hold(CircuitState.FORCED_OPEN)
        assert not rules.lacks_link(one)
        health.hold(None)
    for prevent in (draining, retired, gone):
        other = replica("b")
        put(other)
        prevent(other)
        assert not rules.lacks_link(other)


def test_replica_that_loads_the_model_again_lacks_only_that() -> None:
    one = replica("a")
    away(one)
    assert Eligibility(now_s=NOW_S).lacks_link(one)


def test_answer_that_is_expected_just_at_the_deadline_is_in_time() -> None:
    one = replica(row_us=500_000, rtt_s=0.5)
    for left_s, is_in_time in ((1.0, True), (0.99, False)):
        rules = Eligibility(deadline_s=NOW_S + left_s, now_s=NOW_S)
        assert rules.allows(one) is is_in_time
        assert (rules.refusal(one) == "") is is_in_time


def test_reason_is_given_from_the_first_draw_that_does_not_doubt_the_deadline() -> None:
    one = replica(row_us=2_000_000)
    for draw, reason in (
        (DEADLINE_DOUBT - 0.001, ""),
        (DEADLINE_DOUBT, "deadline: 1000 ms left, 2000 ms expected"),
    ):
        rules = Eligibility(deadline_s=NOW_S + 1.0, now_s=NOW_S, draw=draw)
        assert rules.refusal(one) == reason


def test_draw_that_is_just_the_share_is_outside_of_it() -> None:
    one = replica()
    ramping(one)
    rules = Eligibility(now_s=NOW_S, draw=one.health.share(NOW_S))
    assert not rules.allows(one)
    assert not rules.is_open(one)


def test_first_of_equals_is_the_last_resort_and_the_network_counts() -> None:
    rules = Eligibility(deadline_s=NOW_S, now_s=NOW_S)
    equals = [replica(peer, row_us=90) for peer in "ab"]
    assert rules.last_resort(equals, is_extra=False) is equals[0]
    near, far = replica("c", row_us=90_000), replica("d", row_us=80_000, rtt_s=0.02)
    assert rules.last_resort([far, near], is_extra=False) is near


@pytest.mark.parametrize("put", [goaway, draining, suspected, gone, away])
def test_replica_that_is_not_to_be_asked_is_not_probed(put: Callable[[Replica], None]) -> None:
    one = replica("a")
    assert may_be_probed(one, NOW_S)
    put(one)
    assert not may_be_probed(one, NOW_S)


@pytest.mark.parametrize("of_node", [False, True])
def test_replica_in_the_way_of_recovering_is_probed_and_one_that_is_out_is_not(
    of_node: bool,
) -> None:
    one = replica("a")
    health = one.endpoint.health if of_node else one.health
    health.failed(NOW_S, is_hard=True)
    assert not may_be_probed(one, NOW_S + 1.0)
    assert may_be_probed(one, NOW_S + 6.0)
