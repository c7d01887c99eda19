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
from capamesh.router.balancing.serving import (
    BACK_SOON_S,
    MOST_MISSED,
    PROVEN_S,
    is_any_serving,
)
from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import CircuitState
from capamesh.router.rules.constraints import ANYWHERE, Constraints

NOW_S = 100.0
Change = Callable[[Replica], None]


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


STATES: list[tuple[Change, str]] = [
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
def test_each_refusal_says_why(put: Change, reason: str) -> None:
    one = replica()
    assert refusal(one, ANYWHERE, (), NOW_S, 0.04) == ""
    put(one)
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


@pytest.mark.parametrize("put", [gone, retired, unlinked, goaway, draining, forced_open])
def test_some_rules_nothing_overrides(put: Change) -> None:
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
    puts: list[Change],
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


@pytest.mark.parametrize("put", [unlinked, goaway])
def test_replica_without_a_link_lacks_it_only_where_nothing_else_is_in_the_way(
    put: Change,
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


def test_answer_that_is_expected_just_at_the_deadline_is_in_time() -> None:
    one = replica(row_us=500_000, rtt_s=0.5)
    for left_s, is_in_time in ((1.0, True), (0.99, False)):
        rules = Eligibility(deadline_s=NOW_S + left_s, now_s=NOW_S)
        assert rules.allows(one) is is_in_time
        assert (rules.refusal(one) == "") is is_in_time


# which are taken to serve, so that nobody else is asked to load their model


def answered(ago_s: float) -> Change:
    def change(one: Replica) -> None:
        one.answered_s = NOW_S - ago_s

    return change


def missed(amount: int) -> Change:
    def change(one: Replica) -> None:
        one.missed = amount

    return change


def unlinked_for(ago_s: float, *, is_missed: bool = False) -> Change:
    """Let it lose the link that it had."""

    def change(one: Replica) -> None:
        lose(one)
        one.endpoint.linked_s, one.endpoint.unlinked_s = 1.0, NOW_S - ago_s
        one.endpoint.is_missed = is_missed

    return change


def node_ejected(one: Replica) -> None:
    one.endpoint.health.eject(NOW_S)


@pytest.mark.parametrize(
    ("changes", "is_serving"),
    [
        ([], True),
        ([inhibited], True),
        ([missed(MOST_MISSED - 1)], True),
        ([missed(MOST_MISSED)], False),
        ([missed(MOST_MISSED), answered(PROVEN_S - 0.5)], True),
        ([missed(MOST_MISSED), answered(PROVEN_S)], False),
        ([away], False),
        ([away, answered(1.0)], True),
        ([unlinked_for(BACK_SOON_S - 0.5)], True),
        ([unlinked_for(BACK_SOON_S)], False),
        ([unlinked_for(1.0, is_missed=True)], False),
        ([unlinked], True),
        *(
            ([answered(1.0), out], False)
            for out in (gone, draining, retired, ejected, node_ejected, forced_open)
        ),
    ],
)
def test_replica_serves_unless_something_tells_that_it_does_not(
    changes: list[Change], is_serving: bool
) -> None:
    one = replica()
    for change in changes:
        change(one)
    assert is_any_serving([one], NOW_S) is is_serving
