from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.admission.fair_share import FairShare, Standing, water_level


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
    ],
)
def test_water_rises_to_the_level_at_which_the_slots_are_used_up(
    uses: list[tuple[float, float]], slots: float, level: float
) -> None:
    assert water_level(uses, slots) == pytest.approx(level)


def test_one_tenant_alone_has_nobody_to_be_fair_to() -> None:
    assert sharing(a=50).standing("a", 10, 0.0) is Standing.ALONE
    assert FairShare().standing("", 10, 0.0) is Standing.ALONE


def test_one_may_have_what_the_other_leaves_and_no_more() -> None:
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


def test_a_tenant_with_nothing_under_way_may_always_have_one() -> None:
    assert sharing(a=5, b=5, c=5).standing("d", 2, 0.0) is Standing.WITHIN


def test_who_was_there_of_late_counts_as_a_tenant_also_when_it_was_refused() -> None:
    for meet in ("enter", "refused"):
        fair = sharing(a=8)
        getattr(fair, meet)("b", 1.0)
        if meet == "enter":
            fair.leave("b", 1.0)
        assert fair.standing("a", 8, 2.0) is Standing.OVER
        assert fair.standing("a", 8, 10.9) is Standing.OVER
        assert fair.standing("a", 8, 11.1) is Standing.ALONE


def test_a_division_holds_for_a_while_and_a_clock_set_back_ends_it() -> None:
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
    fair = FairShare(max_idle=2)
    for tenant in "abca":
        fair.enter(tenant, 0.0)
        fair.leave(tenant, 0.0)
    assert list(fair._idle) == ["c", "a"]
    for index in range(100):
        fair.refused(str(index), 0.0)
    assert len(fair) == 2


_STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None)
@given(_STEPS, st.floats(0, 40))
def test_nobody_is_over_its_share_while_one_with_more_is_not(
    steps: list[tuple[str, bool]], slots: float
) -> None:
    fair = FairShare(max_idle=3)
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
    assert len(fair) <= 3
