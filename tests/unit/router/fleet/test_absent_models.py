from __future__ import annotations

from typing import Any

import pytest
from fleet_fakes import advert, offer

from capamesh.protocol.adverts import ModelState, NodeAdvert
from capamesh.protocol.errors import ModelFailed, ModelNotFound, ModelUnavailable, NoEndpoint
from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.router.balancing.absence import no_endpoint, not_hosted
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.fleet.absent_models import LATELY_S, MAX_LATELY
from capamesh.router.fleet.view import FleetView

M, ANY, V1 = ModelName("m"), ModelVersion(""), ModelVersion("1")


def view_of(*adverts: NodeAdvert) -> FleetView:
    view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    view.apply([Joined(one) for one in adverts])
    return view


def leave(view: FleetView, peer: str) -> None:
    view.apply([Left(PeerId(peer), LeftReason.EXPIRED)])


@pytest.mark.parametrize(
    ("state", "reason", "reported"),
    [
        (ModelState.LOADING, "", "(loading)"),
        (ModelState.LOADING, "its worker restarts", "(loading: its worker restarts)"),
        (ModelState.UNLOADED, "to make room for b", "(unloaded: to make room for b)"),
        (ModelState.UNLOADING, "", "(unloading)"),
    ],
)
def test_model_that_is_not_ready_is_unavailable_and_why(
    state: ModelState, reason: str, reported: str
) -> None:
    view = view_of(advert("A", "a:1", models=[offer("m", "1", state, reason), offer("n")]))
    for version in (ANY, V1):
        error = not_hosted(view, M, version)
        assert isinstance(error, ModelUnavailable)
        assert not isinstance(error, ModelFailed)
        assert error.retry_after_s == 2.0
        assert reported in error.message
    other = not_hosted(view, M, ModelVersion("2"))
    assert isinstance(other, ModelNotFound)
    assert other.message == "Request for unknown model: no node hosts model 'm'; hosted models: n"


def test_model_whose_last_node_has_left_is_to_be_back_for_two_minutes() -> None:
    view = view_of(advert("A"), advert("B"))
    leave(view, "A")
    leave(view, "B")
    for now_s in (5.0, 5.0 + LATELY_S - 0.1):
        view.absent.tick(now_s)
        error = not_hosted(view, M, V1)
        assert type(error) is ModelUnavailable
        assert error.retry_after_s == 5.0
        assert "was here of late" in error.message
    assert type(not_hosted(view, M, ModelVersion("2"))) is NoEndpoint  # of no node at all
    view.absent.tick(5.0 + LATELY_S)
    assert type(not_hosted(view, M, V1)) is NoEndpoint
    view.apply([Joined(advert("C", models=[offer("n")]))])
    assert type(not_hosted(view, M, V1)) is ModelNotFound


def test_memory_of_models_that_left_is_bounded() -> None:
    view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    for at in range(MAX_LATELY + 50):
        view.apply([Joined(advert("A", models=[offer(f"m{at}")]))])
        leave(view, "A")
    assert repr(view.absent) == f"AbsentModels(0 not ready, {MAX_LATELY} left of late)"
    assert type(not_hosted(view, ModelName("m49"), ANY)) is NoEndpoint
    assert type(not_hosted(view, ModelName("m50"), ANY)) is ModelUnavailable


def test_router_whose_nodes_have_all_left_says_so_until_one_is_back() -> None:
    view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    model, version = ModelName("other"), ModelVersion("")
    assert isinstance(not_hosted(view, model, version), NoEndpoint)
    view.apply([Joined(advert("A", "a:1")), Joined(advert("B", "b:1"))])
    view.apply([Left(PeerId("A"), LeftReason.GOODBYE)])
    assert isinstance(not_hosted(view, model, version), ModelNotFound)
    view.apply([Left(PeerId("B"), LeftReason.GOODBYE)])
    error = not_hosted(view, model, version)
    assert isinstance(error, NoEndpoint)
    assert error.message == (
        "this router knows of no node now: all that it had heard of have left; try again soon"
    )
    view.apply([Joined(advert("A", "a:1"))])
    assert isinstance(not_hosted(view, model, version), ModelNotFound)


def hosting(names: str, **facts: Any) -> Any:
    """Return a view of nodes that host these models, of which that is known, too."""
    view: Any = view_of(advert("A", "a:1", models=[offer(name) for name in names]))
    for name, value in facts.items():
        setattr(view, name, value)
    return view


FEW = ", ".join("abcdefghij")


@pytest.mark.parametrize(
    ("view", "version", "message"),
    [
        (hosting("m", withheld=lambda *_: "it is on trial"), "2", "it is on trial"),
        (
            hosting("ab", are_names_secret=True),
            "",
            "GET /v1/models lists those that your key is for",
        ),
        (hosting("m"), "2", "model 'm' has no version '2'; its versions: 1"),
        (hosting("abcdefghij"), "", f"no node hosts model 'm'; hosted models: {FEW}"),
        (hosting("abcdefghijkl"), "", f"{FEW} and 2 more (POST /v2/repository/index lists them)"),
    ],
)
def test_error_for_what_nobody_hosts_says_the_nearest_reason(
    view: Any, version: str, message: str
) -> None:
    error = not_hosted(view, M, ModelVersion(version))
    assert error.message.endswith(message)
    assert type(no_endpoint(view, M, ModelVersion(version), (), Eligibility())) is type(error)
