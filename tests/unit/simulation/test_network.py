"""Simulated links: order, delays, silence, partitions, redialling."""

from __future__ import annotations

import random

import pytest
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LinkLost, RunFailed
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links import keeper as real_keeper
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.links.outgoing import Buffer
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.simulation import link as link_module
from capamesh.simulation import network as network_module
from capamesh.simulation.events import Events
from capamesh.simulation.link import NodeEnd, RouterEnd, SimLink
from capamesh.simulation.network import Keeper, Network
from capamesh.simulation.scenario import NetworkSpec, RegionPair


class FakeNode(NodeEnd):
    """Keeps what comes, and answers a request with what it was sent."""

    def __init__(self, events: Events) -> None:
        self.index = 0
        self.is_up = True
        self.is_frozen = False
        self.links: list[SimLink] = []
        self.answers = True
        self.seen: list[tuple[float, str]] = []
        self._events = events

    @property
    @override
    def process(self) -> bytes:
        return b"the same"

    @override
    def link_up(self, link: SimLink) -> None:
        self.links.append(link)

    @override
    def link_down(self, link: SimLink) -> None:
        self.links.remove(link)

    @override
    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        self._note(meta.decode())
        if meta == b"fail":
            link.fail(stream, RunFailed("it did not work"))
        elif self.answers:
            link.respond(stream, meta, body)

    @override
    def withdrawn(self, link: SimLink, stream: int) -> None:
        self._note(f"withdrawn {stream}")

    @override
    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        link.report(stream, meta)

    def _note(self, what: str) -> None:
        self.seen.append((round(self._events.now_s, 9), what))


class FakeRouter(RouterEnd):
    def __init__(self, events: Events) -> None:
        self.events = events
        self.seen: list[tuple[float, str]] = []
        self.sends: list[str] = []

    @override
    def link_up(self, link: SimLink) -> None:
        self.seen.append((self.events.now_s, "up"))

    @override
    def link_down(self, link: SimLink) -> None:
        assert link.pending == 0  # whoever asked has been told
        self.seen.append((round(self.events.now_s, 9), "down"))

    @override
    def sent(self, link: SimLink) -> None:
        self.sends.append("request")

    @override
    def probed(self, link: SimLink) -> None:
        self.sends.append("probe")


class Asker(ResponseHandler, LoadHandler):
    """Writes down what it is told, and when."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.told: list[tuple[float, object]] = []
        self.lost: list[LinkLost] = []

    @override
    def answered(self, answer: Answer) -> None:
        self._note((answer.meta.decode(), bytes(answer.body)))

    @override
    def reported(self, meta: bytes) -> None:
        self._note(meta.decode())

    @override
    def failed(self, error: CapameshError) -> None:
        self._note(error.message.partition(": ")[2] or error.message)
        if isinstance(error, LinkLost):
            self.lost.append(error)

    def _note(self, what: object) -> None:
        self.told.append((round(self._events.now_s, 9), what))


class Setting:
    """A router in eu and a node in us, linked."""

    def __init__(self, spec: NetworkSpec, seed: int = 1) -> None:
        self.events = Events()
        self.network = Network(spec, self.events, random.Random(seed))
        self.router, self.node = FakeRouter(self.events), FakeNode(self.events)
        endpoint = Endpoint(PeerId("p"), "p:1")
        self.keeper: Keeper = self.network.keep(self.router, self.node, endpoint, ("eu", "us"))
        self.keeper.connect()
        assert self.keeper.link is not None
        self.link = self.keeper.link
        self.asker = Asker(self.events)

    def ask(self, what: str, size_bytes: int = 0) -> int:
        return self.link.ask(what.encode(), (bytes(size_bytes),), self.asker)

    @property
    def told(self) -> list[tuple[float, object]]:
        return self.asker.told


STEADY = NetworkSpec(one_way_s=0.001, jitter=0.0, pairs=(RegionPair("us", "eu", 0.05),))


def test_constants_are_those_of_the_real_links() -> None:
    times = LinkTimes()
    assert real_keeper.REDIAL == network_module.REDIAL
    assert (times.ping_every_s, times.silent_s, times.hello_s) == (
        link_module.PING_EVERY_S,
        link_module.SILENT_S,
        network_module.HELLO_S,
    )


def test_pair_of_regions_has_its_delay_in_both_directions() -> None:
    assert STEADY.one_way("eu", "us") == STEADY.one_way("us", "eu") == 0.05
    assert STEADY.one_way("eu", "eu") == 0.001
    here = Setting(STEADY)
    here.ask("there", 3)
    here.events.run_until()
    assert here.node.seen == [(0.05, "there")]
    assert here.told == [(0.1, ("there", bytes(3)))]
    assert here.link.pending == 0


def test_error_and_load_come_back_to_who_asked() -> None:
    here = Setting(STEADY)
    here.ask("fail")
    here.link.ask_load(b"load", here.asker)
    here.events.run_until()
    assert here.told == [(0.1, "it did not work"), (0.1, "load")]
    assert here.router.sends == ["request", "probe"]


def test_request_that_is_withdrawn_is_not_answered_and_its_node_hears_of_it_once() -> None:
    here = Setting(STEADY)
    here.node.answers = False
    stream = here.ask("long")
    here.link.withdraw(stream)
    here.link.withdraw(stream)
    here.link.withdraw_load(here.link.ask_load(b"load", here.asker))
    here.events.run_until()
    assert here.node.seen == [(0.05, "long"), (0.05, f"withdrawn {stream}")]
    assert here.told == []
    assert here.link.pending == 0


def test_ping_tells_the_router_how_far_away_a_node_is_unless_that_is_frozen() -> None:
    here = Setting(STEADY)
    here.link.ping()
    here.events.run_until()
    assert here.link.endpoint.network.rtt_s == pytest.approx(0.1)
    here.node.is_frozen = True
    here.link.endpoint.network.rtt_s = 0.7
    here.link.ping()
    here.events.run_until()
    assert here.link.endpoint.network.rtt_s == 0.7


def test_body_in_parts_comes_whole() -> None:
    here = Setting(STEADY)
    here.link.ask(b"parts", (b"ab", b"c"), here.asker)
    here.events.run_until()
    assert here.told == [(0.1, ("parts", b"abc"))]


def test_large_messages_take_longer() -> None:
    here = Setting(NetworkSpec(one_way_s=0.5, jitter=0.0, bytes_per_s=1000.0))
    here.ask("large", 250)
    here.events.run_until()
    assert here.node.seen == [(0.75, "large")]


def test_messages_stay_in_order_whatever_the_jitter() -> None:
    here = Setting(NetworkSpec(one_way_s=0.01, jitter=3.0))
    names = [str(number) for number in range(200)]
    for name in names:
        here.ask(name)
    here.events.run_until()
    assert [what for _, what in here.node.seen] == names
    assert here.told == [
        (at_s, (name, b"")) for (at_s, _), name in zip(here.told, names, strict=True)
    ]


def test_message_sent_in_a_short_partition_comes_when_it_heals() -> None:
    here = Setting(STEADY)
    here.network.cut("us", "eu")
    here.ask("late")
    here.events.run_until(2.0)
    assert here.node.seen == []
    here.network.heal("eu", "us")
    here.events.run_until()
    assert here.node.seen == [(2.05, "late")]
    assert here.told == [(2.1, ("late", b""))]
    assert here.router.seen == [(0.0, "up")]


def test_long_partition_ends_the_link_at_both_ends_and_what_was_sent_is_lost() -> None:
    here = Setting(STEADY)
    here.network.cut("eu", "us")
    here.ask("lost")
    here.events.run_until(9.0)
    ((at_s, what),) = here.told
    assert (6.0 <= at_s <= 8.0, what) == (True, "silent for too long")
    assert here.router.seen == [(0.0, "up"), (at_s, "down")]
    assert not here.asker.lost[0].is_sudden
    assert (here.node.links, here.link.is_up, here.link.is_open) == ([], False, False)
    here.network.heal("eu", "us")
    here.events.run_until(15.0)
    assert here.router.seen[-1][1] == "up"
    assert here.node.seen == []
    assert here.keeper.link is not here.link


def test_end_of_a_node_is_heard_of_after_what_it_sent_before() -> None:
    here = Setting(STEADY)
    here.ask("answered")
    here.events.run_until(0.06)
    here.node.answers = False
    here.ask("not answered")
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.link.respond(2, b"never sent", b"")
    here.events.run_until(0.2)
    assert here.told == [
        (0.1, ("answered", b"")),
        (0.11, "the process ended"),
    ]
    assert here.asker.lost[0].is_sudden
    assert here.router.seen[1:] == [(0.11, "down")]


def test_end_of_a_node_in_a_short_partition_is_heard_of_when_it_heals() -> None:
    here = Setting(STEADY)
    here.keeper.stop()
    here.ask("never answered")
    here.network.cut("us", "eu")
    here.link.close_at_node("the process ended")
    here.events.run_until(1.0)
    here.network.heal("us", "eu")
    here.events.run_until()
    assert here.told == [(1.05, "the process ended")]
    assert here.keeper.link is None


def test_node_that_said_goodbye_has_not_ended_suddenly() -> None:
    here = Setting(STEADY)
    here.node.answers = False
    here.ask("not answered")
    here.link.go_away()
    here.link.close_at_node("the process ended")
    here.events.run_until(0.2)
    assert not here.asker.lost[0].is_sudden


def test_link_that_has_ended_takes_nothing() -> None:
    here = Setting(STEADY)
    here.link.give_up("over")
    with pytest.raises(LinkLost):
        here.ask("too late")
    with pytest.raises(LinkLost):
        here.link.ask_load(b"", here.asker)
    assert here.router.sends == []


def test_node_that_is_back_is_dialled_again_with_backoff_and_at_once_when_there_is_news() -> None:
    here = Setting(STEADY)
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.events.run_until(30.0)
    here.node.is_up = True
    here.keeper.hurry()
    here.events.run_until(31.0)
    assert here.router.seen[-1] == (pytest.approx(30.3), "up")  # three round trips of 0.1 s


def test_lost_message_costs_the_link_and_its_sender_is_told_later() -> None:
    here = Setting(NetworkSpec(loss=1.0))
    here.ask("lost")
    assert here.told == []
    here.events.run_until(0.0)
    assert here.told == [(0.0, "a message was lost")]
    assert here.router.seen[-1][1] == "down"
    assert not here.link.is_usable


def test_node_that_asks_for_nothing_new_is_not_usable_but_still_answers() -> None:
    here = Setting(STEADY)
    here.ask("before")
    here.link.go_away()
    here.events.run_until(0.2)
    assert (here.link.is_usable, here.link.is_up) == (False, True)
    assert here.told == [(0.1, ("before", b""))]


def test_stopped_network_dials_nothing_and_leaves_nothing() -> None:
    here = Setting(STEADY)
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.events.run_until(1.0)
    here.network.stop()
    here.events.run_until()
    assert len(here.events) == 0
    assert here.events.now_s < 1.2
