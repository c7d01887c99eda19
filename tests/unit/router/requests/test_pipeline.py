"""What a permit is held for, and that it is given back however a call ends."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from fleet_fakes import Fleet, call, echo

from capamesh.protocol.errors import RequestKills
from capamesh.router.requests.call import NO_OPTIONS


@pytest.mark.pure
async def test_request_that_kills_gives_its_permit_back_though_it_was_never_sent() -> None:
    fleet = Fleet([echo])
    fleet.dispatch.killers = SimpleNamespace(  # type: ignore[assignment]
        until_s=math.inf, is_barred=lambda *_: True
    )
    with pytest.raises(RequestKills):
        await fleet.infer(call(), NO_OPTIONS, 30.0)
    assert (fleet.asked, fleet.counts) == ([0], {})
