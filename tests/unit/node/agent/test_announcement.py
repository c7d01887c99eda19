"""What a node says of itself, when, and the routers that it knows."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fleet_fakes import advert, device_offer, offer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.agent import known_routers
from capamesh.node.agent.advert_schedule import MAX_ROUTERS, AdvertSchedule
from capamesh.node.agent.announcement import TOO_LARGE, Announcement, NodeFacts
from capamesh.node.agent.known_routers import MAX_ADDRESSES, KnownRouters
from capamesh.node.agent.status import Routers, standing
from capamesh.node.contract import messages
from capamesh.node.contract.messages import DeviceOffer
from capamesh.protocol.adverts import ModelState, RouterAdvert, Sequence, advert_to_body
from capamesh.protocol.fleet import FleetMembership, Left, Suspected
from capamesh.protocol.ids import PeerId
from capamesh.protocol.membership_life import Ended

FACTS = NodeFacts(PeerId("node"), "eu", 2.5, "0.1.0")
S = Sequence(5, 7)


def said(announcement: Announcement) -> list[str]:
    return [f"{one.name}/{one.version} {one.state}" for one in announcement.advert(S).models]


def test_announcement_that_differs_only_in_its_sequence_is_no_news() -> None:
    announcement = Announcement(FACTS)
    assert announcement.offered(0, device_offer("h:1"))
    assert not announcement.offered(0, device_offer("h:1"))
    assert announcement.offered(0, device_offer("h:9"))
    emptier = device_offer("h:9")
    device = dataclasses.replace(emptier.device, memory_free_bytes=7)
    assert not announcement.offered(0, dataclasses.replace(emptier, device=device))
    assert announcement.advert(S).devices[0].memory_free_bytes == 7  # and yet the next one says it
    assert announcement.lost(0, "killed")
    assert not announcement.lost(0, "killed")
    assert not announcement.lost(4, "killed")
    assert announcement.offered(0, device_offer("h:9"))


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        (ModelState.LOADING, ModelState.READY, "ready"),
        (ModelState.FAILED, ModelState.LOADING, "loading"),
        (ModelState.UNLOADING, ModelState.LOADING, "loading"),
        (ModelState.UNLOADED, ModelState.FAILED, "unloaded"),
        (ModelState.UNLOADED, ModelState.UNLOADING, "unloading"),
    ],
)
def test_model_on_two_devices_is_shown_at_its_best(
    first: ModelState, second: ModelState, shown: str
) -> None:
    for states in ((first, second), (second, first)):
        announcement = Announcement(FACTS)
        for worker, state in enumerate(states):
            announcement.offered(worker, device_offer(models=[offer(state=state)]))
        assert said(announcement) == [f"m/1 {shown}"]


def test_models_of_a_lost_worker_are_loading_with_the_reason_until_it_offers_again() -> None:
    announcement = Announcement(FACTS)
    failed = offer("o", state=ModelState.FAILED, reason="no such operator")
    announcement.offered(0, device_offer("h:1", models=[offer("m"), offer("n"), failed]))
    announcement.offered(1, device_offer("h:2", models=[offer("m")]))
    assert announcement.lost(0, "killed by signal 9")
    assert said(announcement) == ["m/1 ready", "n/1 loading", "o/1 failed"]
    reasons = [one.reason for one in announcement.advert(S).models]
    assert reasons == ["", "its worker restarts: killed by signal 9", "no such operator"]
    assert announcement.workers == {1}
    assert announcement.offered(0, device_offer("h:3", models=[offer("n")]))
    assert said(announcement) == ["m/1 ready", "n/1 ready"]
    assert announcement.workers == {0, 1}


MODELS = st.dictionaries(st.sampled_from("mn"), st.sampled_from(ModelState))


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | MODELS), max_size=12))
def test_advert_is_taken_by_receivers_whatever_workers_say(
    steps: list[tuple[int, dict[str, ModelState] | None]],
) -> None:
    announcement = Announcement(FACTS)
    known: dict[int, DeviceOffer] = {}
    ever: dict[int, DeviceOffer] = {}
    for worker, models in steps:
        if models is None:
            assert announcement.lost(worker, "x") == (known.pop(worker, None) is not None)
        else:
            offers = [offer(name, state=state) for name, state in models.items()]
            reported = device_offer(f"h:{worker + 1}", models=offers)
            is_news = announcement.offered(worker, reported)
            assert is_news == (known.get(worker) != reported)
            known[worker] = ever[worker] = reported
    advert_to_body(announcement.advert(S))
    assert announcement.workers == set(known)
    again = Announcement(FACTS)
    for worker, reported in sorted(ever.items(), reverse=True):
        again.offered(worker, dataclasses.replace(reported))
        assert worker in known or again.lost(worker, "x")
    assert again.advert(S) == announcement.advert(S)


def test_advert_that_is_too_large_gives_up_the_model_with_the_most_tensors_first() -> None:
    announcement = Announcement(FACTS)
    wide = dataclasses.replace(offer("wide"), inputs=offer().inputs * 9)
    announcement.offered(0, device_offer("h:1", models=[offer("m"), wide]))
    given_up = announcement.give_up_largest()
    assert given_up == wide
    assert said(announcement) == ["m/1 ready", "wide/1 failed"]
    (_, shown) = announcement.advert(S).models
    assert (shown.reason, shown.inputs, shown.outputs) == (TOO_LARGE, (), ())
    announcement.offered(0, device_offer("h:1", models=[wide, offer("m")]))
    assert said(announcement) == ["m/1 ready", "wide/1 failed"]
    assert announcement.give_up_largest() == offer("m")
    assert announcement.give_up_largest() is None
    assert [one.reason for one in announcement.models_of(0)] == [TOO_LARGE, TOO_LARGE]


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


UNTIL = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)
DRAINED = "by the network's owner, until 2026-03-01 20:30 UTC"
NO_MODEL = "no model is ready: there are none"
NO_LINK = "no router has a link to it (1 met in the mesh)"


@pytest.mark.parametrize(
    ("life", "ended", "models", "links", "until", "expected"),
    [
        ("serving", None, 1, 1, None, ("ready", "")),
        ("serving", None, 1, 1, UNTIL, ("draining", DRAINED)),
        ("draining", None, 1, 1, UNTIL, ("draining", "")),
        ("serving", Ended("revoked", "by list 2"), 1, 1, UNTIL, ("revoked", "by list 2")),
        ("serving", None, 0, 1, UNTIL, ("waiting", NO_MODEL)),
        ("serving", None, 1, 0, UNTIL, ("waiting", NO_LINK)),
    ],
)
def test_drained_node_says_until_when_and_one_that_cannot_serve_says_that_first(
    life: str,
    ended: Ended | None,
    models: int,
    links: int,
    until: datetime | None,
    expected: tuple[str, str],
) -> None:
    assert standing(life, ended, [offer()] * models, Routers(links, 1, ()), until) == expected


PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


@pytest.mark.parametrize(
    ("routers", "said"),
    [
        (Routers(0, 2, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}"]), "2 met in the mesh"),
        (Routers(0, 0, ()), "none met in the mesh; it has no router's address to dial"),
        (
            Routers(0, 0, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}", "/ip4/10.0.0.5/tcp/4001"]),
            "none met in the mesh; it dials /ip4/10.0.0.5/tcp/4001",
        ),
        (
            Routers(0, 0, [f"/dns/r{number}/tcp/4001/p2p/{PEER}" for number in range(5)]),
            "none met in the mesh; it dials /dns/r0/tcp/4001, /dns/r1/tcp/4001, /dns/r2/tcp/4001 and 2 more",
        ),
    ],
)
def test_node_without_a_link_says_where_it_looks_for_routers(routers: Routers, said: str) -> None:
    assert standing("serving", None, [offer()], routers, None) == (
        "waiting",
        f"no router has a link to it ({said})",
    )


def heard_of(peer: str, *addresses: str) -> RouterAdvert:
    return RouterAdvert(PeerId(peer), Sequence(1, 1), addresses, "eu", "0.1")


def test_router_not_heard_of_for_ten_minutes_is_dialled_no_more() -> None:
    routers = KnownRouters()
    routers.heard(heard_of("R", "r:1"), 0.0)
    routers.heard(heard_of("S", "s:1"), 500.0)
    assert not routers.heard(heard_of("S", "s:1"), 600.0)
    assert routers.heard(heard_of("S", "s:1"), 600.1)
    assert routers.message() == messages.Routers({PeerId("S"): ("s:1",)})


def test_first_routers_are_dialled_at_a_few_addresses_and_endless_ones_are_not() -> None:
    routers = KnownRouters()
    many = tuple(f"r:{port}" for port in range(1, 65))
    for number in range(known_routers.MAX_ROUTERS):
        assert routers.heard(heard_of(f"R{number}", *many), 0.0)
    assert not routers.heard(heard_of("one too many", "s:1"), 1.0)
    assert len(routers) == known_routers.MAX_ROUTERS
    assert routers.message().routers[PeerId("R0")] == many[:MAX_ADDRESSES]
    assert routers.heard(heard_of("one too many", "s:1"), 601.0)  # the others have fallen silent
    assert routers.heard(heard_of("one too many", "s:1"), 602.0) is True
    assert routers.message() == messages.Routers({PeerId("one too many"): ("s:1",)})
