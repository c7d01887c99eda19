"""What a request asks for in its parameters and what its key leaves of that, and the version that it is first sent to."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from fleet_fakes import advert
from hypothesis import given
from hypothesis import strategies as st
from replicas import Draws

from capamesh.protocol.errors import Forbidden, InvalidRequest
from capamesh.protocol.ids import ModelVersion
from capamesh.router.access.keys import OPERATOR, Key, Scope
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.requests.key_scope import check_node, constrained, within_scope
from capamesh.router.requests.parameters import priority_of, sequence_of, time_allowed_s
from capamesh.router.requests.split import NEWEST, VersionSplit
from capamesh.router.rules.constraints import ANYWHERE, Constraints


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({}, 30.0),
        ({"timeout": 0}, 30.0),
        ({"timeout": 1_500_000}, 1.5),
        ({"timeout": 90_000_000}, 30.0),
    ],
)
def test_time_allowed_is_the_callers_but_no_longer_than_the_routers(
    parameters: dict[str, object], seconds: float
) -> None:
    assert time_allowed_s(parameters, 30.0) == seconds


def allowed_s(parameters: dict[str, object]) -> float:
    return time_allowed_s(parameters, 30.0)


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        *((allowed_s, {"timeout": wrong}) for wrong in (True, -1, 1.5, "1", [])),
        *((priority_of, {"priority": wrong}) for wrong in (True, -1, 256, 1.0, "1")),
        *((sequence_of, {"sequence_id": wrong}) for wrong in (-1, 2**64, 1.5, True, "x" * 129)),
        (sequence_of, {"sequence_start": True}),
        (sequence_of, {"sequence_end": True, "sequence_id": 0}),
        (sequence_of, {"sequence_id": 1, "sequence_start": 1}),
        (sequence_of, {"sequence_id": 1, "sequence_end": "true"}),
    ],
)
def test_parameter_that_is_none_is_refused(
    read: Callable[[dict[str, object]], object], wrong: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong)).partition("_")[0]):
        read(wrong)


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


V1, V2, V3 = ModelVersion("1"), ModelVersion("2"), ModelVersion("3")
SPLIT = VersionSplit([(V1, 90.0), (V2, 10.0), (V3, 0.0)])
ALL = (V1, V2, V3)


@pytest.mark.parametrize(
    ("draw", "version"), [(0.0, V1), (0.899, V1), (0.9, V2), (0.999999, V2), (1.0, V2)]
)
def test_draw_falls_to_a_version_by_weight(draw: float, version: ModelVersion) -> None:
    assert SPLIT.pick(ALL, Draws(draw)) == version


def test_newest_version_is_asked_without_a_hosted_one_of_weight() -> None:
    assert SPLIT.pick((V3,), Draws()) == NEWEST
    assert SPLIT.pick((), Draws()) == NEWEST
    assert VersionSplit().pick(ALL, Draws()) == NEWEST


@given(st.dictionaries(st.sampled_from(ALL), st.floats(0, 1e6)), st.text(), st.integers(0, 9))
def test_pick_is_hosted_and_has_weight(
    weights: dict[ModelVersion, float], key: str, seed: int
) -> None:
    hosted = (V2, V3)
    picked = VersionSplit(weights.items()).pick(hosted, random.Random(seed), key=key)
    possible = {version for version in hosted if weights.get(version, 0) > 0}
    assert picked in (possible or {NEWEST})
