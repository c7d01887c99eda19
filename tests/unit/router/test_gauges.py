"""What a router's metrics read from its parts when they are asked for."""

from __future__ import annotations

from pathlib import Path

from fleet_fakes import NullLog, advert
from router_parts import made_parts

from capamesh.protocol.fleet import Joined
from capamesh.router.gauges import watch_fleet, watch_network, watch_requests


def test_gauges_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    parts = made_parts(tmp_path, NullLog())
    telemetry = parts.telemetry
    watch_fleet(telemetry, parts.fleet, parts.pool, parts.owners.owners)
    watch_network(telemetry, parts.hearing, parts.clocks, lambda: 60.0)
    watch_requests(telemetry, parts.requests, parts.answers)
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])
    (endpoint,) = parts.fleet.endpoints()
    endpoint.rif = 3
    parts.requests.count = 4
    lines = telemetry.exposition().decode().splitlines()
    for line in (
        "capamesh_nodes 1.0",
        "capamesh_dials_waiting 0.0",
        "capamesh_requests_in_flight 3.0",
        "capamesh_contested_models 0.0",
        "capamesh_models_on_trial 0.0",
        "capamesh_members_refused 0.0",
        "capamesh_clock_behind_seconds 0.0",
        "capamesh_membership_expires_seconds 60.0",
        "capamesh_answer_bytes 0.0",
        "capamesh_answers_waiting 0.0",
        "capamesh_open_requests 4.0",
    ):
        assert line in lines
