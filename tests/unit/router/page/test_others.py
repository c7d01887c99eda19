"""The figures of a router's other processes on the page."""

from __future__ import annotations

from fleet_fakes import advert, linked

from capamesh.protocol.fleet import Joined
from capamesh.router.fleet.view import FleetView
from capamesh.router.page.others import OthersFigures


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
