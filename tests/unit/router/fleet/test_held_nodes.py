"""A router keeps the operator's word on a node through all that the node does."""

from __future__ import annotations

import datetime as dt
import stat
import time
from pathlib import Path

import pytest
from fleet_fakes import NullLog, advert, offer

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.network import NetworkOwner, Role
from capamesh.router.access.operator_key import KEY_FILE
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.overrides import Hold
from capamesh.router.process import Router
from capamesh.router.resilience.health import CircuitState
from capamesh.router.settings import RouterSettings

A = PeerId("A")


@pytest.fixture
def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Router:
    monkeypatch.setattr(DataDir, "lock", lambda _: None)  # held to the process's end
    now = dt.datetime.now(dt.UTC)
    token = NetworkOwner.create("home", now).invite(
        Role.ROUTER, expires_at=now + dt.timedelta(days=1), bootstrap=(), now=now
    )
    settings = RouterSettings(
        data_folder=tmp_path, token=token.encode(), http_port=0, mesh_port=0, link_port=0
    )
    return Router(settings, NullLog())  # type: ignore[arg-type]  # it takes every event


def states(router: Router) -> set[str]:
    fleet, now_s = router._fleet, time.monotonic()
    return {
        str(health.state(now_s))
        for endpoint in fleet.endpoints_of(A)
        for health in (
            endpoint.health,
            *(replica.health for replica in fleet.replicas_at(endpoint)),
        )
    }


def test_what_a_held_node_comes_back_with_is_held(router: Router) -> None:
    for model in ("", "m"):
        router._overrides.hold(
            Hold(A, ModelName(model), ModelVersion(""), CircuitState.FORCED_OPEN)
        )
    first = advert("A", "a:1")
    router._apply([Joined(first)])
    assert states(router) == {"forced_open"}
    more = advert("A", "a:2", models=(offer(version="1"), offer(version="2")), counter=2)
    router._apply([Changed(more, first)])
    assert states(router) == {"forced_open"}
    router._apply([Left(A, LeftReason.GOODBYE)])
    router._apply([Joined(advert("A", models=(offer(),), counter=3))])
    router._visited(Endpoint(A, "dialled-in-1"))
    assert states(router) == {"forced_open"}


def test_news_of_a_node_wakes_who_waits_for_a_link(router: Router) -> None:
    woken: list[str] = []
    links = router._balancer.links
    first = advert("A", "a:1")
    for change in (Joined(first), Changed(advert("A", "a:1", counter=2), first)):
        links.add("a request", lambda: woken.append("a request"))
        router._apply([])
        assert len(links) == 1
        router._apply([change])
        assert len(links) == 0
    assert len(woken) == 2


def test_a_router_that_starts_leaves_a_key_for_its_operator(router: Router, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    authorization = f"Bearer {(tmp_path / KEY_FILE).read_text().strip()}"
    assert router._operator_key.opens(authorization)
