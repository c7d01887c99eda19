"""When a node advertises: by the fleet's size, on changes, for new routers; and that no receiver is misled by it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fleet_fakes import advert
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.agent.advert_schedule import MAX_ROUTERS, AdvertSchedule
from capamesh.protocol.adverts import RouterAdvert, Sequence
from capamesh.protocol.fleet import FleetMembership, Left, Suspected
from capamesh.protocol.ids import PeerId


class Middle(random.Random):
    """Draws the middle of what it is asked for."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def router(name: str = "R", nodes: int = 0, *, boot_ns: int = 1) -> RouterAdvert:
    return RouterAdvert(PeerId(name), Sequence(boot_ns, 1), (), "", "0.1", nodes)


def started(nodes: int = 0) -> AdvertSchedule:
    """Return the schedule of a node that knows the router R since 1,000 s, and that there are `nodes` nodes."""
    schedule = AdvertSchedule(Middle())
    for turn in range(4):
        now_s = -1_000.0 + turn * 10.0
        schedule.router_heard(router("R", nodes), now_s)
        schedule.publishing(now_s)
    for turn in range(96):
        schedule.router_heard(router("R", nodes), -960.0 + turn * 10.0)
    schedule.publishing(0.0)
    return schedule


@pytest.mark.parametrize(
    ("nodes", "interval_s"), [(0, 10), (100, 10), (600, 60), (1_000, 100), (2**63 - 1, 120)]
)
def test_interval_follows_the_number_of_nodes(nodes: int, interval_s: int) -> None:
    schedule = started(nodes)
    assert schedule.due_s == interval_s
    assert schedule.publishing(schedule.due_s) == interval_s


def test_longer_interval_waits_for_three_adverts_and_a_shorter_one_does_not() -> None:
    schedule = started()
    schedule.router_heard(router("R", 1_000), 1.0)
    reported: list[tuple[float, int]] = []
    for _ in range(4):
        now_s = schedule.due_s
        reported.append((now_s, schedule.publishing(now_s)))
    assert reported == [(10.0, 100), (20.0, 100), (30.0, 100), (130.0, 100)]
    shrunk_s = 130.0 + 700.0
    assert schedule.publishing(shrunk_s) == 10
    assert schedule.due_s == shrunk_s + 10.0


def test_change_is_said_after_those_close_to_it_and_again_3_s_later() -> None:
    schedule = started(1_000)
    schedule.changed(50.0)
    schedule.changed(50.04)
    assert schedule.due_s == 50.05
    schedule.publishing(50.05)
    assert schedule.due_s == 53.05
    schedule.publishing(53.05)
    assert schedule.due_s == 153.05


@pytest.mark.parametrize(("nodes", "after_s"), [(0, 0.0), (100, 0.5), (1_000, 5.0), (10_000, 50.0)])
def test_new_router_is_reported_within_10_ms_a_node(nodes: int, after_s: float) -> None:
    schedule = started(nodes)
    schedule.router_heard(router("S"), 1.0)
    assert schedule.due_s == 1.0 + after_s
    schedule.publishing(schedule.due_s)
    assert schedule.due_s == 1.0 + after_s + {0: 10, 100: 10, 1_000: 100, 10_000: 120}[nodes]


def test_router_is_new_when_it_was_silent_for_long_or_started_anew() -> None:
    schedule = started(1_000)
    schedule.router_heard(router("R", 1_000), 0.0)
    schedule.router_heard(router("R", 1_000), 35.0)
    assert schedule.due_s == 100.0
    schedule.router_heard(router("R", 1_000), 70.1)
    assert schedule.due_s == 75.1
    schedule.publishing(75.1)
    schedule.router_heard(router("R", 5, boot_ns=2), 80.0)
    assert schedule.due_s == 85.0
    schedule.publishing(85.0)
    schedule.router_heard(router("R", 5, boot_ns=1), 86.0)  # an old word, late
    schedule.router_heard(router("R", 5, boot_ns=2), 87.0)
    assert schedule.due_s == 185.0


def adverts_until(schedule: AdvertSchedule, end_s: float) -> int:
    """Publish what is due until `end_s`; return how many adverts that were."""
    count = 0
    while schedule.due_s <= end_s:
        schedule.publishing(schedule.due_s)
        count += 1
    return count


@pytest.mark.parametrize("is_known", [True, False], ids=["one restarts", "each is another"])
def test_routers_that_come_all_the_time_at_most_double_a_node_s_adverts(is_known: bool) -> None:
    schedule = started(1_000)
    count = 0
    for second in range(10_000):
        now_s = float(second)
        name = "S" if is_known else f"S{second}"
        schedule.router_heard(router(name, 1_000, boot_ns=second + 2), now_s)
        count += adverts_until(schedule, now_s)
    assert count <= 2 * 10_000 / 100 + 3
    assert len(schedule._newcomers._heard) <= MAX_ROUTERS


sizes = st.integers(0, 3_000)


@pytest.mark.full
@given(
    st.lists(st.tuples(st.floats(0, 400), sizes, st.booleans()), max_size=30),
    st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1),
    st.randoms(use_true_random=False),
)
def test_interval_that_changes_makes_one_loss_no_suspicion_and_two_no_expiry(
    events: list[tuple[float, int, bool]], losses: list[int], rng: random.Random
) -> None:
    """Of each word heard, as many that follow it are lost as `losses` says, over and over."""
    schedule, fleet = AdvertSchedule(rng), FleetMembership()
    now_s, sent, missed, turn = 0.0, 0, 0, 0
    words = sorted(
        (sum(wait_s for wait_s, _, _ in events[: place + 1]), nodes, is_changed)
        for place, (_, nodes, is_changed) in enumerate(events)
    )
    end_s = (words[-1][0] if words else 0.0) + 2_000.0
    while now_s < end_s:
        due_s = max(0.0, schedule.due_s)
        if words and words[0][0] <= due_s:
            now_s, nodes, is_changed = words.pop(0)
            # It restarted each time, so that adverts come at odd times as well.
            schedule.router_heard(router("R", nodes, boot_ns=round(now_s * 1e3) + 2), now_s)
            if is_changed:
                schedule.changed(now_s)
            continue
        now_s = due_s
        for change in fleet.tick(now_s - 1e-6):
            assert not isinstance(change, Left)
            assert not isinstance(change, Suspected) or missed == 2
        sent += 1
        interval_s = schedule.publishing(now_s)
        if sent > 1 and missed < losses[turn % len(losses)]:
            missed += 1
            continue
        missed, turn = 0, turn + 1
        said = replace(advert("A"), sequence=Sequence(1, sent), interval_s=interval_s)
        fleet.heard(said, now_s)
