from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.admission.fair_share import FairShare, Standing


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


def is_ahead(fair: FairShare, tenant: str, slots: float, free: float, now_s: float) -> bool:
    """Ask as a request does that is let in or refused: by the lag of now, which holds from then on."""
    lag = fair.lag(tenant, slots, now_s)
    found = fair.is_ahead(tenant, lag, free, now_s)
    fair.take_lag(lag, now_s)
    return found


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
