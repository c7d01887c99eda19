"""Simulated links: order, delays, silence, partitions, redialling."""

from __future__ import annotations

import random

import pytest

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
from capamesh.simulation.network import Network
from capamesh.simulation.scenario import NetworkSpec, RegionPair

Seen = list[tuple[float, object]]


class FakeNode(NodeEnd):
    """Keeps what comes, and answers a request with what it was sent."""

    index = 0
    process = b"the same"
    is_up = True
    is_frozen = False
    answers = True

    def __init__(self, events: Events) -> None:
        self.links: list[SimLink] = []
        self.seen: Seen = []
        self._events = events

    def link_up(self, link: SimLink) -> None:
        self.links.append(link)

    def link_down(self, link: SimLink) -> None:
        self.links.remove(link)

    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        self._note(meta.decode())
        if meta == b"fail":
            link.fail(stream, RunFailed("it did not work"))
        elif self.answers:
            link.respond(stream, meta, body)

    def withdrawn(self, link: SimLink, stream: int) -> None:
        self._note(f"withdrawn {stream}")

    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        link.report(stream, meta)

    def _note(self, what: str) -> None:
        self.seen.append((round(self._events.now_s, 9), what))


class Setting(RouterEnd, ResponseHandler, LoadHandler):
    """A router in eu, which asks, and a node in us, linked."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.events = Events()
        self.told: Seen = []
        self.lost: list[LinkLost] = []
        self.ups: Seen = []
        """Each time that the link came up or went down."""
        self.counted: list[str] = []
        self.network = Network(spec, self.events, random.Random(1))
        self.node = FakeNode(self.events)
        endpoint = Endpoint(PeerId("p"), "p:1")
        self.keeper = self.network.keep(self, self.node, endpoint, ("eu", "us"))
        self.keeper.connect()
        assert self.keeper.link is not None
        self.link = self.keeper.link

    def ask(self, what: str, *parts: bytes) -> int:
        return self.link.ask(what.encode(), parts or (b"",), self)

    def link_up(self, link: SimLink) -> None:
        self._note(self.ups, "up")

    def link_down(self, link: SimLink) -> None:
        assert link.pending == 0  # whoever asked has been told
        self._note(self.ups, "down")

    def sent(self, link: SimLink) -> None:
        self.counted.append("request")

    def probed(self, link: SimLink) -> None:
        self.counted.append("probe")

    def answered(self, answer: Answer) -> None:
        self._note(self.told, (answer.meta.decode(), bytes(answer.body)))

    def reported(self, meta: bytes) -> None:
        self._note(self.told, meta.decode())

    def failed(self, error: CapameshError) -> None:
        self._note(self.told, error.message.partition(": ")[2] or error.message)
        if isinstance(error, LinkLost):
            self.lost.append(error)

    def _note(self, where: Seen, what: object) -> None:
        where.append((round(self.events.now_s, 9), what))


STEADY = NetworkSpec(one_way_s=0.001, jitter=0.0, pairs=(RegionPair("us", "eu", 0.05),))


@pytest.fixture
def here() -> Setting:
    return Setting(STEADY)


def test_constants_are_those_of_the_real_links() -> None:
    times = LinkTimes()
    assert real_keeper.REDIAL == network_module.REDIAL
    assert (times.ping_every_s, times.silent_s, times.hello_s) == (
        link_module.PING_EVERY_S,
        link_module.SILENT_S,
        network_module.HELLO_S,
    )


def test_answer_error_and_load_come_back_to_who_asked_after_the_delay_both_ways(
    here: Setting,
) -> None:
    here.ask("parts", b"ab", b"c")
    here.ask("fail")
    here.link.ask_load(b"load", here)
    here.events.run_until()
    assert here.node.seen == [(0.05, "parts"), (0.05, "fail")]
    assert here.told == [(0.1, ("parts", b"abc")), (0.1, "it did not work"), (0.1, "load")]
    assert (here.counted, here.link.pending) == (["request", "request", "probe"], 0)
    assert (STEADY.one_way("us", "eu"), STEADY.one_way("eu", "eu")) == (0.05, 0.001)
    slow = Setting(NetworkSpec(one_way_s=0.5, jitter=0.0, bytes_per_s=1000.0))
    slow.ask("large", bytes(250))
    slow.events.run_until()
    assert slow.node.seen == [(0.75, "large")]


def test_withdrawn_request_is_not_answered_and_its_node_hears_of_it_once(here: Setting) -> None:
    here.node.answers = False
    stream = here.ask("long")
    for _ in range(2):
        here.link.withdraw(stream)
    here.link.withdraw_load(here.link.ask_load(b"load", here))
    here.events.run_until()
    assert here.node.seen == [(0.05, "long"), (0.05, f"withdrawn {stream}")]
    assert (here.told, here.link.pending) == ([], 0)


def test_ping_tells_how_far_away_a_node_is_unless_that_is_frozen(here: Setting) -> None:
    for is_frozen, rtt_s in ((False, 0.1), (True, 0.7)):
        here.link.endpoint.network.rtt_s = 0.7
        here.node.is_frozen = is_frozen
        here.link.ping()
        here.events.run_until()
        assert here.link.endpoint.network.rtt_s == pytest.approx(rtt_s)


def test_messages_stay_in_order_whatever_the_jitter() -> None:
    here = Setting(NetworkSpec(one_way_s=0.01, jitter=3.0))
    names = [str(number) for number in range(200)]
    for name in names:
        here.ask(name)
    here.events.run_until()
    assert [what for _, what in here.node.seen] == names
    assert [what for _, what in here.told] == [(name, b"") for name in names]


def test_what_was_sent_in_a_short_partition_comes_when_it_heals(here: Setting) -> None:
    here.network.cut("us", "eu")
    here.ask("late")
    here.events.run_until(2.0)
    assert here.node.seen == []
    here.network.heal("eu", "us")
    here.events.run_until()
    assert (here.node.seen, here.told) == ([(2.05, "late")], [(2.1, ("late", b""))])
    assert here.ups == [(0.0, "up")]
    here.keeper.stop()
    here.ask("never answered")
    here.network.cut("us", "eu")
    here.link.close_at_node("the process ended")
    cut_s = here.events.now_s
    here.events.run_until(cut_s + 1.0)
    here.network.heal("us", "eu")
    here.events.run_until()
    assert here.told[1:] == [(pytest.approx(cut_s + 1.05), "the process ended")]
    assert here.keeper.link is None


def test_long_partition_ends_the_link_at_both_ends_and_what_was_sent_is_lost(here: Setting) -> None:
    here.network.cut("eu", "us")
    here.ask("lost")
    here.events.run_until(9.0)
    ((at_s, what),) = here.told
    assert (6.0 <= at_s <= 8.0, what) == (True, "silent for too long")
    assert here.ups == [(0.0, "up"), (at_s, "down")]
    assert not here.lost[0].is_sudden
    assert (here.node.links, here.link.is_up, here.link.is_open) == ([], False, False)
    here.network.heal("eu", "us")
    here.events.run_until(15.0)
    assert (here.ups[-1][1], here.node.seen) == ("up", [])
    assert here.keeper.link is not here.link


def test_end_of_a_node_is_heard_of_after_what_it_sent_before(here: Setting) -> None:
    here.ask("answered")
    here.events.run_until(0.06)
    here.node.answers = False
    here.ask("not answered")
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.link.respond(2, b"never sent", b"")
    here.events.run_until(0.2)
    assert here.told == [(0.1, ("answered", b"")), (0.11, "the process ended")]
    assert here.lost[0].is_sudden
    assert here.ups[1:] == [(0.11, "down")]
    for ask in (lambda: here.ask("too late"), lambda: here.link.ask_load(b"", here)):
        with pytest.raises(LinkLost):
            ask()
    assert here.counted == ["request"] * 2


def test_node_that_says_goodbye_is_not_usable_still_answers_and_does_not_end_suddenly(
    here: Setting,
) -> None:
    here.ask("before")
    here.link.go_away()
    here.events.run_until(0.2)
    assert (here.link.is_usable, here.link.is_up) == (False, True)
    assert here.told == [(0.1, ("before", b""))]
    here.ask("not answered")
    here.link.close_at_node("the process ended")
    here.events.run_until(0.4)
    assert not here.lost[0].is_sudden


def test_node_that_is_back_is_dialled_again_with_backoff_and_at_once_when_there_is_news(
    here: Setting,
) -> None:
    here.node.is_up = False
    here.link.close_at_node("the process ended")
    here.events.run_until(30.0)
    here.node.is_up = True
    here.keeper.hurry()
    here.events.run_until(31.0)
    assert here.ups[-1] == (pytest.approx(30.3), "up")  # three round trips of 0.1 s
    here.network.stop()
    here.node.is_up = False
    here.keeper.link.close_at_node("the process ended")  # type: ignore[union-attr]
    here.events.run_until()
    assert (len(here.events), here.events.now_s < 31.2) == (0, True)


def test_lost_message_costs_the_link_and_its_sender_is_told_later() -> None:
    here = Setting(NetworkSpec(loss=1.0))
    here.ask("lost")
    assert here.told == []
    here.events.run_until(0.0)
    assert here.told == [(0.0, "a message was lost")]
    assert (here.ups[-1][1], here.link.is_usable) == ("down", False)
