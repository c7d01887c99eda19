"""What a router's metrics read from its parts, and of each node, when they are asked for."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from fleet_fakes import FakeLink, Fleet, NullLog, advert, call, echo, hang
from router_http import made_parts

from capamesh.protocol import implementation
from capamesh.protocol.errors import LinkLost, Overloaded
from capamesh.protocol.fleet import Joined, Left
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.membership_life import LifeFigures
from capamesh.router.admission.saturation import STALE_S
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.view import FleetView
from capamesh.router.process.gauges import (
    watch_cache,
    watch_fleet,
    watch_keys,
    watch_network,
    watch_process,
    watch_requests,
    watch_routing,
    watch_versions,
)
from capamesh.router.process.node_gauges import NodeGauges
from capamesh.router.requests.call import NO_OPTIONS
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules
from capamesh.router.telemetry import Telemetry
from capamesh.router.telemetry.totals import OTHERS


def test_gauges_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    parts = made_parts(tmp_path, NullLog())
    telemetry = parts.telemetry
    watch_process(telemetry, "1.2.3", lambda: SimpleNamespace(total=100, free=40))
    watch_fleet(telemetry, parts.fleet, parts.pool, parts.owners.owners, parts.lost, lambda: 0.0)
    NodeGauges(parts.fleet, lambda: 0.0).watch(telemetry)
    watch_network(telemetry, parts.hearing, parts.clocks, lambda: LifeFigures(60.0, 0.25))
    watch_requests(telemetry, parts.requests, parts.answers)
    watch_versions(telemetry, parts.fleet)
    watch_keys(telemetry, parts.quotas)
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])
    (endpoint,) = parts.fleet.endpoints()
    endpoint.rif = 3
    counts = parts.fleet.hosted(ModelName("m"), ModelVersion("1")).requests
    counts.answered, counts.answered_s, counts.failed = 2, 0.5, 1
    parts.quotas.over["rows"] = 4
    parts.requests.unread[408] = 5
    telemetry.circuit_changed("ejected")
    parts.requests.count = 4
    lines = telemetry.exposition().decode().splitlines()
    for line in (
        f'build_info{{implementation="{implementation.RUNNING}",version="1.2.3"}} 1.0',
        *("disk_free_bytes 40.0", "disk_bytes 100.0"),
        *('nodes{state="unlinked"} 1.0', 'nodes{state="usable"} 0.0'),
        *('fleet_in_flight{node="A"} 3.0', 'model_nodes{model="m"} 1.0'),
        'version_requests_total{model="m",outcome="answered",version="1"} 2.0',
        'version_requests_total{model="m",outcome="failed",version="1"} 1.0',
        'version_request_seconds_total{model="m",outcome="answered",version="1"} 0.5',
        'requests_over_limit_total{limit="rows"} 4.0',
        'http_requests_total{method="",route="",status="408"} 5.0',
        *('circuit_changes_total{change="ejected"} 1.0', 'model_nodes_usable{model="m"} 0.0'),
        *("dials_waiting 0.0", "requests_in_flight 3.0", "contested_models 0.0"),
        *("models_on_trial 0.0", "members_refused 0.0", "clock_behind_seconds 0.0"),
        *("membership_expires_seconds 60.0", "membership_life_left_ratio 0.25"),
        *("answer_bytes 0.0", "answers_waiting 0.0", "open_requests 4.0"),
    ):
        assert f"capamesh_{line}" in lines


async def test_probes_and_requests_that_were_not_admitted_are_counted() -> None:
    fleet = Fleet([hang], policy="prequal")
    watch_routing(fleet.telemetry, fleet.prober, fleet.balancer)
    assert "capamesh_requests_not_admitted_total{" not in fleet.telemetry.exposition().decode()
    fleet.prober.ask(fleet.replicas)
    await asyncio.sleep(STALE_S + 0.1)
    full = LoadReport(in_flight=8, queued=7, limit=8, queue_us=7_000_000, run_us=1_000_000)
    fleet.replicas[0].reported(full, fleet.clock())
    for _ in range(2):
        with pytest.raises(Overloaded):
            await fleet.infer(call(), NO_OPTIONS, fleet.clock() + 30.0)
    lines = fleet.telemetry.exposition().decode().splitlines()
    assert "capamesh_probes_sent_total 1.0" in lines
    assert "capamesh_probes_lost_total 1.0" in lines
    wanted = 'capamesh_requests_not_admitted_total{model="m",reason="full",version="1"} 2.0'
    assert [line for line in lines if "not_admitted_total{" in line] == [wanted]


async def test_kept_answers_are_counted() -> None:
    fleet = Fleet([echo], rules=RoutingRules(ModelRules(cache=CacheRule(60.0))))
    watch_cache(fleet.telemetry, fleet.routing.pipeline.cache, fleet.core.repeated)
    for _ in range(3):
        await fleet.infer(call(), NO_OPTIONS, 30.0)
    lines = fleet.telemetry.exposition().decode().splitlines()
    for line in (
        *(
            'requests_total{model="m",result="miss"} 1.0',
            'requests_total{model="m",result="hit"} 2.0',
        ),
        *("entries 1.0", "bytes 413.0", "bytes_most 1.34217728e+08", "entries_evicted_total 0.0"),
    ):
        assert f"capamesh_cache_{line}" in lines


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
    states = ("usable", "draining", "suspected", "circuit_open", "unlinked")
    assert world.told("capamesh_nodes") == {f'state="{state}"': 1.0 for state in states}
    assert world.told("capamesh_fleet_usable") == {'name="",node="A"': 1.0}
    visitor = Endpoint(PeerId("D"), "dialled-in-1")
    visitor.link = FakeLink([])
    world.fleet.visit(visitor)
    assert world.told("capamesh_fleet_usable") == {
        'name="",node="A"': 1.0,
        'name="",node="D"': 1.0,
    }
    assert world.told("capamesh_fleet_links_up")['node="D"'] == 2.0


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
