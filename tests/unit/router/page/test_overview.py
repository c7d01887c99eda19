"""The figures of a router's other processes on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from fleet_fakes import Fleet, advert, hang, linked, offer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.fleet import Joined, Suspected
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.steps import run_through
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.view import FleetView
from capamesh.router.page.differences import differences
from capamesh.router.page.others import OthersFigures
from capamesh.router.page.overview import Overview, OverviewMaker


def made(fleet: Fleet, lost: LostNodes | None = None, **errors: str) -> Overview:
    maker = OverviewMaker(
        fleet.view,
        last_error=lambda endpoint: errors.get(endpoint.peer, ""),
        clock=lambda: 0.0,
        router=lambda: {"state": "ready"},
        traffic=lambda model: {"requests_per_s": 2.0} if model == "m" else {},
        member_of=lambda _: None,
        drained_until=lambda _: None,
        lost=lost,
    )
    return run_through(maker.steps())


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
    nodes = made(fleet, down="refused").nodes
    assert {peer: (row["state"], row["reason"]) for peer, row in nodes.items()} == {
        "usable": ("usable", ""),
        "down": ("unusable", "refused"),
        "suspected": ("suspected", "it was not heard of for longer than it should be"),
        "ejected": ("ejected", by_peer[PeerId("ejected")].health.reason),
        "draining": ("draining", "it takes no new requests"),
    }


async def test_node_names_some_of_its_failing_models_and_those_on_the_cpu() -> None:
    fleet = Fleet()
    failing = tuple(offer(f"f{at}", state=ModelState.FAILED, reason="x" * 999) for at in range(5))
    slow = replace(offer("slow"), provider="CPUExecutionProvider")
    one = advert("a", models=(*failing, slow))
    for kind, on_cpu in (("cuda", ["slow/1"]), ("cpu", [])):
        fleet.view.apply([Joined(replace(one, devices=(replace(one.devices[0], kind=kind),)))])
        (node,) = made(fleet).nodes.values()
        assert (node["models_on_cpu"], node["on_cpu"]) == (len(on_cpu), on_cpu)
        reasons = [len(each["reason"]) for each in node["failing"]]
        assert (node["models_failed"], reasons) == (5, [300] * 3)


def test_figures_told_are_those_of_the_address_and_of_the_version() -> None:
    fleet = FleetView(on_new=linked, on_gone=lambda _: None)
    fleet.apply([Joined(advert("A", "127.0.0.1:1"))])
    (endpoint,) = fleet.endpoints()
    others = OthersFigures()
    links = [("A", "127.0.0.1:1", 1, 2, 3), ("B", "127.0.0.1:1", 9, 9, 9)]
    others.take(links, [("m", "1", 4), ("m", "2", 9)], {"m": {"requests_per_s": 5.0}})
    assert tuple(others.of_link(endpoint)) == (1, 2, 3)
    assert others.of_model("m", "1") == 4
    assert others.traffic("m", {"requests_per_s": 1.0}) == {"requests_per_s": 5.0}
    assert others.traffic("n", {"requests_per_s": 1.0}) == {}


ROWS = st.dictionaries(
    st.text(max_size=2),
    st.fixed_dictionaries({"x": st.integers(0, 2), "y": st.text(max_size=2)}),
    max_size=5,
)


def applied(overview: Overview, changes: dict[str, Any]) -> Overview:
    """Do what the page's own script does."""
    tables: list[dict[str, Any]] = [dict(overview.nodes), dict(overview.models)]
    for rows, name in zip(tables, ("nodes", "models"), strict=True):
        for key, row in changes.get(name, {}).items():
            if row is None:
                del rows[key]
            else:
                rows[key] = {**rows.get(key, {}), **row}
    return Overview({**overview.router, **changes.get("router", {})}, *tables)


@given(ROWS, ROWS)
def test_differences_lead_from_one_overview_to_the_other(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    before, after = Overview({}, one, other), Overview({}, other, one)
    text = run_through(differences(before, after))
    assert applied(before, json.loads(text or b"{}")) == after


async def test_row_of_a_lost_node_has_all_that_a_row_has() -> None:
    fleet, lost = Fleet(), LostNodes()
    fleet.node("here", hang)
    models = {(ModelName(f"m{at}"), ModelVersion("1")): 1 for at in range(5)}
    lost.lost(PeerId("gone"), "<b>gone</b>", models, now_s=0.0, wall_ms=0)
    rows = made(fleet, lost).nodes
    assert rows["gone"].keys() == rows["here"].keys()  # a page merges what differs into what it had
    assert rows["here"]["lost_at"] is None
    told = ("name", "state", "reason", "models", "models_ready")
    assert [rows["gone"][key] for key in told] == [
        "<b>gone</b>",
        "lost",
        "since 1970-01-01 00:00:00 UTC; it had m0/1, m1/1, m2/1 and 2 more",
        5,
        0,
    ]
