from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import lose, replica

from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.eligibility import Eligibility, refusal
from capamesh.router.balancing.serving import BACK_SOON_S, MOST_MISSED, PROVEN_S, is_any_serving
from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import CircuitState
from capamesh.router.rules.constraints import ANYWHERE, Constraints

NOW_S = 100.0


def forced_closed(one: Replica) -> None:
    one.endpoint.health.failed(NOW_S - 0.3, is_hard=True)
    one.endpoint.health.hold(CircuitState.FORCED_CLOSED)


PUT: dict[str, Callable[[Replica], object]] = {
    "gone": lambda one: one.set_gone(),
    "away": lambda one: one.set_away(True),
    "retired": lambda one: setattr(one.endpoint, "is_retired", True),
    "unlinked": lose,
    "goaway": lambda one: setattr(one.endpoint.link or one, "is_usable", False),
    "draining": lambda one: setattr(one.endpoint, "is_draining", True),
    "suspected": lambda one: setattr(one.endpoint, "is_suspected", True),
    "inhibited": lambda one: one.endpoint.health.failed(NOW_S - 0.3, is_hard=True, cause="lost"),
    "failed": lambda one: one.health.failed(NOW_S - 0.09, is_hard=False, cause="run_failed: no"),
    "ejected": lambda one: one.health.eject(NOW_S - 2.0, "90% of 40 requests failed"),
    "forced open": lambda one: one.health.hold(CircuitState.FORCED_OPEN),
    "forced closed": forced_closed,
    "slow": lambda one: one.reported(LoadReport(latency_us=120_000), NOW_S),
    # for 5 s, then half of a ramp
    "ramping": lambda one: one.health.failed(NOW_S - 6.0, is_hard=True),
}
REASONS = {
    "gone": "it hosts the model no more",
    "away": "it loads the model again",
    "retired": "it left the fleet",
    "unlinked": "no link",
    "goaway": "its link takes no new requests",
    "draining": "draining",
    "suspected": "suspected: not heard of lately",
    "inhibited": "inhibited: lost, 0.3 s ago",
    "failed": "inhibited: run_failed: no, 0.1 s ago",
    "ejected": "ejected: 90% of 40 requests failed, 2.0 s ago",
    "forced open": "operator holds it open",
    "forced closed": "",
    "slow": "deadline: 40 ms left, 120 ms expected",
}


@pytest.mark.parametrize(("put", "reason"), REASONS.items())
def test_each_refusal_says_why(put: str, reason: str) -> None:
    one = replica()
    assert refusal(one, ANYWHERE, (), NOW_S, 0.04) == ""
    PUT[put](one)
    assert refusal(one, ANYWHERE, (), NOW_S, 0.04) == reason
    assert Eligibility(deadline_s=NOW_S + 0.04, now_s=NOW_S).allows(one) == (reason == "")


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


@pytest.mark.parametrize(
    "put", ["gone", "retired", "unlinked", "goaway", "draining", "forced open"]
)
def test_some_rules_nothing_overrides(put: str) -> None:
    one = replica()
    PUT[put](one)
    rules = Eligibility(now_s=NOW_S, is_panicking=True, draw=0.0)
    assert rules.last_resort([one], is_extra=False) is None
    rules = Eligibility(Constraints(max_price=1.0), now_s=NOW_S)
    assert rules.last_resort([replica()], is_extra=False) is None
    free = replica()
    rules = Eligibility(now_s=NOW_S, asked=[free])
    assert rules.last_resort([free], is_extra=False) is None


_constraints = st.builds(
    Constraints,
    st.sampled_from([math.inf, 1.0, 2.0]),
    st.sampled_from([None, frozenset({"eu"}), frozenset({"us"})]),
    st.sampled_from([None, frozenset({"cpu"}), frozenset({"cuda"})]),
    st.sampled_from([None, frozenset({PeerId("a")}), frozenset({PeerId("b")})]),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(list(PUT)), max_size=2),
    st.one_of(st.just(ANYWHERE), _constraints),
    st.booleans(),
    st.sampled_from([math.inf, 1.0, 0.01]),
    st.floats(0, 0.999),
    st.booleans(),
    st.floats(0, 12),
)
def test_fast_answer_is_yes_exactly_when_there_is_no_reason_against(
    puts: list[str],
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
            PUT[put](one)
        now_s = NOW_S + later_s
        asked = (one,) if is_asked else ()
        more = {"asked": asked, "now_s": now_s, "draw": draw, "is_panicking": is_panicking}
        return one, Eligibility(constraints, now_s + left_s, **more)

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


@pytest.mark.parametrize("put", ["unlinked", "goaway"])
def test_replica_without_a_link_lacks_it_only_where_nothing_else_is_in_the_way(put: str) -> None:
    one = replica("a")
    rules = Eligibility(now_s=NOW_S)
    assert not rules.lacks_link(one)
    PUT[put](one)
    assert rules.lacks_link(one)
    PUT["inhibited"](one)
    assert rules.lacks_link(one)
    assert not Eligibility(Constraints(max_price=0.5), now_s=NOW_S).lacks_link(one)
    assert not Eligibility(now_s=NOW_S, asked=[one]).lacks_link(one)
    for health in (one.health, one.endpoint.health):
        health.hold(CircuitState.FORCED_OPEN)
        assert not rules.lacks_link(one)
        health.hold(None)
    for prevent in ("draining", "retired", "gone"):
        other = replica("b")
        PUT[put](other)
        PUT[prevent](other)
        assert not rules.lacks_link(other)


def test_answer_that_is_expected_just_at_the_deadline_is_in_time() -> None:
    one = replica(row_us=500_000, rtt_s=0.5)
    for left_s, is_in_time in ((1.0, True), (0.99, False)):
        rules = Eligibility(deadline_s=NOW_S + left_s, now_s=NOW_S)
        assert rules.allows(one) is is_in_time
        assert (rules.refusal(one) == "") is is_in_time


# which are taken to serve, so that nobody else is asked to load their model


def unlinked_for(one: Replica, ago_s: float, *, is_missed: bool = False) -> None:
    """Let it lose the link that it had."""
    lose(one)
    one.endpoint.linked_s, one.endpoint.unlinked_s = 1.0, NOW_S - ago_s
    one.endpoint.is_missed = is_missed


PUT |= {
    "proven": lambda one: setattr(one, "answered_s", NOW_S - PROVEN_S + 0.5),
    "proven long ago": lambda one: setattr(one, "answered_s", NOW_S - PROVEN_S),
    "misses some": lambda one: setattr(one, "missed", MOST_MISSED - 1),
    "misses too many": lambda one: setattr(one, "missed", MOST_MISSED),
    "back soon": lambda one: unlinked_for(one, BACK_SOON_S - 0.5),
    "away too long": lambda one: unlinked_for(one, BACK_SOON_S),
    "missed": lambda one: unlinked_for(one, 1.0, is_missed=True),
    "node ejected": lambda one: one.endpoint.health.eject(NOW_S),
}
OUT = ("gone", "draining", "retired", "ejected", "node ejected", "forced open")


@pytest.mark.parametrize(
    ("puts", "is_serving"),
    [
        *((puts, True) for puts in ([], ["inhibited"], ["misses some"], ["unlinked"])),
        *((puts, True) for puts in (["misses too many", "proven"], ["away", "proven"])),
        *((puts, False) for puts in (["misses too many"], ["misses too many", "proven long ago"])),
        *((puts, False) for puts in (["away"], ["away too long"], ["missed"])),
        (["back soon"], True),
        *((["proven", out], False) for out in OUT),
    ],
)
def test_replica_serves_unless_something_tells_that_it_does_not(
    puts: list[str], is_serving: bool
) -> None:
    one = replica()
    for put in puts:
        PUT[put](one)
    assert is_any_serving([one], NOW_S) is is_serving
