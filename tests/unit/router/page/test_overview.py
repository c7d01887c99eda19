from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from fleet_fakes import Fleet, advert, hang, offer

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.fleet import Joined, Suspected
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import Member
from capamesh.protocol.steps import run_through
from capamesh.router.page.others import OthersFigures
from capamesh.router.page.overview import Overview, OverviewMaker


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
