"""What a caller is told whose request nobody can be asked to run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from capamesh.protocol.errors import CapameshError, ModelNotFound, ModelUnavailable, NoEndpoint
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.balancing.absence import no_endpoint, not_hosted
from capamesh.router.balancing.eligibility import Eligibility

M, V1 = ModelName("m"), ModelVersion("1")


def view(
    *models: str,
    versions: tuple[str, ...] = (),
    withheld: str = "",
    absent: CapameshError | None = None,
    has: bool = False,
    is_secret: bool = False,
) -> Any:
    """Return a fleet's view in which that is known."""
    return SimpleNamespace(
        adverts=dict.fromkeys(models),
        has_had_nodes=bool(models),
        has=lambda *_: has,
        models=lambda: list(models),
        versions=lambda _: list(versions),
        are_names_secret=is_secret,
        withheld=lambda *_: withheld,
        absent=SimpleNamespace(error=lambda *_: absent),
    )


AWAY = ModelUnavailable("no room")


@pytest.mark.parametrize(
    ("fleet_view", "kind", "message"),
    [
        (view("m", withheld="it is on trial", absent=AWAY), NoEndpoint, "it is on trial"),
        (view("m", absent=AWAY), ModelUnavailable, "no room"),
        (view(), NoEndpoint, "this router has not heard of any node yet; try again soon"),
        (
            view("m", versions=("2", "3")),
            ModelNotFound,
            "model 'm' has no version '1'; its versions: 2, 3",
        ),
        (
            view("a", "b", is_secret=True),
            ModelNotFound,
            "no node hosts model 'm'; GET /v1/models lists those that your key is for",
        ),
        (view("a", "b"), ModelNotFound, "no node hosts model 'm'; hosted models: a, b"),
        (
            view(*"abcdefghij"),
            ModelNotFound,
            "no node hosts model 'm'; hosted models: a, b, c, d, e, f, g, h, i, j",
        ),
        (
            view(*"abcdefghijkl"),
            ModelNotFound,
            "no node hosts model 'm'; hosted models: a, b, c, d, e, f, g, h, i, j and 2 more"
            " (POST /v2/repository/index lists them)",
        ),
    ],
)
def test_error_for_what_nobody_hosts_says_the_nearest_reason(
    fleet_view: Any, kind: type[CapameshError], message: str
) -> None:
    error = not_hosted(fleet_view, M, V1)
    assert (type(error), error.message) == (kind, message)
    assert type(no_endpoint(fleet_view, M, V1, (), Eligibility())) is kind
