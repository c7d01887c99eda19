"""The nodes and the tenant that a key leaves to a request, and to a command."""

from __future__ import annotations

import math

import pytest
from fleet_fakes import advert

from capamesh.protocol.errors import Forbidden
from capamesh.router.access.keys import OPERATOR, Key, Scope
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.requests.key_scope import check_node, constrained, within_scope
from capamesh.router.rules.constraints import ANYWHERE, Constraints


def key(max_price: float | None = None, regions: tuple[str, ...] = ()) -> Key:
    return Key("k", b"", "lab", Scope(max_price=max_price, regions=regions))


def test_request_with_a_key_is_its_tenants_and_at_its_nodes() -> None:
    options = within_scope(NO_OPTIONS, key(2.0, ("eu",)))
    assert options == RoutingOptions(Constraints(2.0, frozenset({"eu"})), tenant="lab")
    assert within_scope(NO_OPTIONS, key()).constraints is ANYWHERE
    with pytest.raises(Forbidden, match="another's"):
        within_scope(RoutingOptions(tenant="rich"), key())


def test_request_may_ask_for_less_than_its_key_but_not_for_more() -> None:
    of_key = key(2.0, ("eu", "us"))
    assert constrained(Constraints(1.0, frozenset({"eu", "mars"})), of_key) == Constraints(
        1.0, frozenset({"eu"})
    )
    assert constrained(Constraints(9.0), of_key) == Constraints(2.0, frozenset({"eu", "us"}))
    devices = frozenset({"cpu"})
    assert constrained(Constraints(device_kinds=devices), key(0.0)) == Constraints(
        0.0, None, devices
    )
    with pytest.raises(Forbidden, match="names the regions mars, and the key is for eu, us"):
        constrained(Constraints(regions=frozenset({"mars"})), of_key)


def test_request_that_asks_for_no_node_at_all_gets_none() -> None:
    nowhere = Constraints(regions=frozenset())
    with pytest.raises(Forbidden):
        constrained(nowhere, key(regions=("eu",)))
    assert constrained(nowhere, key(3.0)).regions == frozenset()


@pytest.mark.parametrize(
    ("max_price", "regions", "is_for"),
    [
        (None, (), True),
        (1.5, (), True),
        (math.nextafter(1.5, 0.0), (), False),
        (None, ("us", "eu"), True),
        (None, ("us",), False),
        (9.0, ("us",), False),
    ],
)
def test_command_is_for_the_nodes_of_its_key(
    max_price: float | None, regions: tuple[str, ...], is_for: bool
) -> None:
    node = advert("A")  # of the region "eu", at 1.5
    try:
        check_node(key(max_price, regions), node)
    except Forbidden:
        assert not is_for
    else:
        assert is_for


def test_command_on_a_node_that_nobody_hears_of_takes_a_key_for_all() -> None:
    check_node(key(), None)
    check_node(OPERATOR, None)
    check_node(None, None)
    with pytest.raises(Forbidden):
        check_node(key(9.0), None)
    with pytest.raises(Forbidden):
        check_node(key(regions=("eu",)), None)
