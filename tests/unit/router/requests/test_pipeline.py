"""What a permit is held for, and that it is given back however a call ends."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from fleet_fakes import Fleet, call, echo, failing, in_virtual_time

from capamesh.protocol.errors import InvalidRequest, Overloaded, RequestKills
from capamesh.router.admission.controller import AdmissionController
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions


def controller(fleet: Fleet) -> AdmissionController:
    return fleet.served().admission


@in_virtual_time
async def test_call_that_nodes_had_no_room_for_counts_as_one_whose_tenant_wants_more() -> None:
    fleet = Fleet([failing(InvalidRequest("bad"))])
    with pytest.raises(InvalidRequest):
        await fleet.infer(call(), NO_OPTIONS, 30.0)
    assert not controller(fleet).fair.is_wanted
    full = Fleet([failing(Overloaded("full", 1.0))])
    with pytest.raises(Overloaded):
        await full.infer(call(), NO_OPTIONS, 30.0)
    assert controller(full).fair.is_wanted


@pytest.mark.pure
@in_virtual_time
async def test_request_that_kills_gives_its_permit_back_though_it_was_never_sent() -> None:
    fleet = Fleet([echo])
    fleet.dispatch.killers = SimpleNamespace(  # type: ignore[assignment]
        until_s=math.inf, is_barred=lambda *_: True
    )
    with pytest.raises(RequestKills):
        await fleet.infer(call(), NO_OPTIONS, 30.0)
    assert (fleet.asked, fleet.counts) == ([0], {})


@in_virtual_time
async def test_policy_that_cannot_be_made_gives_the_permit_back() -> None:
    fleet = Fleet([echo])
    with pytest.raises(Exception, match="no-such-policy"):
        await fleet.infer(call(), RoutingOptions(policy="no-such-policy"), 30.0)
    assert fleet.counts == {}


@in_virtual_time
async def test_share_is_of_who_names_no_tenant_alone() -> None:
    fleet = Fleet([echo])
    for options in (
        NO_OPTIONS,
        RoutingOptions(share="10.0.0.1"),
        RoutingOptions(share="10.0.0.2"),
        RoutingOptions(tenant="lab", share="10.0.0.3"),
    ):
        await fleet.infer(call(), options, 30.0)
    assert sorted(controller(fleet).fair._idle) == ["", "10.0.0.1", "10.0.0.2", "lab"]
