"""Made-up clients of gRPC, sound and broken, and routers over HTTP/2 by hand and by each library: see `grpc_fuzz`."""

from __future__ import annotations

import time

import pytest
from fleet_fakes import in_virtual_time
from grpc_fuzz import fuzz, until

CASES = 150
SECONDS = 600.0


@in_virtual_time
async def test_routers_answer_made_up_clients_alike_however_they_speak_http2() -> None:
    counts = await fuzz(iter(range(CASES)))
    assert counts["cases"] == CASES
    assert 0.3 * CASES < counts["sound"] < 0.7 * CASES
    assert counts["answered_by_all"] > CASES
    assert counts["sound_messages"] > 0.5 * counts["messages"]


@pytest.mark.slow
@in_virtual_time
async def test_routers_answer_alike_for_ten_minutes() -> None:
    counts = await fuzz(until(time.monotonic() + SECONDS, CASES))
    assert counts["answered_by_all"] > counts["cases"]
