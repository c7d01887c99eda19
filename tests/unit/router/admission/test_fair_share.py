from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.admission.fair_share import REST, FairShare, Standing, water_level


def sharing(weights: dict[str, float] | None = None, **in_flight: int) -> FairShare:
    fair = FairShare(weights)
    for tenant, count in in_flight.items():
        for _ in range(count):
            fair.enter(tenant, 0.0)
    return fair


@pytest.mark.parametrize(
    ("uses", "slots", "level"),
    [
        ([], 10, math.inf),
        ([(3, 1)], 10, 10),
        ([(80, 1), (10, 1)], 90, 80),
        ([(80, 1), (60, 1)], 90, 45),
        ([(50, 1), (50, 1), (5, 1)], 90, 42.5),
        ([(60, 2), (60, 1)], 90, 30),
        ([(0, 1), (4, 1)], 0, 0),
        ([(3, 0.5)], 10, 20),
    ],
)
def test_water_rises_to_the_level_at_which_the_slots_are_used_up(
    uses: list[tuple[float, float]], slots: float, level: float
) -> None:
    assert water_level(uses, slots) == pytest.approx(level)


def test_one_tenant_alone_has_nobody_to_be_fair_to() -> None:
    assert sharing(a=50).standing("a", 10, 0.0) is Standing.ALONE
    assert FairShare().standing("", 10, 0.0) is Standing.ALONE


def test_tenant_may_have_what_the_other_leaves_and_no_more() -> None:
    assert sharing(a=79, b=10).standing("a", 90, 0.0) is Standing.FAIR
    assert sharing(a=80, b=10).standing("a", 90, 0.0) is Standing.OVER
    assert sharing(a=80, b=10).standing("b", 90, 0.0) is Standing.WITHIN
    assert sharing(a=80, b=44).standing("b", 90, 0.0) is Standing.WITHIN
    assert sharing(a=80, b=45).standing("b", 90, 0.0) is Standing.OVER


def test_weights_make_shares_larger_and_the_rest_have_that_of_the_star() -> None:
    weights = {"a": 3.0, "*": 0.5}
    assert FairShare(weights).weight("b") == 0.5
    assert FairShare().weight("b") == 1.0
    fair = sharing(weights, a=60, b=10)
    assert fair.standing("a", 70, 0.0) is Standing.OVER
    assert fair.standing("b", 70, 0.0) is Standing.OVER
    assert fair.standing("a", 71.2, 0.1) is Standing.WITHIN


def test_tenant_with_nothing_under_way_may_always_have_one() -> None:
    assert sharing(a=5, b=5, c=5).standing("d", 2, 0.0) is Standing.WITHIN


def test_tenant_of_late_counts_also_when_it_was_refused() -> None:
    for meet in ("enter", "refused"):
        fair = sharing(a=8)
        getattr(fair, meet)("b", 1.0)
        if meet == "enter":
            fair.leave("b", 1.0)
        assert fair.standing("a", 8, 2.0) is Standing.OVER
        assert fair.standing("a", 8, 10.9) is Standing.OVER
        assert fair.standing("a", 8, 11.1) is Standing.ALONE


def test_division_holds_for_a_while_and_a_clock_set_back_ends_it() -> None:
    fair = sharing(a=80, b=1)
    assert fair.standing("a", 90, 1.0) is Standing.FAIR
    for _ in range(40):
        fair.enter("b", 1.0)
    assert fair.standing("a", 90, 1.02) is Standing.FAIR
    assert fair.standing("a", 90, 1.03) is Standing.OVER
    fair = sharing(a=80, b=41)
    fair._level, fair._divided_s = math.inf, 5.0
    assert fair.standing("a", 90, 1.0) is Standing.OVER


def test_idle_tenants_are_forgotten_the_longest_idle_first() -> None:
    fair = FairShare(max_tenants=2)
    for now_s, tenant in ((0.0, "a"), (10.0, "b"), (20.0, "c"), (30.0, "a")):
        fair.enter(tenant, now_s)
        fair.leave(tenant, now_s)
    assert list(fair._idle) == ["c", "a"]
    for index in range(100):
        fair.refused(str(index), 100.0 * index)
    assert len(fair) == 2


def test_more_tenants_than_have_a_part_each_share_one() -> None:
    fair = FairShare({"listed": 1.0}, max_tenants=2)
    for tenant in ("a", "b", "listed", "c", "d", "d"):
        fair.enter(tenant, 0.0)
    assert [fair.in_flight(one) for one in ("a", "b", "listed", "c", "d")] == [1, 1, 1, 3, 3]
    assert fair.describe("d") == "tenant 'd' and those that share its part"
    assert [fair.standing(one, 6, 0.0).name for one in "acd"] == ["FAIR", "OVER", "OVER"]
    fair.leave("a", 1.0)  # its part is kept for it for a while
    fair.enter("e", 10.9)
    fair.enter("a", 10.9)
    assert (fair.in_flight("a"), fair.in_flight("e")) == (1, 4)
    fair.leave("b", 11.0)
    fair.enter("c", 30.0)  # it has one under way as one of those that share
    fair.enter("f", 30.0)
    assert (fair.in_flight("c"), fair.in_flight("f")) == (5, 1)
    for tenant in ("listed", "a", "c", "c", "d", "d", "e", "f"):
        fair.leave(tenant, 31.0)
    assert not fair._busy
    assert not fair._lodgers
    assert fair._busy_weight == 0


def test_caller_that_invents_a_name_for_each_request_gets_one_more_part_and_not_one_for_each() -> (
    None
):
    fair = FairShare()
    for index in range(1000):
        fair.enter(f"invented {index}", 0.0)
    assert len(fair) == 65
    for index in range(1000):
        fair.leave(f"invented {index}", 1.0)
    assert len(fair) == 65
    for index in range(50):
        fair.enter(f"another {index}", 2.0)
    fair.enter("invented 0", 2.0)
    assert fair.standing("invented 0", 100, 2.0) is Standing.WITHIN
    assert fair.standing("another 0", 100, 2.0) is Standing.FAIR
    assert fair.standing("another 99", 90, 2.0) is Standing.FAIR


def is_ahead(fair: FairShare, tenant: str, slots: float, free: float, now_s: float) -> bool:
    """Ask as a request does that is let in or refused: by the lag of now, which holds from then on."""
    lag = fair.lag(tenant, slots, now_s)
    found = fair.is_ahead(tenant, lag, free, now_s)
    fair.take_lag(lag, now_s)
    return found


def test_weight_gets_no_tenant_ahead_of_one_that_was_refused_of_late() -> None:
    fair = FairShare({"gold": 3.0})
    for _ in range(3):
        fair.enter("gold", 0.0)
    fair.enter("iron", 0.0)
    assert not fair.is_wanted
    fair.refused("gold", 0.0, 0.1)
    assert fair.is_wanted
    assert not is_ahead(fair, "iron", 16, 0.0, 0.0)  # both have passed 1, by weight
    fair.enter("iron", 0.0)
    assert not is_ahead(fair, "iron", 16, 0.0, 0.0)  # by one request, for there are no parts of one
    fair.enter("iron", 0.0)
    assert is_ahead(fair, "iron", 16, 0.0, 0.0)
    assert not is_ahead(fair, "iron", 16, 4.0, 0.0)  # one more where four are free
    assert not is_ahead(fair, "gold", 16, 0.0, 0.0)
    assert not is_ahead(fair, "iron", 16, 0.0, 0.1)  # gold has not come again
    assert not fair.is_wanted


def test_share_not_used_while_idle_is_not_owed() -> None:
    fair = FairShare()
    fair.enter("a", 0.0)
    for _ in range(1000):
        fair.enter("b", 0.0)
        fair.leave("b", 0.0)
    fair.refused("a", 1.0, 1.0)
    assert is_ahead(fair, "b", 16, 0.0, 1.0)
    caught_up = 0
    while is_ahead(fair, "b", 16, 0.0, 1.0):
        fair.enter("a", 1.0)
        caught_up += 1
    assert caught_up <= 16
    fair.refused("new", 1.5, 1.0)
    assert is_ahead(fair, "b", 16, 0.0, 1.5)
    for _ in range(16):
        fair.enter("new", 1.5)
    assert not is_ahead(fair, "b", 16, 0.0, 1.5)


def test_requests_that_nodes_had_no_room_for_do_not_count() -> None:
    fair = FairShare()
    fair.enter("b", 0.0)
    fair.enter("a", 0.0)
    fair.refused("b", 0.0, 1.0)
    for _ in range(10):
        fair.enter("a", 0.0)
        fair.leave("a", 0.0, is_served=False)
        assert not is_ahead(fair, "a", 8, 0.0, 0.0)
    fair.enter("a", 0.0)
    fair.enter("a", 0.0)
    assert is_ahead(fair, "a", 8, 0.0, 0.0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 0.3)), max_size=300),
    st.dictionaries(st.sampled_from("0123"), st.floats(0.1, 10.0), max_size=4),
)
@settings(deadline=None)
def test_tenant_that_wants_more_is_never_ahead_of_all(
    events: list[tuple[int, bool, float]], weights: dict[str, float]
) -> None:
    fair = FairShare(weights)
    now_s = 0.0
    under_way: list[str] = []
    for index, is_over, passed_s in events:
        now_s += passed_s
        tenant = str(index)
        if is_over and under_way:
            fair.leave(under_way.pop(0), now_s)
        if is_ahead(fair, tenant, 8, 8.0 - len(under_way), now_s):
            fair.refused(tenant, now_s, 0.2)
        else:
            fair.enter(tenant, now_s)
            under_way.append(tenant)
        wanting = [name for name, one in fair._wanting.items() if now_s < one.wants_s]
        if wanting:
            assert any(not is_ahead(fair, one, 8, 0.0, now_s) for one in wanting)


def test_notes_on_a_tenant_are_its_own_and_its_part_is_by_weight() -> None:
    fair = sharing({"a": 3.0}, a=1, b=1)
    fair.refused("a", 0.0)["why"] = 1.0
    assert fair.notes("a", 1.0) == ({"why": 1.0}, 0.75)
    assert fair.notes("b", 1.0) == ({}, 0.25)
    assert fair.notes("c", 1.0) == ({}, 0.2)


def test_look_at_the_notes_of_one_that_is_not_there_makes_it_no_tenant() -> None:
    fair = sharing({"a": 3.0}, a=1)
    assert fair.notes("new", 0.0) == ({}, 0.25)
    assert len(fair) == 1
    fair.refused("new", 0.0)
    assert len(fair) == 2


_STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None)
@given(_STEPS, st.floats(0, 40))
def test_tenant_is_not_over_its_share_while_one_with_more_is_not(
    steps: list[tuple[str, bool]], slots: float
) -> None:
    fair = FairShare()
    counts: Counter[str] = Counter()
    now_s = 0.0
    for tenant, is_entering in steps:
        now_s += 1.0
        if is_entering:
            fair.enter(tenant, now_s)
            counts[tenant] += 1
        elif counts[tenant]:
            fair.leave(tenant, now_s)
            counts[tenant] -= 1
        standings = {one: fair.standing(one, slots, now_s) for one in "abcd"}
        busy = sum(count > 0 for count in counts.values())
        for one, standing in standings.items():
            assert fair.in_flight(one) == counts[one]
            if standing is Standing.OVER:
                assert (counts[one] + 1) > slots / busy
                assert all(
                    counts[other] < counts[one]
                    for other, theirs in standings.items()
                    if theirs is not Standing.OVER
                )
    for tenant, count in counts.items():
        for _ in range(count):
            fair.leave(tenant, now_s)
    assert not fair._busy
    assert fair._busy_weight == 0
    assert len(fair) <= 4


def test_lag_is_all_slots_by_the_weight_of_those_that_are_busy() -> None:
    fair = sharing({"a": 2.0, "b": 3.0}, a=1, b=1)
    assert fair.lag("a", 10.0, 0.0) == pytest.approx(10.0 / 5.0)
    assert fair.lag("a", 0.2, 0.0) == pytest.approx(1.0 / 5.0)
    assert FairShare({"a": 4.0}).lag("a", 10.0, 0.0) == pytest.approx(10.0 / 4.0)


def test_division_holds_from_its_own_moment_to_the_very_end() -> None:
    fair = sharing(a=80, b=1)
    assert fair.standing("a", 90, 0.0) is Standing.FAIR
    for _ in range(40):
        fair.enter("b", 0.0)
    assert fair.standing("a", 90, 0.0) is Standing.FAIR
    assert fair.standing("a", 90, 0.025) is Standing.OVER


def test_tenant_counts_for_ten_seconds_to_the_moment() -> None:
    fair = sharing(a=8)
    fair.refused("b", 1.0)
    assert fair.standing("a", 8, 10.75) is Standing.OVER
    assert fair.standing("a", 8, 11.0) is Standing.ALONE


def test_part_of_an_idle_tenant_is_kept_for_ten_seconds_to_the_moment() -> None:
    fair = FairShare(max_tenants=1)
    fair.refused("a", 1.0, 100.0)
    assert fair._name("b", 10.75) == REST
    assert fair._name("b", 11.0) == "b"
    assert fair._name("b", 0.5) == "b"  # a clock that was set back
    fair.enter("b", 11.0)
    assert list(fair._busy) == ["b"]
    assert not fair._idle
    assert not fair.is_wanted  # nobody waits for one that is forgotten


def test_tenant_that_just_left_is_seen_at_that_time() -> None:
    fair = sharing(a=8, b=1)
    fair.leave("b", 5.0)
    assert fair.standing("a", 8, 14.75) is Standing.OVER
    assert fair.standing("a", 8, 15.0) is Standing.ALONE


def test_idle_tenant_keeps_its_weight_in_the_notes_and_stays_idle() -> None:
    fair = sharing({"a": 3.0}, b=1)
    fair.refused("a", 0.0)["why"] = 1.0
    assert fair.notes("a", 1.0) == ({"why": 1.0}, 0.75)
    assert (list(fair._busy), list(fair._idle)) == (["b"], ["a"])
    assert fair.in_flight("a") == 0
    assert len(fair) == 2


def test_part_of_a_tenant_follows_other_weights_at_once() -> None:
    fair = sharing(a=1, b=1)
    assert [fair.notes(tenant, 0.0)[1] for tenant in "ab"] == [0.5, 0.5]
    fair.reweigh({"b": 3.0})
    assert [fair.notes(tenant, 0.0)[1] for tenant in "abc"] == [0.25, 0.75, 0.2]


@pytest.mark.parametrize(
    ("requests", "free", "is_over"),
    [
        (1, 0.0, False),
        (2, 0.0, True),
        (2, -9.0, True),  # more are under way than there are slots: as if none were free
        (2, 0.75, True),
        (2, 1.0, False),
        (3, 4.0, True),
        (3, 5.0, False),
    ],
)
def test_tenant_may_lead_by_one_request_of_its_own_weight_and_by_a_quarter_of_what_is_free(
    requests: int, free: float, is_over: bool
) -> None:
    fair = sharing({"lead": 4.0, "want": 16.0}, lead=requests, want=3)
    fair.refused("want", 0.0, 1.0)
    lag = fair.lag("lead", 100.0, 0.0)
    assert fair.is_ahead("lead", lag, free, 0.0) is is_over


def test_request_that_nodes_had_no_room_for_is_taken_back_by_its_weight() -> None:
    fair = sharing({"a": 4.0}, a=3)
    fair.leave("a", 0.0, is_served=False)
    assert fair._busy["a"].passed == 2 / 4
