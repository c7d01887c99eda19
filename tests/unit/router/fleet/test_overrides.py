"""The operator's word on nodes: which of two counts, and that whatever comes later is held too."""

from __future__ import annotations

from fleet_fakes import advert, offer

from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.fleet.overrides import Hold, Overrides
from capamesh.router.fleet.view import FleetView
from capamesh.router.resilience.health import CircuitState

OPEN, CLOSED = CircuitState.FORCED_OPEN, CircuitState.FORCED_CLOSED
A = PeerId("A")
NOW_S = 5.0


def fleet_of(*versions: str) -> FleetView:
    view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    models = tuple(offer(version=version) for version in versions)
    view.apply([Joined(advert("A", "a:1", "a:2", models=models)), Joined(advert("B", "b:1"))])
    return view


def said(state: CircuitState | None, model: str = "", version: str = "") -> Hold:
    return Hold(A, ModelName(model), ModelVersion(version), state)


def states(view: FleetView, peer: str = "A") -> list[str]:
    """Return each way's state, and after a colon those of its models in the order of versions."""
    shown: list[str] = []
    for endpoint in view.endpoints_of(PeerId(peer)):
        replicas = sorted(view.replicas_at(endpoint), key=lambda replica: replica.offer.version)
        of = " ".join(replica.health.state(NOW_S) for replica in replicas)
        shown.append(f"{endpoint.health.state(NOW_S)}: {of}")
    return shown


def after(view: FleetView, *overrides: Hold) -> list[str]:
    kept = Overrides()
    for hold in overrides:
        kept.hold(hold)
        kept.apply_anew(view, A, NOW_S)
    return states(view)


def test_letting_go_of_a_node_lets_go_of_its_models_and_keeps_nothing_of_it() -> None:
    view, kept = fleet_of("1"), Overrides()
    for hold in (said(OPEN), said(OPEN, "m"), said(CLOSED, "m", "1")):
        kept.hold(hold)
    kept.apply_anew(view, A, NOW_S)
    assert states(view) == ["forced_open: forced_closed"] * 2
    kept.hold(said(None))
    kept.apply_anew(view, A, NOW_S)
    assert states(view) == ["closed: closed"] * 2
    assert (kept.peers, kept.of(A)) == ([], [])
    assert all(endpoint.health.is_full for endpoint in view.endpoints_of(A))
