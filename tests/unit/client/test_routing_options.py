"""What a client asks of a request's way, as a router reads it."""

from __future__ import annotations

import math

import pytest

from capamesh.client import RoutingOptions
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import PeerId
from capamesh.router.http.options import options_of
from capamesh.router.rules.constraints import Constraints


def test_every_option_is_what_the_router_understands() -> None:
    options = RoutingOptions(
        tenant="acme",
        policy="p2c",
        affinity="user 7",
        regions=("eu", "us"),
        devices=["cpu"],
        nodes=("12D3KooWa",),
        max_price=0.1,
        is_explained=True,
    )
    wishes, is_explained = options_of(options.headers())
    assert wishes.tenant == "acme"
    assert (wishes.policy, wishes.affinity) == ("p2c", "user 7")
    assert wishes.constraints == Constraints(
        0.1, frozenset({"eu", "us"}), frozenset({"cpu"}), frozenset({PeerId("12D3KooWa")})
    )
    assert is_explained
    assert RoutingOptions().headers() == {}
    assert RoutingOptions(max_price=0).headers() == {"X-Capamesh-Max-Price": "0.0"}
    assert options_of(RoutingOptions(max_price=1e-7).headers())[0].constraints.max_price == 1e-7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RoutingOptions(tenant="a\r\nX-Evil: 1"), "tenant is 'a.*printable ASCII"),
        (RoutingOptions(policy=" p2c"), "policy is ' p2c'"),
        (RoutingOptions(affinity="größe"), "affinity is"),
        (RoutingOptions(regions="eu"), r"regions is the text 'eu'; give a list: \['eu'\]"),
        (RoutingOptions(regions=("a,b",)), "regions has 'a,b'; names without commas"),
        (RoutingOptions(nodes=("",)), "nodes has ''"),
        (RoutingOptions(max_price=-1), "max_price is -1; give a number from 0"),
        (RoutingOptions(max_price=math.nan), "max_price is nan"),
    ],
)
def test_option_that_a_header_cannot_hold_is_refused(options: RoutingOptions, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        options.headers()
