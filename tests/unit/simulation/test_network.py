"""Simulated links: order, delays, silence, partitions, redialling."""

from __future__ import annotations

import random

import pytest

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links import keeper as real_keeper
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.simulation import network as network_module
from capamesh.simulation.events import Events
from capamesh.simulation.network import Keeper, Network, SimLink
from capamesh.simulation.scenario import NetworkSpec, RegionPair


class FakeNode:
    def __init__(self) -> None:
        self.index = 0
        self.is_up = True
        self.is_frozen = False
        self.process = b"the same"
        self.links: list[SimLink] = []

    def link_up(self, link: SimLink) -> None:
        self.links.append(link)

    def link_down(self, link: SimLink) -> None:
        self.links.remove(link)


class FakeRouter:
    def __init__(self, events: Events) -> None:
        self.events = events
        self.seen: list[tuple[float, str]] = []

    def link_up(self, link: SimLink) -> None:
        self.seen.append((self.events.now_s, "up"))

    def link_down(self, link: SimLink, error: LinkLost) -> None:
        self.seen.append((self.events.now_s, f"down: {error.message.partition(': ')[2]}"))


class Setting:
    """A router in eu and a node in us, linked."""

    def __init__(self, spec: NetworkSpec, seed: int = 1) -> None:
        self.events = Events()
        self.network = Network(spec, self.events, random.Random(seed))
        self.router, self.node = FakeRouter(self.events), FakeNode()
        endpoint = Endpoint(PeerId("p"), "p:1")
        self.keeper: Keeper = self.network.keep(self.router, self.node, endpoint, ("eu", "us"))  # type: ignore[arg-type]
        self.keeper.connect()
        assert self.keeper.link is not None
        self.link = self.keeper.link
        self.got: list[tuple[float, object]] = []

    def take(self, what: object) -> None:
        self.got.append((self.events.now_s, what))


STEADY = NetworkSpec(one_way_s=0.001, jitter=0.0, pairs=(RegionPair("us", "eu", 0.05),))


def test_constants_are_those_of_the_real_links() -> None:
    times = LinkTimes()
    assert real_keeper.REDIAL == network_module.REDIAL
    assert (times.ping_every_s, times.silent_s, times.hello_s) == (
        network_module.PING_EVERY_S,
        network_module.SILENT_S,
        network_module.HELLO_S,
    )


def test_pair_of_regions_has_its_delay_in_both_directions() -> None:
    assert STEADY.one_way("eu", "us") == STEADY.one_way("us", "eu") == 0.05
    assert STEADY.one_way("eu", "eu") == 0.001
    here = Setting(STEADY)
    here.link.to_node(0, here.take, "there")
    here.link.to_router(0, here.take, "back")
    here.events.run_until()
    assert here.got == [(0.05, "there"), (0.05, "back")]


def test_large_messages_take_longer() -> None:
    here = Setting(NetworkSpec(one_way_s=0.5, jitter=0.0, bytes_per_s=1000.0))
    here.link.to_node(250, here.take, "large")
    here.events.run_until()
    assert here.got == [(0.75, "large")]


def test_messages_stay_in_order_whatever_the_jitter() -> None:
    here = Setting(NetworkSpec(one_way_s=0.01, jitter=3.0))
    for number in range(200):
        here.link.to_node(0, here.take, number)
    here.events.run_until()
    assert [what for _, what in here.got] == list(range(200))


def test_message_sent_in_a_short_partition_comes_when_it_heals() -> None:
    here = Setting(STEADY)
    here.network.cut("us", "eu")
    here.link.to_node(0, here.take, "late")
    here.events.run_until(2.0)
    assert here.got == []
    here.network.heal("eu", "us")
    here.events.run_until()
    assert here.got == [(2.05, "late")]
    assert here.router.seen == [(0.0, "up")]


def test_long_partition_ends_the_link_at_both_ends_and_what_was_sent_is_lost() -> None:
    here = Setting(STEADY)
    here.network.cut("eu", "us")
    here.link.to_node(0, here.take, "lost")
    here.events.run_until(9.0)
    (_, (at_s, what)) = here.router.seen
    assert (6.0 <= at_s <= 8.0, what) == (True, "down: silent for too long")
    assert (here.node.links, here.link.is_up, here.link.is_open) == ([], False, False)
    here.network.heal("eu", "us")
    here.events.run_until(15.0)
    assert here.router.seen[-1][1] == "up"
    assert here.got == []
    assert here.keeper.link is not here.link


def test_end_of_a_node_is_heard_of_after_what_it_sent_before() -> None:
    here = Setting(STEADY)
    here.link.to_router(0, here.take, "answer")
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.link.to_router(0, here.take, "never sent")
    here.events.run_until(0.1)
    assert here.got == [(0.05, "answer")]
    assert here.router.seen[1:] == [(0.05, "down: the process ended")]


def test_node_that_is_back_is_dialled_again_with_backoff_and_at_once_when_there_is_news() -> None:
    here = Setting(STEADY)
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.events.run_until(30.0)
    here.node.is_up = True
    here.keeper.hurry()
    here.events.run_until(31.0)
    assert here.router.seen[-1] == (pytest.approx(30.3), "up")  # three round trips of 0.1 s


def test_lost_message_costs_the_link() -> None:
    here = Setting(NetworkSpec(loss=1.0))
    here.link.to_node(0, here.take, "lost")
    assert here.router.seen[-1][1] == "down: a message was lost"
    assert not here.link.is_usable


def test_node_that_asks_for_nothing_new_is_not_usable_but_still_answers() -> None:
    here = Setting(STEADY)
    here.link.go_away()
    here.events.run_until(0.1)
    assert (here.link.is_usable, here.link.is_up) == (False, True)


def test_stopped_network_dials_nothing_and_leaves_nothing() -> None:
    here = Setting(STEADY)
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.events.run_until(1.0)
    here.network.stop()
    here.events.run_until()
    assert len(here.events) == 0
    assert here.events.now_s < 1.2
