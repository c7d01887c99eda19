from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fleet_fakes import Fleet, advert, hang, offer

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.fleet import Joined, Left, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.network import Member, Role
from capamesh.protocol.steps import run_through
from capamesh.router.page import overview
from capamesh.router.page.others import OthersFigures
from capamesh.router.page.overview import Overview, OverviewMaker, _coarse


def maker(
    fleet: Fleet,
    errors: dict[str, str] | None = None,
    drained: dict[PeerId, datetime] | None = None,
    members: dict[PeerId, Member] | None = None,
    others: OthersFigures | None = None,
) -> OverviewMaker:
    return OverviewMaker(
        fleet.view,
        last_error=lambda endpoint: (errors or {}).get(endpoint.peer, ""),
        clock=lambda: 0.0,
        router=lambda: {"state": "ready"},
        traffic=lambda model: {"requests_per_s": 2.0} if model == "m" else {},
        member_of=(members or {}).get,
        drained_until=(drained or {}).get,
        others=others,
    )


def made(fleet: Fleet, errors: dict[str, str] | None = None) -> Overview:
    return run_through(maker(fleet, errors).steps())


async def test_overview_has_router_nodes_and_models() -> None:
    fleet = Fleet()
    fleet.node("a", hang)
    overview = made(fleet)
    assert overview.router == {"state": "ready"}
    (node,) = overview.nodes.values()
    assert (node["state"], node["models_ready"], node["models"]) == ("usable", 1, 1)
    (link,) = node["links"]
    assert link["is_up"]
    assert node["counts"] == [[0, 0, 0, 0]]
    model = overview.models["m/1"]
    assert (model["nodes_ready"], model["nodes_failed"], model["is_newest"]) == (1, 0, True)
    assert model["is_reached"]
    assert model["traffic"] == {"requests_per_s": 2.0}


async def test_figures_of_other_processes_are_added_as_they_change() -> None:
    fleet = Fleet()
    fleet.node("a", hang)
    (endpoint,) = fleet.view.endpoints()
    endpoint.answered = 1
    others = OthersFigures()
    making = maker(fleet, others=others)
    (node,) = run_through(making.steps()).nodes.values()
    assert node["counts"] == [[0, 0, 1, 0]]
    links = [("a", endpoint.address, 2, 3, 4)]
    others.take(links, [("m", "1", 2)], {"m": {"requests_per_s": 9.0}})
    overview = run_through(making.steps())
    (node,) = overview.nodes.values()
    assert node["counts"] == [[0, 2, 4, 4]]
    model = overview.models["m/1"]
    assert (model["requests_in_flight"], model["traffic"]) == (2, {"requests_per_s": 9.0})


async def test_drained_node_is_told_with_its_end() -> None:
    fleet = Fleet()
    fleet.node("a", hang)
    until = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)
    overview = run_through(maker(fleet, drained={PeerId("a"): until}).steps())
    (node,) = overview.nodes.values()
    assert (node["state"], node["reason"]) == (
        "draining",
        "drained until 2026-03-01 20:30 UTC, by the network's owner",
    )


async def test_life_of_a_nodes_membership_is_told_where_it_is_known() -> None:
    fleet = Fleet()
    for peer in "ab":
        fleet.node(peer, hang)
    since, until = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    member = Member(PeerId("a"), Role.NODE, "ab" * 20, since, until)
    overview = run_through(maker(fleet, members={PeerId("a"): member}).steps())
    lives = [(node["member_since"], node["member_until"]) for node in overview.nodes.values()]
    assert lives == [("2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"), (None, None)]


async def test_state_of_a_node_is_one_word_with_the_reason() -> None:
    fleet = Fleet()
    for peer in ("usable", "down", "suspected", "ejected", "draining"):
        fleet.node(peer, hang)
    by_peer = {endpoint.peer: endpoint for endpoint in fleet.endpoints}
    by_peer[PeerId("down")].link = None
    fleet.view.apply([Suspected(PeerId("suspected"))])
    by_peer[PeerId("ejected")].health.eject(0.0, "it lies")
    drained = replace(fleet.view.adverts[PeerId("draining")], is_draining=True)
    fleet.view.apply([Joined(drained)])
    nodes = made(fleet, {"down": "refused"}).nodes
    assert {peer: (row["state"], row["reason"]) for peer, row in nodes.items()} == {
        "usable": ("usable", ""),
        "down": ("unusable", "refused"),
        "suspected": ("suspected", "it was not heard of for longer than it should be"),
        "ejected": ("ejected", by_peer[PeerId("ejected")].health.reason),
        "draining": ("draining", "it takes no new requests"),
    }


async def test_models_are_counted_anew_when_an_advert_changes_and_forgotten_with_the_last_node() -> (
    None
):
    fleet = Fleet()
    made_by = maker(fleet)
    bad = offer("n", state=ModelState.FAILED, reason="it is broken")
    fleet.view.apply(
        [Joined(advert("a", models=(offer("m"), bad))), Joined(advert("b", models=(offer("m"),)))]
    )
    models = run_through(made_by.steps()).models
    assert models["m/1"]["nodes_ready"] == 2
    assert models["n/1"]["failed_at"] == [{"peer_id": "a", "reason": "it is broken"}]
    fleet.view.apply([Joined(advert("a", models=(offer("n"),))), Left(PeerId("b"), "it said so")])
    models = run_through(made_by.steps()).models
    assert list(models) == ["n/1"]
    assert (models["n/1"]["nodes_ready"], models["n/1"]["failed_at"]) == (1, [])
    fleet.view.apply([Left(PeerId("a"), "it said so")])
    overview = run_through(made_by.steps())
    assert (overview.nodes, overview.models) == ({}, {})


async def test_node_names_some_of_its_failing_models_and_those_on_the_cpu() -> None:
    fleet = Fleet()
    failing = tuple(offer(f"f{at}", state=ModelState.FAILED, reason="x" * 999) for at in range(5))
    slow = replace(offer("slow"), provider="CPUExecutionProvider")
    one = advert("a", models=(*failing, slow))
    fleet.view.apply([Joined(replace(one, devices=(replace(one.devices[0], kind="cuda"),)))])
    (node,) = made(fleet).nodes.values()
    assert (node["models_failed"], len(node["failing"]), len(node["failing"][0]["reason"])) == (
        5,
        3,
        300,
    )
    assert (node["models_on_cpu"], node["on_cpu"]) == (1, ["slow/1"])
    fleet.view.apply([Joined(replace(one, devices=(replace(one.devices[0], kind="cpu"),)))])
    (node,) = made(fleet).nodes.values()
    assert node["models_on_cpu"] == 0


@pytest.mark.parametrize(
    ("exact", "coarse"), [(0, 0), (99, 99), (104, 100), (1234, 1200), (99999, 99000)]
)
def test_round_trip_is_told_in_two_digits(exact: int, coarse: int) -> None:
    assert _coarse(exact) == coarse


async def test_row_of_a_node_is_the_same_until_something_of_it_changes() -> None:
    fleet = Fleet()
    for peer in "ab":
        fleet.node(peer, hang)
    again = maker(fleet)
    first = run_through(again.steps()).nodes
    fleet.endpoints[1].answered += 1
    second = run_through(again.steps()).nodes
    assert second["a"] is first["a"]
    assert second["b"]["counts"] == [[0, 0, 1, 0]]
    assert first["b"]["counts"] == [[0, 0, 0, 0]]
    fleet.endpoints[0].is_suspected = True
    third = run_through(again.steps()).nodes
    assert third["a"]["state"] == "suspected"
    assert third["b"] is second["b"]


async def test_requests_in_flight_are_those_of_the_model() -> None:
    fleet = Fleet()
    for peer in "abc":
        fleet.node(peer, hang, models=(offer("m"), offer("n")))
    for replica, rif in zip(
        fleet.view.replicas(ModelName("m"), ModelVersion("1")), (0, 2, 3), strict=True
    ):
        replica.rif = rif
        replica.endpoint.rif = rif
    models = made(fleet).models
    assert [models[key]["requests_in_flight"] for key in ("m/1", "n/1")] == [5, 0]


async def test_making_an_overview_pauses_between_models_with_many_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "STEP_REPLICAS", 68)
    fleet = Fleet()
    for at in range(4):
        fleet.node(f"n{at}", hang, models=tuple(offer(name) for name in "abcde"))
    for endpoint in fleet.endpoints:
        endpoint.rif = 1
    assert len(list(maker(fleet).steps())) == 6
    monkeypatch.setattr(overview, "STEP_REPLICAS", 69)
    assert len(list(maker(fleet).steps())) == 4


async def test_making_an_overview_pauses_between_nodes() -> None:
    fleet = Fleet()
    fleet.view.apply([Joined(advert(f"n{at}")) for at in range(100)])
    steps: Any = maker(fleet).steps()
    assert sum(1 for _ in steps) == 4 + 1
