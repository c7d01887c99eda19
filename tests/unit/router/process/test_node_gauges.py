"""What a router's metrics tell of each node."""

from __future__ import annotations

import re

from fleet_fakes import FakeLink, advert

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.fleet import Joined, Left
from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.view import FleetView
from capamesh.router.process.node_gauges import NodeGauges
from capamesh.router.telemetry import Telemetry
from capamesh.router.telemetry.totals import OTHERS


class World:
    """A fleet, and what is told of it."""

    def __init__(self, *nodes: str, most: int = 10) -> None:
        self.now_s = 100.0
        self.fleet = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
        self.telemetry = Telemetry()
        NodeGauges(self.fleet, lambda: self.now_s, most).watch(self.telemetry)
        for port, node in enumerate(nodes, 1):
            self.fleet.apply([Joined(advert(node, f"127.0.0.1:{port}"))])

    def endpoint(self, node: str) -> Endpoint:
        (endpoint,) = self.fleet.endpoints_of(PeerId(node))
        return endpoint

    def link(self, node: str) -> Endpoint:
        endpoint = self.endpoint(node)
        endpoint.link = FakeLink([])
        return endpoint

    def told(self, name: str) -> dict[str, float]:
        """Return a metric's values by its labels, without those of nothing."""
        text = self.telemetry.exposition().decode()
        found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found if float(value)}


def test_node_is_in_the_state_of_its_best_link() -> None:
    world = World("A", "B", "C", "D", "E")
    world.link("A")
    world.link("B").is_draining = True
    world.link("C").is_suspected = True
    world.link("D").health.failed(world.now_s, is_hard=True)
    assert world.told("capamesh_nodes") == {
        'state="usable"': 1.0,
        'state="draining"': 1.0,
        'state="suspected"': 1.0,
        'state="circuit_open"': 1.0,
        'state="unlinked"': 1.0,
    }
    assert world.told("capamesh_fleet_usable") == {'node="A"': 1.0}
    visitor = Endpoint(PeerId("D"), "dialled-in-1")
    visitor.link = FakeLink([])
    world.fleet.visit(visitor)
    assert world.told("capamesh_fleet_usable") == {'node="A"': 1.0, 'node="D"': 1.0}
    assert world.told("capamesh_fleet_links_up")['node="D"'] == 2.0


def test_round_trip_in_flight_and_circuits_are_told_by_node() -> None:
    world = World("A", "B")
    world.link("A").network.round_trip(0.25, 0.0)
    world.endpoint("B").rif = 3
    world.endpoint("B").health.failed(world.now_s, is_hard=True)
    assert world.told("capamesh_fleet_round_trip_seconds") == {'node="A"': 0.25}
    assert world.told("capamesh_fleet_in_flight") == {'node="B"': 3.0}
    assert world.told("capamesh_fleet_circuits") == {
        'node="A",state="closed"': 2.0,
        'node="B",state="inhibited"': 1.0,
        'node="B",state="closed"': 1.0,
    }


def test_attempts_of_a_node_never_count_down_when_a_link_of_its_goes() -> None:
    world = World("A")
    visitor = Endpoint(PeerId("A"), "dialled-in-1")
    world.fleet.visit(visitor)
    first = world.fleet.endpoints_of(PeerId("A"))[0]
    first.answered, visitor.answered = 5, 7
    visitor.count(LinkLost("gone"))
    assert world.told("capamesh_fleet_attempts_answered_total") == {'node="A"': 12.0}
    world.fleet.leave(visitor)
    first.answered = 6
    assert world.told("capamesh_fleet_attempts_answered_total") == {'node="A"': 13.0}
    assert world.told("capamesh_fleet_attempts_failed_total") == {'code="link_lost",node="A"': 1.0}


def test_nodes_beyond_the_first_share_one_label_until_one_leaves() -> None:
    world = World("A", "B", "C", "D", most=2)
    for node in "ABCD":
        world.endpoint(node).answered = 10
    answered = "capamesh_fleet_attempts_answered_total"
    assert world.told(answered) == {'node="A"': 10.0, 'node="B"': 10.0, f'node="{OTHERS}"': 20.0}
    world.fleet.apply([Left(PeerId("A"), "gone")])
    world.endpoint("C").answered = 11
    assert world.told(answered) == {'node="B"': 10.0, 'node="C"': 1.0, f'node="{OTHERS}"': 20.0}
    assert 'node="A"' not in world.telemetry.exposition().decode()
